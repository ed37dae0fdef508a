//! Every signature of the protocol, computed with `ring` and with padding rules written here: the
//! product uses other crates, so one mistake cannot hide on both sides. Documents: "PostObject"
//! (V1 and V4), "Include a V4 signature in the Authorization header", "Callback", "Request syntax
//! and signature method V2 for RPC APIs".

use ring::{digest, hmac};
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::EncodePublicKey;
use rsa::{Pkcs1v15Sign, RsaPrivateKey};

use crate::digest::{base64, from_base64, hex, md5, percent_decode, percent_encode};

pub const V4_ALGORITHM: &str = "OSS4-HMAC-SHA256";
pub const V4_REQUEST: &str = "aliyun_v4_request";

/// PostObject, V1: base64(HMAC-SHA1(secret, base64 policy)).
pub fn post_v1(secret: &str, policy: &str) -> String {
    base64(&mac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes(), policy.as_bytes()))
}

/// V4, for a policy or for a header's string to sign: hex(HMAC-SHA256(signing key, text)).
pub fn v4(secret: &str, date: &str, region: &str, text: &str) -> String {
    hex(&mac(hmac::HMAC_SHA256, &v4_key(secret, date, region), text.as_bytes()))
}

fn v4_key(secret: &str, date: &str, region: &str) -> Vec<u8> {
    let mut key = format!("aliyun_v4{secret}").into_bytes();
    for part in [date, region, "oss", V4_REQUEST] {
        key = mac(hmac::HMAC_SHA256, &key, part.as_bytes());
    }
    key
}

/// STS: base64(HMAC-SHA1(secret and `&`, text)).
pub fn rpc(secret: &str, text: &str) -> String {
    let key = format!("{secret}&");
    base64(&mac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes(), text.as_bytes()))
}

/// STS: the method, the path `/` and the parameters but `Signature`, which are sorted by name and
/// then encoded twice, once as a query and once as a part of this text.
pub fn rpc_string_to_sign(method: &str, params: &[(String, String)]) -> String {
    let mut params: Vec<_> = params.iter().filter(|(name, _)| name != "Signature").collect();
    params.sort();
    let query: Vec<String> = params
        .iter()
        .map(|(name, value)| format!("{}={}", percent_encode(name), percent_encode(value)))
        .collect();
    format!("{method}&%2F&{}", percent_encode(&query.join("&")))
}

fn mac(algorithm: hmac::Algorithm, key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, key), text).as_ref().to_vec()
}

pub fn sha256_hex(text: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, text).as_ref())
}

/// What "Callback" leaves open about the decoding of a path. By default as RFC 3986 has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathDecoding {
    /// `+` becomes a blank, as in a form.
    pub plus_is_blank: bool,
    /// `%2F` stays as it is, so that it does not become a separator.
    pub keep_slash: bool,
}

/// Callback: percent-decoded path, the raw query behind `?` if there is one, a line feed, the body.
pub fn callback_string_to_sign(target: &str, body: &[u8], decoding: PathDecoding) -> Vec<u8> {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut path = path.to_string();
    if decoding.plus_is_blank {
        path = path.replace('+', " ");
    }
    if decoding.keep_slash {
        path = path.replace("%2F", "%252F").replace("%2f", "%252f");
    }
    let mut text = percent_decode(&path);
    text.extend_from_slice(query.as_bytes());
    text.push(b'\n');
    text.extend_from_slice(body);
    text
}

/// Made for these tests with `openssl genrsa -traditional 512`, which OpenSSL 3 still grants. It
/// protects nothing and is public on purpose: tests of the adversary sign with it.
pub const PRIVATE_KEY_PEM: &str = "-----BEGIN RSA PRIVATE KEY-----
MIIBOwIBAAJBALexEiPbY57LHjhzs9ni+ODWN8nmACbu4Q9atMaoEkO4cepDu9H0
ySwQTLQXDdB3g5XSF5HbtrIHn6tDzYlMedcCAwEAAQJBAK2RVeeltGLl4D9NLILU
EYA5SeuvNTOUgfpFJg2T3/Y1pyUJbBdnj6xIYvy+D5NPYLvVquogYJhtOsmOSM5l
DRkCIQDc4qkW/HvgM1qdarNhmOpfiWj73k3Hn0a0z03YynulAwIhANTkvlpmvVHY
JUtSMuK8LweExXN+GJYcE5jh2fm0Em2dAiAPrPpJClQUPjDBGTBvzbVcYFkV/tnQ
P+p5rHie2QfbVwIhAJshL1/aW3vm/436EKBNNgvJgMOej7XaMaGGeXpN79u1AiBN
seNsRSNlgHgQylYxh0Uyjczj7c/F9ypfa0w6ZT5Pfg==
-----END RSA PRIVATE KEY-----
";

/// A second one, made in the same way: the key of somebody who is not OSS.
pub const STRANGER_KEY_PEM: &str = "-----BEGIN RSA PRIVATE KEY-----
MIIBOgIBAAJBAMz4dcKyOzSUyhdvlvwpSneu+Pjkv5CbszeyYNguw7hD3dXft0hX
Jn0fTveK/GtRJe5kYBJbm3FWKndvXuG+MI0CAwEAAQJARwVAKHoBMbLsYzpzImRc
PSQPeI4qIj0Q2BeinsV1Y37hfaLdjzH45ViIZDP/hmBkifKnJq8WI7ktLyqjMR19
gQIhAPIonK2wVy9xa0nJ3bXEIAKK3cCqBW02SgFl0e6RqxxVAiEA2K+xZGPr2hpX
vOJR6wo4Rn2lAPn3P3hWmczwQBCS+1kCIQDsPE5M6yDCucTOoU3XCtOnZ01ZrQPK
PRIJNwmL0TO6WQIgSsyDYNM5VEWpqdM6UfdqK7MtpWOkXO2Of3MGMCdIhakCIFrW
+FNeMMmoabV9UEXlKS5/Dpd6x7Mi8F4Yd/LfJb3N
-----END RSA PRIVATE KEY-----
";

/// RFC 8017, 9.2: the DER of a DigestInfo that names MD5, up to the 16 bytes of the digest.
const MD5_INFO: [u8; 18] = [
    0x30, 0x20, 0x30, 0x0c, 0x06, 0x08, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x05, 0x05, 0x00,
    0x04, 0x10,
];

fn padding() -> Pkcs1v15Sign {
    Pkcs1v15Sign { hash_len: Some(16), prefix: MD5_INFO.into() }
}

fn der(pem: &str) -> Option<Vec<u8>> {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    from_base64(&base64)
}

/// The key that signs callbacks.
#[derive(Clone)]
pub struct CallbackKey(RsaPrivateKey);

impl CallbackKey {
    /// Reads a PKCS#1 PEM.
    pub fn from_pem(pem: &str) -> Option<CallbackKey> {
        RsaPrivateKey::from_pkcs1_der(&der(pem)?).ok().map(CallbackKey)
    }

    /// The value of the `authorization` header: base64(RSASSA-PKCS1-v1_5 over MD5).
    pub fn sign(&self, target: &str, body: &[u8], decoding: PathDecoding) -> String {
        let digest = md5(&callback_string_to_sign(target, body, decoding));
        base64(
            &self.0.sign(padding(), &digest).expect("512 bits hold the 34 bytes of a DigestInfo"),
        )
    }

    pub fn public_pem(&self) -> String {
        let der = self.0.to_public_key().to_public_key_der().expect("a public key has a DER form");
        let base64 = base64(der.as_bytes());
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for line in base64.as_bytes().chunks(64) {
            pem.extend(line.iter().map(|byte| char::from(*byte)));
            pem.push('\n');
        }
        pem + "-----END PUBLIC KEY-----\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsa::RsaPublicKey;
    use rsa::pkcs8::DecodePublicKey;
    use serde_json::Value;

    /// Policies signed by the npm package ali-oss 6.23.0 (`signPostObjectPolicyV4`,
    /// `calculatePostSignature`).
    #[test]
    fn post_policies_of_the_official_sdk() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../vectors/post-policy.json")).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 2);
        for vector in vectors {
            let [secret, region, policy] = ["accessKeySecret", "region", "policy_base64"]
                .map(|name| vector[name].as_str().unwrap());
            assert_eq!(hex(&v4_key(secret, "20231203", region)), vector["signingKey_hex"]);
            assert_eq!(v4(secret, "20231203", region, policy), vector["x_oss_signature_v4"]);
            assert_eq!(post_v1(secret, policy), vector["Signature_v1"]);
        }
    }

    /// DescribeRegions, the example of the ECS API's page on signatures, "API 签名机制(示例)". It
    /// was first published with `TimeStamp` (still at developer.aliyun.com/ask/210168), later with
    /// `Timestamp`; each has a signature of its own.
    #[test]
    fn documented_rpc_request() {
        for (stamp, signature) in [
            ("Timestamp", "OLeaidS1JvxuMvnyHOwuJ+uX5qY="),
            ("TimeStamp", "CT9X0VtwR86fNWSnsc6v8YGOjuE="),
        ] {
            let query = format!(
                "{stamp}=2016-02-23T12:46:24Z&Format=XML&AccessKeyId=testid&Action=DescribeRegions\
                 &SignatureMethod=HMAC-SHA1&SignatureNonce=3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf\
                 &Version=2014-05-26&SignatureVersion=1.0&Signature=left%20out"
            );
            let params: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            let text = rpc_string_to_sign("GET", &params);
            let expected = format!(
                "GET&%2F&AccessKeyId%3Dtestid%26Action%3DDescribeRegions%26Format%3DXML\
                 %26SignatureMethod%3DHMAC-SHA1\
                 %26SignatureNonce%3D3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf\
                 %26SignatureVersion%3D1.0%26{stamp}%3D2016-02-23T12%253A46%253A24Z\
                 %26Version%3D2014-05-26"
            );
            assert_eq!(text, expected);
            assert_eq!(rpc("testsecret", &text), signature);
        }
    }

    /// The example of Alibaba Cloud's "Callback" page (older revisions), signed with the real key.
    #[test]
    fn documented_callback() {
        let real: Value =
            serde_json::from_str(include_str!("../../vectors/callback-real.json")).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let der = der(&text(&real["public_key_pem"])).unwrap();
        let key = RsaPublicKey::from_public_key_der(&der).unwrap();
        let vector = &real["vectors"][0];
        let [target, body] = ["request_target", "body"].map(|name| text(&vector[name]));
        let signed = callback_string_to_sign(&target, body.as_bytes(), PathDecoding::default());
        assert_eq!(signed, text(&vector["string_to_sign"]).into_bytes());
        assert_eq!(hex(&md5(&signed)), vector["md5_hex"]);
        let signature = from_base64(&text(&vector["authorization"])).unwrap();
        assert!(key.verify(padding(), &md5(&signed), &signature).is_ok());
        assert!(key.verify(padding(), &md5(b"other"), &signature).is_err());
    }

    #[test]
    fn string_to_sign_decodes_the_path_once_and_leaves_the_query() {
        for (target, plus_is_blank, keep_slash, expected) in [
            ("/", false, false, "/\nx"),
            ("/?a=%41", false, false, "/?a=%41\nx"),
            ("/a%20b+c", false, false, "/a b+c\nx"),
            ("/%2541?%2541?x", false, false, "/%41?%2541?x\nx"),
            ("/a?", false, false, "/a?\nx"),
            ("/a+b%2Fc%2fd%2B?a+b%2F", false, false, "/a+b/c/d+?a+b%2F\nx"),
            ("/a+b%2Fc%2fd%2B?a+b%2F", true, false, "/a b/c/d+?a+b%2F\nx"),
            ("/a+b%2Fc%2fd%2B?a+b%2F", false, true, "/a+b%2Fc%2fd+?a+b%2F\nx"),
        ] {
            let decoding = PathDecoding { plus_is_blank, keep_slash };
            let text = callback_string_to_sign(target, b"x", decoding);
            assert_eq!(text, expected.as_bytes(), "{target}");
        }
    }

    /// `printf '/index.php?id=1&index=2\nbucket=yonghu-test' | openssl dgst -md5 -sign key.pem` and
    /// `openssl rsa -in key.pem -pubout`.
    #[test]
    fn our_key_signs_as_openssl_does() {
        let key = CallbackKey::from_pem(PRIVATE_KEY_PEM).unwrap();
        assert_eq!(
            key.sign("/index.php?id=1&index=2", b"bucket=yonghu-test", PathDecoding::default()),
            "sIB2MimYtfVVKqVcFzcyapMrvlSZoE31zVNOGG5lrViajv5PnwZVHPH8hvO04OiP\
             7RVWrzvMIvjS+n1yETt0wQ=="
        );
        assert_eq!(
            key.public_pem(),
            "-----BEGIN PUBLIC KEY-----\n\
            MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALexEiPbY57LHjhzs9ni+ODWN8nmACbu\n\
            4Q9atMaoEkO4cepDu9H0ySwQTLQXDdB3g5XSF5HbtrIHn6tDzYlMedcCAwEAAQ==\n\
            -----END PUBLIC KEY-----\n"
        );
        assert!(CallbackKey::from_pem(STRANGER_KEY_PEM).is_some());
        assert!(CallbackKey::from_pem("no key").is_none());
    }
}
