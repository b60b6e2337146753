//! Volumes: storage of a user that outlives their sandboxes, and the port through which it is managed.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::{driver::DriverError, error::Invalid, id::SandboxId, id::check_name, quantity::Bytes};

/// Size of a volume that names none.
pub const DEFAULT_SIZE: Bytes = Bytes(10 << 30);

/// The least that a filesystem needs for itself.
const LEAST_SIZE: Bytes = Bytes(16 << 20);

/// Where nothing may be mounted: the system's own, and the agent's place.
const TAKEN: [&str; 4] = ["/proc", "/sys", "/dev", "/.atoll"];

/// A volume as a template's author writes it. Its name is the key in [`crate::template::TemplateSpec::volumes`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Where it is mounted, e.g. `/home/user`.
    pub path: String,
    /// How much it holds, e.g. `10Gi`; [`DEFAULT_SIZE`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
}

/// A volume of a sandbox. Which one it is follows from the sandbox's tenant and owner and from its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Unique among the owner's.
    pub name: String,
    /// Where it is mounted.
    pub path: String,
    /// How much it holds.
    pub size: Bytes,
}

/// Reads a template's volumes.
///
/// # Errors
/// Names the volume whose name, path or size cannot be.
pub fn parse(volumes: &BTreeMap<String, VolumeSpec>) -> Result<Vec<Volume>, Invalid> {
    let mut parsed: Vec<Volume> = Vec::new();
    for (name, spec) in volumes {
        check_name(&format!("volumes.{name}"), name)?;
        let path = check_path(&format!("volumes.{name}.path"), &spec.path)?;
        if let Some(other) = parsed.iter().find(|other| other.path == path) {
            let problem = format!("{path} is where volume {} is mounted", other.name);
            return Err(Invalid::new(format!("volumes.{name}.path"), problem));
        }
        let size = spec.size.as_deref().map(|text| check_size(&format!("volumes.{name}.size"), text));
        parsed.push(Volume { name: name.clone(), path, size: size.transpose()?.unwrap_or(DEFAULT_SIZE) });
    }
    Ok(parsed)
}

fn check_size(field: &str, text: &str) -> Result<Bytes, Invalid> {
    let size = Bytes::parse(field, text)?;
    if size < LEAST_SIZE {
        return Err(Invalid::new(field, format!("{size} is too little; the least is {LEAST_SIZE}")));
    }
    Ok(size)
}

fn check_path(field: &str, path: &str) -> Result<String, Invalid> {
    let refuse = |problem: &str| Err(Invalid::new(field, format!("{path:?} {problem}")));
    let plain = path.trim_end_matches('/');
    if !plain.starts_with('/') || path.contains(['\0', ':']) {
        return refuse("is no absolute path below /, e.g. /home/user");
    }
    if plain.split('/').skip(1).any(|part| part.is_empty() || part == "." || part == "..") {
        return refuse("is not plain: no `.`, `..` or empty parts");
    }
    if TAKEN.iter().any(|taken| plain == *taken || plain.starts_with(&format!("{taken}/"))) {
        return refuse("belongs to the system");
    }
    Ok(plain.to_owned())
}

/// A volume that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Its tenant.
    pub tenant: String,
    /// Its user.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// How much it holds.
    pub size: Bytes,
    /// When it was made.
    pub created_at: Timestamp,
    /// The sandbox that has it, also while that rests.
    pub used_by: Option<SandboxId>,
}

/// The volumes that a driver keeps. They are made when the first sandbox that names them is created, and kept when it is
/// deleted. One sandbox has a volume at a time: creating another is refused as [`DriverError::InUse`].
#[async_trait]
pub trait Volumes: Send + Sync {
    /// Those of a tenant (`None` is all) and, with `owner`, of one user, by tenant, owner and name.
    async fn list(&self, tenant: Option<&str>, owner: Option<&str>) -> Result<Vec<VolumeInfo>, DriverError>;
    /// Removes a volume with everything on it. One that a sandbox has is refused.
    async fn remove(&self, tenant: &str, owner: &str, name: &str) -> Result<(), DriverError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(path: &str, size: Option<&str>) -> BTreeMap<String, VolumeSpec> {
        BTreeMap::from([("home".into(), VolumeSpec { path: path.into(), size: size.map(str::to_owned) })])
    }

    #[test]
    fn a_path_is_enough() {
        let parsed = parse(&one("/home/user/", None)).unwrap();
        assert_eq!(parsed, [Volume { name: "home".into(), path: "/home/user".into(), size: DEFAULT_SIZE }]);
    }

    #[test]
    fn each_refusal_names_its_field() {
        for bad in ["", "/", "home", "/a/../b", "/a//b", "/proc", "/dev/shm", "/.atoll", "/a:b", "/./a"] {
            assert_eq!(parse(&one(bad, None)).unwrap_err().field, "volumes.home.path", "{bad:?}");
        }
        for bad in ["much", "0", "1Mi"] {
            assert_eq!(parse(&one("/a", Some(bad))).unwrap_err().field, "volumes.home.size", "{bad}");
        }
        let mut two = one("/a", None);
        two.insert("work".into(), VolumeSpec { path: "/a/".into(), size: None });
        assert_eq!(parse(&two).unwrap_err().field, "volumes.work.path");
        let named = BTreeMap::from([("A b".into(), VolumeSpec { path: "/a".into(), size: None })]);
        assert_eq!(parse(&named).unwrap_err().field, "volumes.A b");
    }
}
