//! Unix seconds, and the three UTC spellings that OSS and HTTP ask for. Never local time: a local
//! time printed with a `Z` makes a policy of 30 seconds live for hours (or not at all).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";

/// Seconds since 1970. A clock before 1970 reads as 0, so its policies are expired, not eternal.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// `Sun, 03 Dec 2023 12:12:12 GMT`, as in HTTP's `Date` (RFC 9110, 5.6.7).
pub fn http(unix: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix))
}

/// `2023-12-03T12:12:12Z`, as in a policy's `expiration` and in the log.
pub fn iso8601(unix: u64) -> String {
    let date = http(unix);
    let part = |from: usize, to: usize| date.get(from..to).unwrap_or_default();
    let month = MONTHS.find(part(8, 11)).unwrap_or_default() / 3 + 1;
    format!("{}-{month:02}-{}T{}Z", part(12, 16), part(5, 7), part(17, 25))
}

/// The reverse of `iso8601`, strictly.
pub fn unix(iso8601: &str) -> Option<u64> {
    let part = |from: usize, to: usize| iso8601.get(from..to);
    let month = part(5, 7)?.parse::<usize>().ok()?.checked_sub(1)? * 3;
    let (day, month, year) = (part(8, 10)?, MONTHS.get(month..month + 3)?, part(0, 4)?);
    let rest = format!("{day} {month} {year} {} GMT", part(11, 19)?);
    // The day of the week is not said, and only the right one is taken.
    let mut dates = WEEKDAYS.iter().map(|weekday| format!("{weekday}, {rest}"));
    let time = dates.find_map(|date| httpdate::parse_http_date(&date).ok())?;
    let time = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (self::iso8601(time) == iso8601).then_some(time)
}

/// `20231203T121212Z`, as in `x-oss-date`; the first eight characters are the day of V4 scopes.
pub fn basic(unix: u64) -> String {
    iso8601(unix).replace(['-', ':'], "")
}
