//! multipart/form-data, read as a stream: RFC 7578 and the "multipart form data encoding" section
//! of the HTML standard, which says how browsers write names.

use std::io::{self, Read};
use std::ops::Range;

use memchr::memmem;

/// "PostObject": everything before the file together, else EC 0006-00000112.
pub const MAX_FIELDS_BYTES: usize = 8 << 20;
const MAX_PART_HEAD_BYTES: usize = 16 << 10;
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub enum FormError {
    Io(io::Error),
    Malformed(&'static str),
}

impl From<io::Error> for FormError {
    fn from(error: io::Error) -> FormError {
        FormError::Io(error)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartHead {
    pub name: String,
    pub filename: Option<String>,
    pub content_type: Option<String>,
}

/// The boundary of a `multipart/form-data` Content-Type; `None` where the type is another one,
/// `Some(None)` where the boundary is missing.
pub fn boundary(content_type: &str) -> Option<Option<String>> {
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    });
    // RFC 2046, 5.1.1: 1 to 70 characters.
    Some(boundary.filter(|b| (1..=70).contains(&b.len())).map(str::to_string))
}

pub struct Parser<R> {
    source: R,
    /// `\r\n--` and the boundary
    delimiter: Vec<u8>,
    finder: memmem::Finder<'static>,
    buffer: Vec<u8>,
    /// what of the buffer was read from the source and not yet handed out
    unread: Range<usize>,
    begun: bool,
    ended: bool,
}

impl<R: Read> Parser<R> {
    pub fn new(source: R, boundary: &str) -> Parser<R> {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        let finder = memmem::Finder::new(&delimiter).into_owned();
        // With this the first delimiter, which has no line before it, looks like all the others.
        let mut buffer = vec![0; MAX_PART_HEAD_BYTES + CHUNK_BYTES];
        buffer[..2].copy_from_slice(b"\r\n");
        Parser { source, delimiter, finder, buffer, unread: 0..2, begun: false, ended: false }
    }

    /// Skips to the next part and reads its headers; `None` behind the closing delimiter.
    pub fn next_part(&mut self) -> Result<Option<PartHead>, FormError> {
        if !self.begun {
            self.begun = true;
            self.read_content(|_| {})?; // the preamble
        }
        if self.ended {
            return Ok(None);
        }
        let head = loop {
            let unread = &self.buffer[self.unread.clone()];
            if unread.starts_with(b"\r\n") {
                return Err(FormError::Malformed("a part without headers"));
            }
            if let Some(end) = memmem::find(unread, b"\r\n\r\n") {
                let head = unread[..end].to_vec();
                self.unread.start += end + 4;
                break head;
            }
            if unread.len() >= MAX_PART_HEAD_BYTES {
                return Err(FormError::Malformed("the headers of a part are too long"));
            }
            self.fill_or("the form ends within the headers of a part")?;
        };
        part_head(&head).map(Some)
    }

    /// Hands the content of the current part to `sink` and steps over the delimiter behind it.
    pub fn read_content(&mut self, mut sink: impl FnMut(&[u8])) -> Result<(), FormError> {
        loop {
            let unread = &self.buffer[self.unread.clone()];
            let Some(at) = self.finder.find(unread) else {
                // A delimiter may have begun: its possible first bytes stay for the next round.
                let done = unread.len().saturating_sub(self.delimiter.len() - 1);
                sink(&unread[..done]);
                self.unread.start += done;
                self.fill_or("the form ends before its closing boundary")?;
                continue;
            };
            let after = at + self.delimiter.len();
            if unread.len() < after + 2 {
                sink(&unread[..at]);
                self.unread.start += at;
                self.fill_or("the form ends within a boundary")?;
                continue;
            }
            sink(&unread[..at]);
            match &unread[after..after + 2] {
                b"--" => {
                    self.unread.start += after + 2;
                    self.ended = true;
                    return Ok(());
                }
                b"\r\n" => {
                    self.unread.start += after + 2;
                    return Ok(());
                }
                // Not the boundary but a longer text that begins like it: part of the content.
                _ => {
                    sink(&unread[at..after]);
                    self.unread.start += after;
                }
            }
        }
    }

    fn fill_or(&mut self, message: &'static str) -> Result<(), FormError> {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let read = self.source.read(&mut self.buffer[self.unread.end..])?;
        self.unread.end += read;
        if read == 0 { Err(FormError::Malformed(message)) } else { Ok(()) }
    }
}

fn part_head(head: &[u8]) -> Result<PartHead, FormError> {
    let head =
        std::str::from_utf8(head).map_err(|_| FormError::Malformed("headers not in UTF-8"))?;
    let mut part = PartHead::default();
    let mut named = false;
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(':').ok_or(FormError::Malformed("no header line"))?;
        if name.eq_ignore_ascii_case("content-type") {
            part.content_type = Some(value.trim().to_string());
        } else if name.eq_ignore_ascii_case("content-disposition") {
            let parameters = value.trim().strip_prefix("form-data");
            let parameters = parameters.ok_or(FormError::Malformed("not form-data"))?;
            let name = parameter(parameters, "name");
            part.name = name.ok_or(FormError::Malformed("a part without a name"))?;
            part.filename = parameter(parameters, "filename");
            named = true;
        }
    }
    if named { Ok(part) } else { Err(FormError::Malformed("a part without content-disposition")) }
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

    fn parse(body: &[u8], boundary: &str, step: usize) -> Result<Parts, FormError> {
        let mut parser = Parser::new(Drip(body, step), boundary);
        let mut parts = Vec::new();
        while let Some(head) = parser.next_part()? {
            let mut content = Vec::new();
            parser.read_content(|bytes| content.extend_from_slice(bytes))?;
            parts.push((head, content));
        }
        Ok(parts)
    }

    fn head(name: &str, filename: Option<&str>, content_type: Option<&str>) -> PartHead {
        let own = |text: &str| text.to_string();
        PartHead {
            name: own(name),
            filename: filename.map(own),
            content_type: content_type.map(own),
        }
    }

    #[test]
    fn parts_come_out_whole_however_the_bytes_arrive() {
        let content = b"\r\n--Xno\r\n-\r\n--\r\n\r\n--X \x00\xff--X\r\n--Y--\r\n";
        let mut body = b"--X\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\n\r\n".to_vec();
        body.extend(
            b"--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n",
        );
        body.extend(b"Content-Type: image/png\r\n\r\n");
        body.extend(content);
        body.extend(b"\r\n--X--\r\nepilogue");
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
        let content: Vec<u8> =
            (0..300_000u32).map(|n| b"\r\n-X"[n as usize * n as usize % 4]).collect();
        let mut body = b"pre\r\n--XX\r\ncontent-disposition: form-data; name=f\r\n\r\n".to_vec();
        body.extend(&content);
        body.extend(b"\r\n--XX--");
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
                assert!(matches!(result, Err(FormError::Malformed(_))), "{body}: {result:?}");
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
        let some = |text: &str| Some(Some(text.to_string()));
        assert_eq!(boundary("multipart/form-data; boundary=abc"), some("abc"));
        assert_eq!(boundary("Multipart/Form-Data;charset=x; Boundary=\"a b\""), some("a b"));
        assert_eq!(boundary("multipart/form-data"), Some(None));
        assert_eq!(boundary("multipart/form-data; boundary="), Some(None));
        assert_eq!(
            boundary(&format!("multipart/form-data; boundary={}", "a".repeat(71))),
            Some(None)
        );
        assert_eq!(boundary("application/x-www-form-urlencoded"), None);
        assert_eq!(boundary(""), None);
    }
}
