//! Checksums and encodings: MD5, CRC-64, hex, base64 and percent-encoding.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

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

/// What OSS tells about an object's content, counted as the bytes pass.
#[derive(Clone, Default)]
pub struct Checksums {
    md5: Md5,
    crc64: Crc64,
    pub size: u64,
}

impl Checksums {
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.crc64.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// The MD5 and the CRC-64 of all the bytes.
    pub fn finish(self) -> ([u8; 16], u64) {
        (self.md5.finalize().into(), self.crc64.value())
    }
}

/// CRC-64/XZ (ECMA-182, reflected), which OSS sends as `x-oss-hash-crc64ecma`.
#[derive(Clone)]
pub struct Crc64(u64);

impl Default for Crc64 {
    fn default() -> Crc64 {
        Crc64(!0)
    }
}

impl Crc64 {
    pub fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let word: [u8; 8] = word.try_into().expect("a chunk of eight bytes");
            let word = (u64::from_le_bytes(word) ^ crc).to_le_bytes();
            let step = |at: usize| TABLES[7 - at][usize::from(word[at])];
            crc = step(0) ^ step(1) ^ step(2) ^ step(3) ^ step(4) ^ step(5) ^ step(6) ^ step(7);
        }
        for byte in words.remainder() {
            crc = TABLES[0][usize::from(*byte ^ crc as u8)] ^ (crc >> 8);
        }
        self.0 = crc;
    }

    pub fn value(&self) -> u64 {
        !self.0
    }
}

/// Eight tables, so that eight bytes pass per step: large uploads in an unoptimised test build.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    const POLYNOMIAL: u64 = 0xC96C_5795_D787_0F42;
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut row = 1;
    while row < 8 {
        let mut byte = 0;
        while byte < 256 {
            let above = tables[row - 1][byte];
            tables[row][byte] = (above >> 8) ^ tables[0][(above & 0xff) as usize];
            byte += 1;
        }
        row += 1;
    }
    tables
}

/// Percent-encodes everything but RFC 3986's unreserved characters and those in `keep`.
pub fn percent_encode(text: &str, keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Decodes `%XX` once; `+` and a `%` that starts no such pair stay as they are.
pub fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let pair = text.get(at + 1..at + 3).filter(|_| text[at] == b'%');
        let pair = pair.filter(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        let byte = pair.and_then(|pair| std::str::from_utf8(pair).ok());
        match byte.and_then(|byte| u8::from_str_radix(byte, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc64(bytes: &[u8]) -> u64 {
        let mut crc = Crc64::default();
        crc.update(bytes);
        crc.value()
    }

    #[test]
    fn crc64_has_the_check_value_of_crc_64_xz() {
        assert_eq!(crc64(b"123456789"), 0x995D_C9BB_DF19_39FA);
        assert_eq!(crc64(b""), 0);
    }

    #[test]
    fn crc64_does_not_depend_on_how_the_bytes_arrive() {
        let bytes: Vec<u8> = (0..1000u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut bytewise = Crc64::default();
        bytes.iter().for_each(|byte| bytewise.update(&[*byte]));
        assert_eq!(bytewise.value(), crc64(&bytes));
        let mut odd = Crc64::default();
        bytes.chunks(13).for_each(|chunk| odd.update(chunk));
        assert_eq!(odd.value(), crc64(&bytes));
    }

    #[test]
    fn checksums_of_a_known_text() {
        let mut sums = Checksums::default();
        sums.update(b"123456");
        sums.update(b"789");
        assert_eq!(sums.size, 9);
        let (md5, crc) = sums.finish();
        assert_eq!(hex(&md5), "25f9e794323b453885f5181f1b624d0b"); // printf 123456789 | md5sum
        assert_eq!(crc, 0x995D_C9BB_DF19_39FA);
    }

    #[test]
    fn percent_coding() {
        assert_eq!(percent_encode("a b/ü~", b""), "a%20b%2F%C3%BC~");
        assert_eq!(percent_encode("a/b", b"/"), "a/b");
        assert_eq!(percent_decode(b"/a%20b+c%2Fd"), b"/a b+c/d");
        assert_eq!(percent_decode(b"%2541%4%zz%"), b"%41%4%zz%");
    }
}
