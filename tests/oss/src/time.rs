//! UTC dates as OSS writes and reads them. Pure: the clock is an argument everywhere.

pub const DAY: u64 = 86_400;

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Sun, 06 Nov 1994 08:49:37 GMT`, for the `Date` header.
pub fn http_date(unix: u64) -> String {
    let (year, month, day) = civil(unix / DAY);
    let weekday = WEEKDAYS[(unix / DAY % 7) as usize];
    let name = MONTHS[month as usize - 1];
    let (hour, minute, second) = clock(unix);
    format!("{weekday}, {day:02} {name} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// `20231203T121212Z`, the form of `x-oss-date`.
pub fn basic(unix: u64) -> String {
    let (year, month, day) = civil(unix / DAY);
    let (hour, minute, second) = clock(unix);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// `2015-04-09T11:52:19Z`, the form of STS.
pub fn extended(unix: u64) -> String {
    let (year, month, day) = civil(unix / DAY);
    let (hour, minute, second) = clock(unix);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Reads `20231203T121212Z`.
pub fn parse_basic(text: &str) -> Option<u64> {
    let b = text.as_bytes();
    if b.len() != 16 || b[8] != b'T' || b[15] != b'Z' {
        return None;
    }
    unix([&b[0..4], &b[4..6], &b[6..8], &b[9..11], &b[11..13], &b[13..15]])
}

/// Reads `2026-11-21T12:00:00Z`, also with a fraction of a second: a policy's `expiration`, and
/// without one the `Timestamp` of STS.
pub fn parse_extended(text: &str) -> Option<u64> {
    let b = text.as_bytes();
    if b.len() < 20 || (b[4], b[7], b[10], b[13], b[16]) != (b'-', b'-', b'T', b':', b':') {
        return None;
    }
    let fraction = match &b[19..] {
        b"Z" => &b[0..0],
        [b'.', digits @ .., b'Z'] if !digits.is_empty() => digits,
        _ => return None,
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    unix([&b[0..4], &b[5..7], &b[8..10], &b[11..13], &b[14..16], &b[17..19]])
}

fn unix(parts: [&[u8]; 6]) -> Option<u64> {
    let mut numbers = [0u64; 6];
    for (number, part) in numbers.iter_mut().zip(parts) {
        for byte in part {
            *number = *number * 10 + u64::from(byte.checked_sub(b'0').filter(|d| *d < 10)?);
        }
    }
    let [year, month, day, hour, minute, second] = numbers;
    if year < 1970 || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days(year, month, day);
    // A day that the month does not have comes back as another date.
    if civil(days) != (year, month, day) {
        return None;
    }
    Some(days * DAY + hour * 3600 + minute * 60 + second)
}

fn clock(unix: u64) -> (u64, u64, u64) {
    let second = unix % DAY;
    (second / 3600, second / 60 % 60, second % 60)
}

/// Days since 1970-01-01 of a Gregorian date; years count from March, so the leap day comes last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.max(1) - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
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
        for text in ["", "2023-12-03 12:12:12Z", "2023-12-03T12:12:12", "2023-12-03T12:12:12+08:00"]
        {
            assert_eq!(parse_extended(text), None, "{text}");
        }
        for text in ["2023-02-29T00:00:00Z", "2023-13-01T00:00:00Z", "2023-12-03T24:00:00Z"] {
            assert_eq!(parse_extended(text), None, "{text}");
        }
        assert_eq!(parse_extended("2023-12-03T12:12:12.Z"), None);
        assert_eq!(parse_extended("2023-12-00T12:12:12Z"), None);
        for text in ["20231203T121212", "20231203121212Z", "2023120xT121212Z"] {
            assert_eq!(parse_basic(text), None, "{text}");
        }
    }
}
