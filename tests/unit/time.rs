//! UTC spellings, against dates known from elsewhere (`date -u -d @N`).

use appserver::sys::time::{basic, iso8601, unix};

/// Leap years, the end of a year, 1970 and 9999.
#[test]
fn dates() {
    for (seconds, iso) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_701_605_532, "2023-12-03T12:12:12Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
    ] {
        assert_eq!(iso8601(seconds), iso);
        assert_eq!(unix(iso), Some(seconds));
        assert_eq!(basic(seconds), iso.replace(['-', ':'], ""));
    }
}

/// What is not exactly of that shape is no time.
#[test]
fn bad_dates() {
    for text in [
        "",
        "2023-12-03T12:12:12",
        "2023-12-03T12:12:12z",
        "2023-12-03 12:12:12Z",
        "2023-12-03T12:12:12+08:00",
        "2023-12-03T12:12:12.000Z",
        "2023-13-03T12:12:12Z",
        "2023-00-03T12:12:12Z",
        "2023-02-30T12:12:12Z",
        "2023-12-03T25:12:12Z",
        "1969-12-31T23:59:59Z",
        "2023-02-29T12:12:12Z",
        "2023-12-03T12:12:60Z",
        "2023-12-3T12:12:12Z",
        "9999-12-31T23:59:59Zz",
        "10000-01-01T00:00:00Z",
        "+023-12-03T12:12:12Z",
        "２０２３-12-03T12:12:12Z",
    ] {
        assert_eq!(unix(text), None, "{text}");
    }
}
