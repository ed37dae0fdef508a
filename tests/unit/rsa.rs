//! The verification of callbacks against `rsa`'s own: random keys, signatures and forgeries.

use appserver::oss::callback::{Claim, PublicKey};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use md5::{Digest, Md5};
use rsa::pkcs8::{DecodePrivateKey, EncodePublicKey};
use rsa::rand_core::{CryptoRng, Error, RngCore};
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use rsa::{BigUint, Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey};

/// The same keys every time (splitmix64).
struct Rng(u64);

impl CryptoRng for Rng {}

impl RngCore for Rng {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.next_u64() as u8);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

fn key_of(key: &RsaPublicKey) -> Option<PublicKey> {
    let der = BASE64.encode(key.to_public_key_der().unwrap().as_bytes());
    PublicKey::from_pem(&format!("-----BEGIN PUBLIC KEY-----{der}-----END PUBLIC KEY-----"))
}

fn ours(key: &PublicKey, signature: &[u8], body: &[u8]) -> bool {
    let claim = Claim::new(&BASE64.encode(signature), "", "/", body).unwrap();
    claim.verify(key).is_ok()
}

fn theirs(key: &RsaPublicKey, signature: &[u8], body: &[u8]) -> bool {
    let digest = Md5::digest([b"/\n", body].concat());
    key.verify(Pkcs1v15Sign::new::<Md5>(), &digest, signature).is_ok()
}

/// rsa: the verification of signatures says the same as another one, of keys of many sizes and
/// exponents.
#[test]
fn ours_and_theirs_agree() {
    let keys = support::rounds(4, 1);
    let (mut good, mut rng) = (0, Rng(7));
    for bits in [352, 368, 509, 512, 520, 575, 576, 577, 640, 1000, 1024, 1031] {
        for exponent in [3, 17, 65_537, (1 << 32) + 1] {
            for _ in 0..keys {
                // There may be no such key, or one too short for this padding.
                let private = RsaPrivateKey::new_with_exp(&mut rng, bits, &exponent.into());
                good += private.map_or(0, |private| agreements(&private, bits, exponent));
            }
        }
    }
    assert!(good > 225 * keys, "{good}");
}

/// The same of long keys, which are too slow to make to be others each time.
#[test]
fn ours_and_theirs_agree_on_long_keys() {
    let text = support::documents::text("tests/vectors/rsa-keys.pem");
    let mut pems = text.split("-----BEGIN PRIVATE KEY-----").skip(1);
    for (bits, exponent) in [(4096, 65_537), (2047, 17), (2047, (1 << 32) + 1), (2048, 65_537)] {
        let pem = pems.next().unwrap().split("-----END").next().unwrap();
        let der = BASE64.decode(pem.split_whitespace().collect::<String>()).unwrap();
        let private = RsaPrivateKey::from_pkcs8_der(&der).unwrap();
        assert_eq!(agreements(&private, bits, exponent), 8);
    }
}

/// Compares the two under a key; how many good signatures they agreed on.
fn agreements(private: &RsaPrivateKey, bits: usize, exponent: u64) -> usize {
    let public = private.to_public_key();
    assert_eq!((public.n().bits(), public.e()), (bits, &exponent.into()));
    let key = key_of(&public).unwrap();
    let both_refuse = |signature: &[u8], body: &[u8]| {
        assert!(!ours(&key, signature, body) && !theirs(&public, signature, body));
    };
    let mut good = 0;
    for turn in 0..8u8 {
        let body = [turn; 9];
        let digest = Md5::digest([b"/\n", &body[..]].concat());
        let signed = private.sign(Pkcs1v15Sign::new::<Md5>(), &digest);
        let Ok(signature) = signed else { continue };
        assert!(ours(&key, &signature, &body) && theirs(&public, &signature, &body));
        good += 1;
        // The same number and n: below the modulus of signatures, not below n.
        let more = (BigUint::from_bytes_be(&signature) + public.n()).to_bytes_be();
        if more.len() == signature.len() {
            both_refuse(&more, &body);
        }
        both_refuse(&signature, b"other");
        both_refuse(&signature[1..], &body);
        both_refuse(&[b"\0", &signature[..]].concat(), &body);
        for at in [0, 1, signature.len() / 2, signature.len() - 1] {
            let mut forged = signature.clone();
            forged[at] ^= 1 << turn;
            both_refuse(&forged, &body);
        }
    }
    let (n, zero, one) = (public.n(), BigUint::from(0u8), BigUint::from(1u8));
    for edge in [zero, one, n - 1u8, n.clone(), n + 1u8] {
        let bytes = edge.to_bytes_be();
        both_refuse(&[vec![0; public.size() - bytes.len()], bytes].concat(), b"");
    }
    both_refuse(&vec![0xff; public.size()], b"");
    both_refuse(&[1], b"");
    both_refuse(&[], b"");
    let even = RsaPublicKey::new_unchecked(n - 1u8, public.e().clone());
    assert!(key_of(&even).is_none());
    good
}

/// What a good key opens to anything but the one encoding: padding that is short, not of 0xff or
/// of another type, a DigestInfo without its NULL or with another's, bytes after the digest.
#[test]
fn only_the_one_encoding_is_good() {
    let private = RsaPrivateKey::new_with_exp(&mut Rng(11), 1024, &65_537u32.into()).unwrap();
    let (public, body) = (private.to_public_key(), b"x");
    let key = key_of(&public).unwrap();
    let digest = Md5::digest([b"/\n", &body[..]].concat());
    let info = |head: &[u8]| [head, &digest].concat();
    let md5 = info(b"\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\0\x04\x10");
    let without_null = info(b"\x30\x1e\x30\x0a\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x04\x10");
    let of_md4 = info(b"\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x04\x05\0\x04\x10");
    let encoded = |start: &[u8], fill: u8, rest: &[u8]| {
        let missing = 128 - start.len() - rest.len();
        [start, &vec![fill; missing], rest].concat()
    };
    let zero = |rest: &[u8]| [b"\0", rest].concat();
    let verdict = |message: &[u8]| {
        let power = BigUint::from_bytes_be(message).modpow(private.d(), public.n()).to_bytes_be();
        let signature = [vec![0; 128 - power.len()], power].concat();
        let verdict = ours(&key, &signature, body);
        assert_eq!(verdict, theirs(&public, &signature, body));
        verdict
    };
    assert!(verdict(&encoded(&[0, 1], 0xff, &zero(&md5))));
    for forged in [
        encoded(&[0, 1], 0xff, &zero(&without_null)),
        encoded(&[0, 1], 0xff, &zero(&of_md4)),
        encoded(&[0, 1], 0xff, &zero(&digest)),
        encoded(&[0, 1], 0xff, &[&zero(&md5)[..], b"\0"].concat()),
        encoded(&[0, 1], 0xfe, &zero(&md5)),
        encoded(&[0, 2], 0xff, &zero(&md5)),
        encoded(&[0, 0], 0xff, &zero(&md5)),
        encoded(&[0, 1], 0xff, &[b"\x01", &md5[..]].concat()),
        // Bleichenbacher's: all is there, the padding short, and what follows is the forger's.
        [&[0, 1][..], &[0xff; 8], &zero(&md5), &[7; 128 - 10 - 35]].concat(),
        [&[0, 1][..], &zero(&md5), &[0xff; 128 - 2 - 35]].concat(),
    ] {
        assert!(!verdict(&forged), "{forged:x?}");
    }
}
