//! Checksums and encodings: MD5, CRC-64, hex, base64 and percent-encoding.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// CRC-64/XZ (ECMA-182, reflected), which OSS sends as `x-oss-hash-crc64ecma`.
pub fn crc64(bytes: &[u8]) -> u64 {
    let mut crc64 = crc64fast::Digest::new();
    crc64.write(bytes);
    crc64.sum64()
}

pub fn percent_encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Of an object's key: its slashes stay.
pub fn percent_encode_path(text: &str) -> String {
    percent_encode(text).replace("%2F", "/")
}

/// Decodes `%XX` once; `+` and a `%` that starts no such pair stay as they are.
pub fn percent_decode(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_a_known_text() {
        assert_eq!(hex(&md5(b"123456789")), "25f9e794323b453885f5181f1b624d0b"); // md5sum
        // The check value of CRC-64/XZ.
        assert_eq!((crc64(b"123456789"), crc64(b"")), (0x995D_C9BB_DF19_39FA, 0));
    }

    #[test]
    fn percent_coding() {
        assert_eq!(percent_encode("a b/ü~"), "a%20b%2F%C3%BC~");
        assert_eq!(percent_encode_path("a/b%2F"), "a/b%252F");
        assert_eq!(percent_decode("/a%20b+c%2Fd"), b"/a b+c/d");
        assert_eq!(percent_decode("%2541%4%zz%"), b"%41%4%zz%");
    }
}
