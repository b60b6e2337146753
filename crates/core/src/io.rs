//! Limits of a sandbox's I/O on its disk: as somebody wrote them, and as they are set. No I/O is done here.

use serde::{Deserialize, Serialize};

use crate::{error::Invalid, quantity::Bytes};

/// Below this, a sandbox could take minutes to start or to stop.
pub const LEAST_RATE: Bytes = Bytes(64 << 10);
/// Below this, too.
pub const LEAST_IOPS: u64 = 10;
/// The kernel counts operations in 32 bits.
const MOST_IOPS: u64 = u32::MAX as u64;

/// Limits as their author wrote them. What is absent is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IoSpec {
    /// Bytes read each second, e.g. `10Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_rate: Option<String>,
    /// Bytes written each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_rate: Option<String>,
    /// Read operations each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<u64>,
    /// Write operations each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<u64>,
}

/// Limits as they are set, each per second. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimits {
    /// Bytes read.
    pub read_rate: Option<Bytes>,
    /// Bytes written.
    pub write_rate: Option<Bytes>,
    /// Read operations.
    pub read_iops: Option<u64>,
    /// Write operations.
    pub write_iops: Option<u64>,
}

impl IoLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl IoSpec {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// These limits, each replaced where `other` names one.
    #[must_use]
    pub fn replaced_by(self, other: &Self) -> Self {
        Self {
            read_rate: other.read_rate.clone().or(self.read_rate),
            write_rate: other.write_rate.clone().or(self.write_rate),
            read_iops: other.read_iops.or(self.read_iops),
            write_iops: other.write_iops.or(self.write_iops),
        }
    }

    /// The limits that are meant.
    ///
    /// # Errors
    /// Names the first that cannot be, as `io.FIELD`.
    pub fn parse(&self) -> Result<IoLimits, Invalid> {
        Ok(IoLimits {
            read_rate: rate("io.read_rate", self.read_rate.as_deref())?,
            write_rate: rate("io.write_rate", self.write_rate.as_deref())?,
            read_iops: iops("io.read_iops", self.read_iops)?,
            write_iops: iops("io.write_iops", self.write_iops)?,
        })
    }
}

fn rate(field: &str, text: Option<&str>) -> Result<Option<Bytes>, Invalid> {
    let Some(text) = text else { return Ok(None) };
    match Bytes::parse(field, text)? {
        rate if rate < LEAST_RATE => {
            let problem = format!("{rate} each second is too little to work with; the least is {LEAST_RATE}");
            Err(Invalid::new(field, problem))
        }
        rate => Ok(Some(rate)),
    }
}

fn iops(field: &str, number: Option<u64>) -> Result<Option<u64>, Invalid> {
    match number {
        Some(number) if !(LEAST_IOPS..=MOST_IOPS).contains(&number) => {
            Err(Invalid::new(field, format!("{number} is not between {LEAST_IOPS} and {MOST_IOPS}")))
        }
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_not_limited() {
        assert!(IoSpec::default().parse().unwrap().is_none());
        let some = IoSpec { write_rate: Some("1Mi".into()), read_iops: Some(100), ..IoSpec::default() };
        let limits = some.parse().unwrap();
        assert_eq!((limits.write_rate, limits.read_iops), (Some(Bytes::MIB), Some(100)));
        assert_eq!((limits.read_rate, limits.write_iops), (None, None));
    }

    #[test]
    fn each_refusal_names_its_field() {
        let text = |text: &str| Some(text.to_owned());
        for (field, spec) in [
            ("io.read_rate", IoSpec { read_rate: text("0"), ..IoSpec::default() }),
            ("io.read_rate", IoSpec { read_rate: text("fast"), ..IoSpec::default() }),
            ("io.write_rate", IoSpec { write_rate: text("-1Mi"), ..IoSpec::default() }),
            ("io.write_rate", IoSpec { write_rate: text("1Ki"), ..IoSpec::default() }),
            ("io.read_iops", IoSpec { read_iops: Some(0), ..IoSpec::default() }),
            ("io.write_iops", IoSpec { write_iops: Some(1 << 32), ..IoSpec::default() }),
        ] {
            assert_eq!(spec.parse().unwrap_err().field, field);
        }
    }

    #[test]
    fn a_request_replaces_a_templates_limits_one_by_one() {
        let template = IoSpec { read_iops: Some(50), write_iops: Some(50), ..IoSpec::default() };
        let asked = IoSpec { write_iops: Some(20), ..IoSpec::default() };
        let both = template.replaced_by(&asked);
        assert_eq!((both.read_iops, both.write_iops), (Some(50), Some(20)));
    }
}
