//! Unix seconds, and the UTC spellings that OSS asks for. Never local time: a local time printed
//! with a `Z` makes a policy of 30 seconds live for hours (or not at all).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
/// 9999-12-31T23:59:59Z, the last second that has four digits for its year.
const LAST: u64 = 253_402_300_799;

/// Seconds since 1970. A clock before 1970 reads as 0, so its policies are expired, not eternal.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// `Sun, 03 Dec 2023 12:12:12 GMT`, as in HTTP's `Date` (RFC 9110, 5.6.7).
pub fn http(unix: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix.min(LAST)))
}

/// `2023-12-03T12:12:12Z`, as in a policy's `expiration` and in the log.
pub fn iso8601(unix: u64) -> String {
    let date = http(unix);
    let part = |from: usize, to: usize| date.get(from..to).unwrap_or_default();
    let month = MONTHS.find(part(8, 11)).unwrap_or_default() / 3 + 1;
    format!("{}-{month:02}-{}T{}Z", part(12, 16), part(5, 7), part(17, 25))
}

/// The reverse of `iso8601`, by binary search: its spellings sort as the times do.
pub fn unix(text: &str) -> Option<u64> {
    let (mut low, mut high) = (0, LAST);
    while low < high {
        let middle = (low + high) / 2;
        if iso8601(middle).as_str() < text {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    (iso8601(low) == text).then_some(low)
}

/// `20231203T121212Z`, as in `x-oss-date`; the first eight characters are the day of V4 scopes.
pub fn basic(unix: u64) -> String {
    iso8601(unix).replace(['-', ':'], "")
}
