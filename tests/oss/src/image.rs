//! Width, height and format of a picture, read from its first bytes as OSS does for the callback
//! variables `imageInfo.*`: from the content, whatever name or type the uploader gave.

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    pub width: u32,
    pub height: u32,
    /// `png`, `jpg` or `gif`
    pub format: &'static str,
}

pub fn read(bytes: &[u8]) -> Option<ImageInfo> {
    png(bytes).or_else(|| gif(bytes)).or_else(|| jpeg(bytes))
}

fn png(bytes: &[u8]) -> Option<ImageInfo> {
    let header = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    if header.get(4..8)? != b"IHDR" {
        return None;
    }
    let number = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    Some(ImageInfo { width: number(8)?, height: number(12)?, format: "png" })
}

fn gif(bytes: &[u8]) -> Option<ImageInfo> {
    let screen = bytes.strip_prefix(b"GIF87a").or_else(|| bytes.strip_prefix(b"GIF89a"))?;
    let number = |at: usize| Some(u16::from_le_bytes(screen.get(at..at + 2)?.try_into().ok()?));
    Some(ImageInfo { width: number(0)?.into(), height: number(2)?.into(), format: "gif" })
}

/// Walks the segments up to the frame header; the tables before it may hold anything.
fn jpeg(bytes: &[u8]) -> Option<ImageInfo> {
    let mut rest = bytes.strip_prefix(b"\xff\xd8")?;
    loop {
        let number = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
        let step = match rest {
            [0xff, 0xff, ..] => 1,               // a fill byte
            [0xff, 0x01 | 0xd0..=0xd7, ..] => 2, // a marker without a segment
            [0xff, 0xd9 | 0xda, ..] => return None,
            // Huffman tables, a reserved one and arithmetic coding share the frames' range.
            [0xff, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf, ..] => {
                let (height, width) = (number(5)?.into(), number(7)?.into());
                return Some(ImageInfo { width, height, format: "jpg" });
            }
            [0xff, ..] => 2 + usize::from(number(2)?),
            _ => return None,
        };
        rest = rest.get(step..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(width: u32, height: u32, format: &'static str) -> Option<ImageInfo> {
        Some(ImageInfo { width, height, format })
    }

    #[test]
    fn png_and_gif() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x02\x80\0\0\x01\xe0\x08\x02\0\0\0";
        assert_eq!(read(png), info(640, 480, "png"));
        assert_eq!(read(b"GIF89a\x40\x01\xf0\0\xf7\0\0"), info(320, 240, "gif"));
        assert_eq!(read(b"GIF87a\x01\0\x02\0"), info(1, 2, "gif"));
    }

    #[test]
    fn jpeg_frame_behind_other_segments() {
        let mut jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0".to_vec();
        jpeg.extend(b"\xff\xdb\0\x04\0\0\xff\xc4\0\x04\xff\xc0\xff\xff"); // a table, then fill
        jpeg.extend(b"\xc2\0\x11\x08\x01\xe0\x02\x80\x03\x01\x22\0\x02\x11\x01\x03\x11\x01");
        assert_eq!(read(&jpeg), info(640, 480, "jpg"));
    }

    #[test]
    fn no_picture_no_info() {
        let cut: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x02";
        let no_frame: &[u8] = b"\xff\xd8\xff\xda\0\x04\0\0\xff\xc0\0\x11\x08\x01\xe0\x02\x80";
        for bytes in
            [b"", cut, b"GIF89a\x40", b"\xff\xd8\xff", no_frame, b"hello", b"\xff\xd8\xff\xe0\0\0"]
        {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }
}
