//! Values as people write them on a command line: pairs, durations, sizes, ages. Pure.

use jiff::Timestamp;
use std::collections::BTreeMap;

/// `KEY=VALUE`, in the order they were given; the last one of a key stays.
pub fn pairs(given: &[String]) -> Result<BTreeMap<String, String>, String> {
    let split = |pair: &String| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{pair:?} is no pair; write KEY=VALUE")),
    };
    given.iter().map(split).collect()
}

/// As [`pairs`], where a key alone takes its value from `lookup`.
pub fn environment(
    given: &[String],
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for pair in given {
        let (key, value) = match pair.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (pair.as_str(), lookup(pair)),
        };
        match value {
            Some(value) if !key.is_empty() => all.insert(key.to_owned(), value),
            None if !key.is_empty() => return Err(format!("{key} has no value here; write {key}=VALUE")),
            _ => return Err(format!("{pair:?} names no variable; write KEY=VALUE")),
        };
    }
    Ok(all)
}

/// Seconds, from `90`, `90s`, `15m`, `2h`, `1d`.
pub fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration; write 90s, 15m, 2h or 1d");
    let (number, unit) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => (&text[..at], unit),
        _ => (text, 's'),
    };
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A deadline: seconds, or `none`.
pub fn ttl(text: &str) -> Result<Option<i64>, String> {
    if text == "none" {
        return Ok(None);
    }
    let seconds = seconds(text).map_err(|error| format!("{error}, or none"))?;
    i64::try_from(seconds).map(Some).map_err(|_| format!("{text:?} is longer than any sandbox lives"))
}

/// Bytes as people read them.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = count;
    while rest >= 10 * 1024 && unit + 1 < UNITS.len() {
        rest = rest / 1024 + u64::from(rest % 1024 >= 512);
        unit += 1;
    }
    format!("{rest} {}", UNITS[unit])
}

/// A span in its largest unit that still says something.
pub fn span(seconds: i64) -> String {
    match seconds {
        ..1 => "now".into(),
        1..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A moment as people read it: to the second.
pub fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> &str {
    let body = text.strip_suffix('\n').unwrap_or(text);
    if count == 0 {
        return "";
    }
    match body.rmatch_indices('\n').nth(count - 1) {
        Some((at, _)) => &text[at + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_need_a_key_and_keep_equal_signs() {
        let one = pairs(&["a=b=c".into()]).unwrap();
        assert_eq!(one.get("a").map(String::as_str), Some("b=c"));
        assert!(pairs(&["a".into()]).is_err() && pairs(&["=b".into()]).is_err());
    }

    #[test]
    fn a_variable_without_a_value_is_taken_from_here() {
        let lookup = |key: &str| (key == "HERE").then(|| "v".to_owned());
        let found = environment(&["HERE".into(), "EMPTY=".into()], lookup).unwrap();
        assert_eq!(found, BTreeMap::from([("HERE".into(), "v".into()), ("EMPTY".into(), String::new())]));
        assert!(environment(&["GONE".into()], lookup).unwrap_err().contains("GONE"));
        assert!(environment(&["=x".into()], lookup).is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("15m"), Ok(900));
        assert_eq!(seconds("1d"), Ok(86_400));
        for wrong in ["", "m", "-1", "1w", "1.5h", "99999999999999999999", "1é"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!((ttl("none"), ttl("2h")), (Ok(None), Ok(Some(7200))));
    }

    #[test]
    fn sizes_and_spans() {
        assert_eq!((bytes(0).as_str(), bytes(10_239).as_str()), ("0 B", "10239 B"));
        assert_eq!(bytes(512 << 20), "512 MiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
        assert_eq!(
            (span(0), span(61), span(7199), span(-3)),
            ("now".into(), "61s".into(), "119m".into(), "now".into())
        );
    }

    #[test]
    fn moments() {
        let at = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        assert_eq!(moment(at), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn lines_from_the_end() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb", 1), "b");
        assert_eq!(last_lines("a\n", 5), "a\n");
        assert_eq!((last_lines("a\n", 0), last_lines("", 3)), ("", ""));
    }
}
