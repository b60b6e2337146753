//! Amounts of CPU and bytes, written as Kubernetes writes them: `500m`, `1.5`, `512Mi`, `2G`.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::error::Invalid;

/// CPU time per time, in thousandths of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MilliCpu(pub u64);

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl MilliCpu {
    /// Reads `500m`, `2` or `0.5`.
    ///
    /// # Errors
    /// When the text is no positive amount of at least one thousandth of a core; the error carries `field`.
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        let refuse = || Invalid::new(field, format!("{text:?} is not an amount of CPU; write `500m` or `2`"));
        let milli = match text.strip_suffix('m') {
            Some(number) => number.parse::<u64>().map_err(|_| refuse())?,
            None => decimal(text, 1000).ok_or_else(refuse)?,
        };
        if milli == 0 { Err(refuse()) } else { Ok(Self(milli)) }
    }
}

impl Bytes {
    /// One mebibyte.
    pub const MIB: Self = Self(1 << 20);
    /// One gibibyte.
    pub const GIB: Self = Self(1 << 30);

    /// Reads a number with an optional suffix: `Ki` `Mi` `Gi` `Ti` (powers of 1024), `k` `M` `G` `T` (of 1000).
    ///
    /// # Errors
    /// When the text is no positive amount; the error carries `field`.
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        let refuse = || Invalid::new(field, format!("{text:?} is not a size; write `512Mi` or `2Gi`"));
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = unit(&text[digits.len()..]).ok_or_else(refuse)?;
        match decimal(digits, unit) {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err(refuse()),
        }
    }
}

fn unit(suffix: &str) -> Option<u64> {
    Some(match suffix {
        "" => 1,
        "k" | "K" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    })
}

/// Multiplies a plain decimal number by `unit` without floating point, dropping what is below one.
fn decimal(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.len() <= 18 && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let value = whole.parse::<u128>().ok()? * scale + fraction.parse::<u128>().ok()?;
    u64::try_from(value.checked_mul(u128::from(unit))? / scale).ok()
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_u64 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
        match units.iter().find(|(size, _)| self.0 >= *size && self.0.is_multiple_of(*size)) {
            Some((size, suffix)) => write!(f, "{}{suffix}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_reads_and_writes_back() {
        for (text, milli, shown) in
            [("500m", 500, "500m"), ("2", 2000, "2"), ("0.25", 250, "250m"), ("1000m", 1000, "1")]
        {
            let cpu = MilliCpu::parse("cpu", text).unwrap();
            assert_eq!((cpu.0, cpu.to_string().as_str()), (milli, shown));
        }
        for bad in ["", "0", "0m", "-1", "1e3", "m", "1.m", "99999999999999999999", "1 ", "½"] {
            assert!(MilliCpu::parse("cpu", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bytes_read_and_write_back() {
        for (text, bytes, shown) in [
            ("512Mi", 512 << 20, "512Mi"),
            ("1.5Gi", 3 << 29, "1536Mi"),
            ("1000", 1000, "1000"),
            ("2G", 2_000_000_000, "1953125Ki"),
        ] {
            let size = Bytes::parse("memory", text).unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown));
        }
        for bad in ["", "0", "Mi", "-5Mi", "5mb", "1..2", "99999999999Ti"] {
            assert!(Bytes::parse("memory", bad).is_err(), "{bad:?}");
        }
    }
}
