//! Durations as callers of runc write them: `5s`, `1m30s`, `250ms`.

use anyhow::{Result, bail};
use std::time::Duration;

/// Nanoseconds of each unit; longer names first, since `m` begins `ms`.
const UNITS: &[(&str, f64)] = &[
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3_600e9),
];
/// More is no wait but a mistake, and would not fit where it is added to a time.
const HOURS_MAX: u64 = 24 * 365;

/// # Errors
/// What is wrong with it, in words that follow its name.
pub fn parse(text: &str) -> std::result::Result<Duration, String> {
    match text.strip_prefix('-').map(positive) {
        Some(Ok(_)) => Err("a duration must be greater than 0".to_owned()),
        Some(Err(_)) | None => positive(text),
    }
}

fn positive(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 5s, 1m30s or 250ms");
    let mut rest = text;
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, after) = rest.split_at(digits.ok_or_else(wrong)?);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit = UNITS.iter().find(|(unit, _)| {
            let more = after.strip_prefix(unit);
            more.is_some_and(|more| !more.starts_with(char::is_alphabetic))
        });
        let (unit, size) = unit.ok_or_else(wrong)?;
        nanos += number * size;
        rest = &after[unit.len()..];
    }
    let found = Duration::try_from_secs_f64(nanos / 1e9).map_err(|_| wrong())?;
    if text.is_empty() || found > Duration::from_secs(HOURS_MAX * 3_600) {
        return Err(wrong());
    }
    Ok(found)
}

/// # Errors
/// Nothing would be between two looks. The words are runc's.
pub fn check_interval(interval: Duration) -> Result<()> {
    match interval.is_zero() {
        true => bail!("duration interval must be greater than 0"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_runc_reads_them() {
        for (text, ms) in [
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("1.5h", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "fast",
            "5x",
            "-5s",
            "1s2",
            "99999999h",
            "5 s",
            "1.2.3s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
