//! multipart/form-data, read as a stream: RFC 7578 and the "multipart form data encoding" section
//! of the HTML standard, which says how browsers write names.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

use memchr::memmem;

/// "PostObject": everything before the file together, else EC 0006-00000112.
pub const MAX_FIELDS_BYTES: usize = 8 << 20;
const MAX_PART_HEAD_BYTES: usize = 16 << 10;
const CHUNK_BYTES: usize = 64 << 10;

/// The form is not well-formed: `InvalidData`, which no socket gives.
pub fn malformed(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartHead {
    pub name: String,
    pub filename: Option<String>,
    pub content_type: Option<String>,
}

/// The boundary of a `multipart/form-data` Content-Type; `None` where the type is another one,
/// `Some(None)` where the boundary is missing.
pub fn boundary(content_type: &str) -> Option<Option<&str>> {
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    });
    // RFC 2046, 5.1.1: 1 to 70 characters.
    Some(boundary.filter(|boundary| (1..=70).contains(&boundary.len())))
}

pub struct Parser<R> {
    source: R,
    /// `\r\n--` and the boundary
    delimiter: Vec<u8>,
    /// All that was read so far.
    pub bytes: Vec<u8>,
    /// How much of it is parsed.
    at: usize,
    ended: bool,
}

impl<R: Read> Parser<R> {
    pub fn new(source: R, boundary: &str) -> Parser<R> {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // With this the first delimiter, which has no line before it, looks like all the others.
        Parser { source, delimiter, bytes: b"\r\n".to_vec(), at: 0, ended: false }
    }

    /// Skips to the next part and reads its headers; `None` behind the closing delimiter.
    pub fn next_part(&mut self) -> io::Result<Option<PartHead>> {
        if self.at == 0 {
            self.content()?; // the preamble
        }
        if self.ended {
            return Ok(None);
        }
        let within = "the form ends within the headers of a part";
        // Starts within the line end of the delimiter, so that a part without headers ends here.
        self.at -= 2;
        let head = self.until(b"\r\n\r\n", MAX_PART_HEAD_BYTES, within)?;
        part_head(self.bytes.get(head.start + 2..head.end).unwrap_or(b"")).map(Some)
    }

    /// Steps over the content of the current part and the delimiter behind it; where the content
    /// is.
    pub fn content(&mut self) -> io::Result<Range<usize>> {
        let (start, delimiter) = (self.at, self.delimiter.clone());
        loop {
            let before =
                self.until(&delimiter, usize::MAX, "the form ends before its closing boundary")?;
            while self.bytes.len() < self.at + 2 {
                self.fill("the form ends within a boundary")?;
            }
            match &self.bytes[self.at..self.at + 2] {
                b"--" => self.ended = true,
                b"\r\n" => {}
                // Not the boundary but a longer text that begins like it: part of the content.
                _ => continue,
            }
            self.at += 2;
            return Ok(start..before.end);
        }
    }

    /// How much of the content of the current part has come.
    pub fn arrived(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Steps over `wanted`; where the text before it is.
    fn until(&mut self, wanted: &[u8], most: usize, why: &str) -> io::Result<Range<usize>> {
        let start = self.at;
        let mut from = start;
        loop {
            if let Some(found) = memmem::find(&self.bytes[from..], wanted) {
                self.at = from + found + wanted.len();
                return Ok(start..from + found);
            }
            if self.bytes.len() - start > most {
                return Err(malformed("the headers of a part are too long"));
            }
            // Its first bytes may have come.
            from = start.max(self.bytes.len().saturating_sub(wanted.len() - 1));
            self.fill(why)?;
        }
    }

    fn fill(&mut self, why: &str) -> io::Result<()> {
        let end = self.bytes.len();
        self.bytes.resize(end + CHUNK_BYTES, 0);
        let read = self.source.read(&mut self.bytes[end..]);
        self.bytes.truncate(end + read.as_ref().unwrap_or(&0));
        if read? == 0 { Err(malformed(why)) } else { Ok(()) }
    }
}

fn part_head(head: &[u8]) -> io::Result<PartHead> {
    let head = std::str::from_utf8(head).map_err(|_| malformed("headers not in UTF-8"))?;
    let mut part = None;
    let mut content_type = None;
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(':').ok_or(malformed("no header line"))?;
        if name.eq_ignore_ascii_case("content-type") {
            content_type = Some(value.trim().to_string());
        } else if name.eq_ignore_ascii_case("content-disposition") {
            let parameters = value.trim().strip_prefix("form-data");
            let parameters = parameters.ok_or(malformed("not form-data"))?;
            let name = parameter(parameters, "name").ok_or(malformed("a part without a name"))?;
            part = Some((name, parameter(parameters, "filename")));
        }
    }
    let (name, filename) = part.ok_or(malformed("a part without content-disposition"))?;
    Ok(PartHead { name, filename, content_type })
}

/// `; name="value"`, where browsers write `"`, CR and LF in a value as %22, %0D and %0A, and
/// nothing else in a special way: no backslash escapes, and `%41` stays `%41`.
fn parameter(mut rest: &str, wanted: &str) -> Option<String> {
    loop {
        rest = rest.trim_start().strip_prefix(';')?;
        let (name, value) = rest.split_once('=')?;
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_at(value.find(';').unwrap_or(value.len())),
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            let value = value.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n");
            return Some(value);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives `step` bytes per read, so that every boundary is once cut at every place.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let step = self.1.min(buffer.len()).min(self.0.len());
            let (now, later) = self.0.split_at(step);
            buffer[..step].copy_from_slice(now);
            self.0 = later;
            Ok(step)
        }
    }

    type Parts = Vec<(PartHead, Vec<u8>)>;

    fn parse(body: &[u8], boundary: &str, step: usize) -> io::Result<Parts> {
        let mut parser = Parser::new(Drip(body, step), boundary);
        let mut parts = Vec::new();
        while let Some(head) = parser.next_part()? {
            let content = parser.content()?;
            parts.push((head, parser.bytes[content].to_vec()));
        }
        Ok(parts)
    }

    fn head(name: &str, filename: Option<&str>, content_type: Option<&str>) -> PartHead {
        let own = |text: Option<&str>| text.map(str::to_string);
        let (filename, content_type) = (own(filename), own(content_type));
        PartHead { name: name.to_string(), filename, content_type }
    }

    #[test]
    fn parts_come_out_whole_however_the_bytes_arrive() {
        let content = b"\r\n--Xno\r\n-\r\n--\r\n\r\n--X \x00\xff--X\r\n--Y--\r\n";
        let start = "--X\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\n\r\n\
                     --X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n\
                     Content-Type: image/png\r\n\r\n";
        let body = [start.as_bytes(), content, b"\r\n--X--\r\nepilogue"].concat();
        for step in 1..=body.len() {
            let parts = parse(&body, "X", step).unwrap();
            assert_eq!(parts[0], (head("key", None, None), vec![]), "step {step}");
            let file = head("file", Some("a.png"), Some("image/png"));
            assert_eq!(parts[1], (file, content.to_vec()), "step {step}");
            assert_eq!(parts.len(), 2);
        }
    }

    #[test]
    fn a_file_longer_than_the_buffer() {
        let content: Vec<u8> = (0..300_000usize).map(|n| b"\r\n-X"[n * n % 4]).collect();
        let start = b"pre\r\n--XX\r\ncontent-disposition: form-data; name=f\r\n\r\n";
        let body = [start, &content[..], b"\r\n--XX--"].concat();
        for step in [1, 7, 4096, 1 << 20] {
            let parts = parse(&body, "XX", step).unwrap();
            assert!(parts[0].1 == content, "step {step}");
        }
    }

    #[test]
    fn an_empty_form_has_no_parts() {
        assert_eq!(parse(b"--X--\r\n", "X", 100).unwrap(), vec![]);
    }

    #[test]
    fn malformed_forms() {
        let part = "--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb";
        let long = format!("--X\r\nA: {}", "a".repeat(MAX_PART_HEAD_BYTES));
        for body in [
            "",
            "no boundary at all",
            "--X",
            "--X\r\n",
            part,
            &format!("{part}\r\n--X"),
            &format!("{part}\r\n--X-"),
            "--X\r\n\r\nb\r\n--X--",
            "--X\r\nContent-Type: a/b\r\n\r\nb\r\n--X--",
            "--X\r\nContent-Disposition: form-data\r\n\r\nb\r\n--X--",
            "--X\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\nb\r\n--X--",
            "--X\r\nContent-Disposition: form-data; name=\"a\r\n\r\nb\r\n--X--",
            "--X\r\nhello\r\n\r\nb\r\n--X--",
            &long,
        ] {
            for step in [1, 10_000] {
                let result = parse(body.as_bytes(), "X", step);
                let kind = result.as_ref().err().map(io::Error::kind);
                assert_eq!(kind, Some(ErrorKind::InvalidData), "{body}: {result:?}");
            }
        }
    }

    #[test]
    fn names_as_browsers_write_them() {
        let cases = [
            ("; name=\"file\"; filename=\"a%22b%0D%0A%41.png\"", "a\"b\r\n%41.png"),
            ("; filename=\"a;b=c.png\"; name=\"file\"", "a;b=c.png"),
            ("; filename=plain.txt; name=file", "plain.txt"),
            ("; name=\"file\"; filename=\"C:\\a\\\"", "C:\\a\\"),
            ("; name=\"file\"; filename=\"图片.png\"", "图片.png"),
            ("; name=\"file\"; FileName=\"\"", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(parameter(text, "filename").as_deref(), Some(expected), "{text}");
            assert_eq!(parameter(text, "name").as_deref(), Some("file"), "{text}");
        }
    }

    #[test]
    fn boundaries() {
        let long = format!("multipart/form-data; boundary={}", "a".repeat(71));
        for (text, expected) in [
            ("multipart/form-data; boundary=abc", Some(Some("abc"))),
            ("Multipart/Form-Data;charset=x; Boundary=\"a b\"", Some(Some("a b"))),
            ("multipart/form-data", Some(None)),
            ("multipart/form-data; boundary=", Some(None)),
            (&long, Some(None)),
            ("application/x-www-form-urlencoded", None),
            ("", None),
        ] {
            assert_eq!(boundary(text), expected, "{text}");
        }
    }
}
