//! UTC dates as OSS writes and reads them. Pure: the clock is an argument everywhere.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const DAY: u64 = 86_400;

/// `Sun, 06 Nov 1994 08:49:37 GMT`, for the `Date` header.
pub fn http_date(unix: u64) -> String {
    httpdate::fmt_http_date(time(unix))
}

/// `2015-04-09T11:52:19Z`, the form of STS.
pub fn extended(unix: u64) -> String {
    humantime::format_rfc3339_seconds(time(unix)).to_string()
}

/// `20231203T121212Z`, the form of `x-oss-date`.
pub fn basic(unix: u64) -> String {
    extended(unix).replace(['-', ':'], "")
}

/// Reads `2026-11-21T12:00:00Z`, also with a fraction of a second: a policy's `expiration`, and
/// without one the `Timestamp` of STS.
pub fn parse_extended(text: &str) -> Option<u64> {
    // The crate reads more than RFC 3339's `Z` behind the seconds or their fraction.
    let plain = text.len() == 20 || text.get(19..20) == Some(".") && !text.ends_with(".Z");
    let date = humantime::parse_rfc3339(text).ok().filter(|_| plain && text.ends_with('Z'))?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Reads `20231203T121212Z`.
pub fn parse_basic(text: &str) -> Option<u64> {
    let (date, clock) = text.split_once('T')?;
    let (year, month, day) = (date.get(..4)?, date.get(4..6)?, date.get(6..)?);
    let (hour, minute, second) = (clock.get(..2)?, clock.get(2..4)?, clock.get(4..)?);
    parse_extended(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}"))
        .filter(|_| text.len() == 16)
}

fn time(unix: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_and_write() {
        // `date -u -d @1701605532`
        assert_eq!(basic(1_701_605_532), "20231203T121212Z");
        assert_eq!(parse_basic("20231203T121212Z"), Some(1_701_605_532));
        assert_eq!(parse_extended("2023-12-03T12:12:12.000Z"), Some(1_701_605_532));
        assert_eq!(parse_extended("2023-12-03T12:12:12Z"), Some(1_701_605_532));
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(basic(1_709_164_800), "20240229T000000Z");
        assert_eq!(extended(1_428_580_339), "2015-04-09T11:52:19Z");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "2023-12-03 12:12:12Z",
            "2023-12-03T12:12:12",
            "2023-12-03T12:12:12+08:00",
            "2023-12-03T12:12:12+00:00",
            "2023-12-03T12:12:12ZZ",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-12-03T24:00:00Z",
            "2023-12-03T12:12:12.Z",
            "2023-12-00T12:12:12Z",
        ] {
            assert_eq!(parse_extended(text), None, "{text}");
        }
        for text in ["20231203T121212", "20231203121212Z", "2023120xT121212Z"] {
            assert_eq!(parse_basic(text), None, "{text}");
        }
    }
}
