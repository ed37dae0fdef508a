//! The verification of callbacks against `rsa`'s own: random keys, signatures and forgeries.

use appserver::callback::{Claim, PublicKey};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use md5::{Digest, Md5};
use rsa::pkcs8::EncodePublicKey;
use rsa::rand_core::{CryptoRng, Error, RngCore};
use rsa::traits::PublicKeyParts;
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

#[test]
fn ours_and_theirs_agree() {
    let (mut good, mut rng) = (0, Rng(7));
    for bits in [352, 368, 509, 512, 520, 575, 576, 577, 640, 1000, 1024, 1031, 2048] {
        let turns = if bits > 2000 { 1 } else { 4 };
        for exponent in [3u32, 17, 65_537] {
            if bits > 2000 && exponent != 65_537 {
                continue;
            }
            for _ in 0..turns {
                let Ok(private) = RsaPrivateKey::new_with_exp(&mut rng, bits, &exponent.into())
                else {
                    continue;
                };
                let public = private.to_public_key();
                let key = key_of(&public).unwrap();
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
                        assert!(!ours(&key, &more, &body) && !theirs(&public, &more, &body));
                    }
                    assert!(!ours(&key, &signature, b"other"));
                    for at in [0, 1, signature.len() / 2, signature.len() - 1] {
                        let mut forged = signature.clone();
                        forged[at] ^= 1 << turn;
                        assert!(!ours(&key, &forged, &body) && !theirs(&public, &forged, &body));
                    }
                }
                let n = public.n().to_bytes_be();
                let zero = vec![0; n.len()];
                for edge in [n.clone(), zero, vec![0xff; n.len()]] {
                    assert!(!ours(&key, &edge, b"") && !theirs(&public, &edge, b""));
                }
                let even = RsaPublicKey::new_unchecked(public.n() - 1u8, public.e().clone());
                assert!(key_of(&even).is_none());
            }
        }
    }
    assert!(good > 500, "{good}");
}
