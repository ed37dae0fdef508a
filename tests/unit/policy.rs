//! Policies: known answers (tests/vectors/post-policy.json says where from), and what is pinned.

use std::collections::BTreeSet;

use appserver::oss::credentials::{Credentials, Secret};
use appserver::oss::policy::{self, Terms};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

const NOW: u64 = 1_701_605_532; // 2023-12-03T12:12:12Z

fn terms(callback: Option<&str>, content_types: &[String]) -> Terms<'static> {
    Terms {
        host: "https://examplebucket.oss-cn-hangzhou.aliyuncs.com",
        bucket: "examplebucket",
        region: "cn-hangzhou",
        prefix: "user/eric/".to_owned(),
        max_bytes: 10_485_760,
        content_types: content_types.to_vec(),
        forbid_overwrite: false,
        callback: callback.map(str::to_owned),
        now: NOW,
        expire: NOW + 30,
    }
}

fn credentials(token: Option<&str>) -> Credentials {
    Credentials {
        access_key_id: "ak".into(),
        access_key_secret: Secret::new("sk".into()),
        security_token: token.map(|token| Secret::new(token.into())),
    }
}

fn decoded(policy: &Value) -> Value {
    let text = BASE64.decode(policy.as_str().unwrap()).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Known answers of HMAC-SHA1 (V1) and HMAC-SHA256 (V4), by Alibaba's SDK.
#[test]
fn signatures_are_those_of_alibabas_sdk() {
    let text = include_str!("../vectors/post-policy.json");
    let file: Value = serde_json::from_str(text).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 2);
    for vector in vectors {
        let field = |name: &str| vector[name].as_str().unwrap();
        let policy = BASE64.encode(field("policy_json"));
        assert_eq!(policy, field("policy_base64"));
        let secret = field("accessKeySecret");
        assert_eq!(policy::signature_v1(secret, &policy), field("Signature_v1"));
        let key = policy::signing_key(secret, "20231203", field("region"));
        assert_eq!(policy::hex(&key), field("signingKey_hex"));
        let signature = policy::hex(&policy::hmac_sha256(&key, policy.as_bytes()));
        assert_eq!(signature, field("x_oss_signature_v4"));
    }
}

/// The whole of a V4 policy, its conditions and its form fields.
#[test]
fn v4_carries_the_sdks_credential_and_date_and_signs_what_it_sends() {
    let answer = policy::answer_v4(&terms(None, &[]), &credentials(None));
    let credential = "ak/20231203/cn-hangzhou/oss/aliyun_v4_request";
    assert_eq!(answer["x_oss_date"], "20231203T121212Z");
    assert_eq!(answer["x_oss_credential"], credential);
    assert_eq!(answer["x_oss_signature_version"], "OSS4-HMAC-SHA256");
    assert_eq!(answer["expire"], NOW + 30);
    assert_eq!(answer.get("security_token"), None);
    assert_eq!(
        decoded(&answer["policy"]),
        json!({ "expiration": "2023-12-03T12:12:42Z", "conditions": [
            { "bucket": "examplebucket" },
            ["starts-with", "$key", "user/eric/"],
            ["content-length-range", 0, 10_485_760],
            { "x-oss-signature-version": "OSS4-HMAC-SHA256" },
            { "x-oss-credential": credential },
            { "x-oss-date": "20231203T121212Z" },
        ]})
    );
    let key = policy::signing_key("sk", "20231203", "cn-hangzhou");
    let policy = answer["policy"].as_str().unwrap();
    let signature = policy::hex(&policy::hmac_sha256(&key, policy.as_bytes()));
    assert_eq!(answer["signature"], signature);
    assert_eq!(
        answer["fields"],
        json!({
            "key": "user/eric/${filename}",
            "policy": policy,
            "success_action_status": "200",
            "x-oss-credential": credential,
            "x-oss-date": "20231203T121212Z",
            "x-oss-signature": signature,
            "x-oss-signature-version": "OSS4-HMAC-SHA256",
        })
    );
}

/// The JSON of the original samples.
#[test]
fn v1_is_the_original_json() {
    let callback = policy::callback_parameter("http://a.example/", "bucket=${bucket}", "text");
    let answer = policy::answer_v1(&terms(Some(&callback), &[]), &credentials(None));
    let policy = answer["policy"].as_str().unwrap();
    assert_eq!(answer["accessid"], "ak");
    assert_eq!(answer["host"], "https://examplebucket.oss-cn-hangzhou.aliyuncs.com");
    assert_eq!(answer["signature"], policy::signature_v1("sk", policy));
    assert_eq!(answer["expire"], NOW + 30);
    assert_eq!(answer["callback"], callback);
    assert_eq!(answer["dir"], "user/eric/");
    assert_eq!(answer["method"], "POST");
    assert_eq!(answer["url"], answer["host"]);
    assert_eq!(answer["fields"]["OSSAccessKeyId"], "ak");
    assert_eq!(answer["fields"]["callback"], callback);
    assert_eq!(answer["fields"]["signature"], answer["signature"]);
}

/// Clients read these and no others: an empty token, an envelope or a `key` breaks some that work.
#[test]
fn both_answers_have_the_names_that_clients_read_and_no_more() {
    let ids = ["accessid", "accessId", "accessKeyId", "ossAccessKeyId", "OSSAccessKeyId"];
    let tokens = ["security_token", "x-oss-security-token"];
    let both =
        ["callback", "dir", "expire", "fields", "host", "method", "policy", "signature", "url"];
    let v4 = ["version", "x_oss_credential", "x_oss_date", "x_oss_signature_version"];
    let has = |answer: &Value, lists: &[&[&str]]| {
        let names: BTreeSet<&str> =
            answer.as_object().unwrap().keys().map(|name| &**name).collect();
        assert_eq!(names, lists.concat().into_iter().collect());
    };
    let terms = terms(None, &[]);
    let (lasting, temporary) = (credentials(None), credentials(Some("token==")));
    let [old, new] = [&lasting, &temporary].map(|key| policy::answer_v1(&terms, key));
    has(&old, &[&both, &ids]);
    has(&new, &[&both, &ids, &tokens]);
    for name in ids {
        assert_eq!((&old[name], &new[name]), (&json!("ak"), &json!("ak")), "{name}");
    }
    for name in tokens {
        assert_eq!(new[name], "token==", "{name}");
    }
    let [old, new] = [&lasting, &temporary].map(|key| policy::answer_v4(&terms, key));
    has(&old, &[&both, &v4]);
    has(&new, &[&both, &v4, &tokens[..1]]);
    assert_eq!(
        (&old["version"], &new["security_token"]),
        (&json!("OSS4-HMAC-SHA256"), &json!("token=="))
    );
}

/// Callback, overwriting, STS token and content types are conditions of the policy.
#[test]
fn everything_configured_is_pinned_and_among_the_fields() {
    let types = ["image/png".to_owned()];
    let mut terms = terms(Some("Y2FsbGJhY2s="), &types);
    terms.forbid_overwrite = true;
    for answer in [policy::answer_v1, policy::answer_v4] {
        let answer = answer(&terms, &credentials(Some("token==")));
        let policy = decoded(&answer["policy"]);
        let conditions = policy["conditions"].as_array().unwrap();
        for pinned in [
            json!({ "callback": "Y2FsbGJhY2s=" }),
            json!({ "x-oss-forbid-overwrite": "true" }),
            json!({ "x-oss-security-token": "token==" }),
            json!(["eq", "$content-type", "image/png"]),
        ] {
            assert!(conditions.contains(&pinned), "{pinned} in {policy}");
        }
        let fields = &answer["fields"];
        assert_eq!(fields["callback"], "Y2FsbGJhY2s=");
        assert_eq!(fields["x-oss-forbid-overwrite"], "true");
        assert_eq!(fields["x-oss-security-token"], "token==");
        assert_eq!(fields["Content-Type"], "image/png");
    }
    let several = ["image/png".to_owned(), "image/jpeg".to_owned()];
    terms.content_types = several.to_vec();
    let answer = policy::answer_v4(&terms, &credentials(None));
    let policy = decoded(&answer["policy"]);
    let listed = json!(["in", "$content-type", ["image/png", "image/jpeg"]]);
    assert!(policy["conditions"].as_array().unwrap().contains(&listed));
    assert_eq!(answer["fields"].get("Content-Type"), None);
}

/// `callbackSNI`, without which OSS sends no server name in TLS.
#[test]
fn callback_parameter_asks_for_sni_when_any_url_is_https() {
    let parameter = |url| {
        let text = BASE64.decode(policy::callback_parameter(url, "b=${bucket}", "t/t")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    assert_eq!(
        parameter("http://a.example/cb"),
        json!({ "callbackUrl": "http://a.example/cb", "callbackBody": "b=${bucket}",
                "callbackBodyType": "t/t" })
    );
    assert_eq!(parameter("http://a.example;https://b.example")["callbackSNI"], true);
}
