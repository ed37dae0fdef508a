//! Unix seconds, and the three UTC spellings that OSS and HTTP ask for. Never local time: a local
//! time printed with a `Z` makes a policy of 30 seconds live for hours (or not at all).

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]; // 1970-01-01 first

/// Seconds since 1970. A clock before 1970 reads as 0, so its policies are expired, not eternal.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// `2023-12-03T12:12:12Z`, as in a policy's `expiration` and in the log.
pub fn iso8601(unix: u64) -> String {
    let (year, month, day) = civil(unix / 86_400);
    let (hour, minute, second) = clock(unix);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `20231203T121212Z`, as in `x-oss-date`; the first eight characters are the day of V4 scopes.
pub fn basic(unix: u64) -> String {
    iso8601(unix).replace(['-', ':'], "")
}

/// `Sun, 03 Dec 2023 12:12:12 GMT`, as in HTTP's `Date` (RFC 9110, 5.6.7).
pub fn http(unix: u64) -> String {
    let days = unix / 86_400;
    let (year, month, day) = civil(days);
    let (hour, minute, second) = clock(unix);
    let weekday = WEEKDAYS.iter().cycle().nth((days % 7) as usize).unwrap_or(&"");
    let month = MONTHS.get(month as usize - 1).unwrap_or(&"");
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

fn clock(unix: u64) -> (u64, u64, u64) {
    (unix / 3600 % 24, unix / 60 % 60, unix % 60)
}

/// Year, month and day from days since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", civil_from_days): years start in March, so that leap days come last.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
