//! Snapshots: the files of a sandbox at one moment, kept beside the image it was made from, and the port through which they
//! are managed. Processes, memory and volumes are not in one. It must not know how files are kept.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::{
    driver::{DriverError, Position},
    error::Invalid,
    id::{SandboxId, SnapshotId},
    quantity::Bytes,
    sandbox::{Limits, SandboxSpec},
};

/// What an image reference begins with that names a snapshot.
const PREFIX: &str = "snapshot:";
/// Longest name, and longest tag of one.
const LONGEST: usize = 128;

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name everywhere.
    pub id: SnapshotId,
    /// The tenant of its source; for all others there is no such snapshot.
    pub tenant: String,
    /// What users call it, each `name` or `name:tag`. Several snapshots of a tenant may have one name: the newest counts.
    #[serde(default)]
    pub names: Vec<String>,
    /// What a program finds it by, e.g. a hash of what it was built from. The newest of a tenant's with one key counts.
    #[serde(default)]
    pub key: Option<String>,
    /// The sandbox that it was taken of, which may be gone.
    pub source: SandboxId,
    /// When it was taken.
    pub created_at: Timestamp,
    /// Bytes of its files beyond those of the image, where that is counted.
    #[serde(default)]
    pub size: Option<Bytes>,
    /// The image below, as its source named it; never a snapshot.
    pub image: String,
    /// What its source had.
    pub limits: Limits,
    /// How its sandboxes run.
    pub defaults: Defaults,
}

impl Snapshot {
    /// Where it stands in a list.
    #[must_use]
    pub fn position(&self) -> Position<SnapshotId> {
        Position::at(self.created_at, self.id.clone())
    }

    /// The image reference by which a sandbox is made from it.
    #[must_use]
    pub fn reference(&self) -> String {
        reference(&self.id)
    }
}

/// How a sandbox runs that is made from a snapshot, where its own spec says nothing. As with an image's, its own environment
/// is added to this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defaults {
    /// Environment of every command.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Default user; `None` is the image's.
    #[serde(default)]
    pub user: Option<String>,
    /// Default directory; `None` is the image's.
    #[serde(default)]
    pub workdir: Option<String>,
    /// What runs from the start; `None` runs only the agent.
    #[serde(default)]
    pub start_command: Option<Vec<String>>,
}

impl Defaults {
    /// These, with what a sandbox's spec says put over them.
    #[must_use]
    pub fn below(mut self, spec: &SandboxSpec) -> Self {
        self.env.extend(spec.env.clone());
        Self {
            env: self.env,
            user: spec.user.clone().or(self.user),
            workdir: spec.workdir.clone().or(self.workdir),
            start_command: spec.start_command.clone().or(self.start_command),
        }
    }
}

/// A snapshot to be taken.
#[derive(Clone, Debug)]
pub struct NewSnapshot {
    /// Its identifier, which must be new.
    pub id: SnapshotId,
    /// Now.
    pub at: Timestamp,
    /// See [`Snapshot::names`].
    pub names: Vec<String>,
    /// See [`Snapshot::key`].
    pub key: Option<String>,
    /// Replaces the source's environment.
    pub env: Option<BTreeMap<String, String>>,
    /// Replaces the source's default user.
    pub user: Option<String>,
    /// Replaces the source's default directory.
    pub workdir: Option<String>,
    /// Replaces the source's start command; an empty one takes it away.
    pub start_command: Option<Vec<String>>,
    /// Whether it is but a means: no list has it, and a server that starts removes it, as soon as no sandbox that is being
    /// made needs it.
    pub passing: bool,
}

impl NewSnapshot {
    /// A snapshot that has no name and takes everything from its source.
    #[must_use]
    pub fn new(id: SnapshotId, at: Timestamp) -> Self {
        Self {
            id,
            at,
            names: Vec::new(),
            key: None,
            env: None,
            user: None,
            workdir: None,
            start_command: None,
            passing: false,
        }
    }

    /// The snapshot of a source that runs as `of` says and stands on `image`.
    #[must_use]
    pub fn made(self, source: &SandboxSpec, image: String, of: Defaults, size: Option<Bytes>) -> Snapshot {
        let defaults = Defaults {
            env: self.env.unwrap_or(of.env),
            user: self.user.or(of.user),
            workdir: self.workdir.or(of.workdir),
            start_command: self.start_command.or(of.start_command).filter(|words| !words.is_empty()),
        };
        Snapshot {
            id: self.id,
            tenant: source.tenant.clone(),
            names: self.names,
            key: self.key,
            source: source.id.clone(),
            created_at: self.at,
            size,
            image,
            limits: source.limits,
            defaults,
        }
    }
}

/// Which snapshots to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct SnapshotQuery {
    /// Only this tenant's; `None` is all.
    pub tenant: Option<String>,
    /// Only those taken of this sandbox.
    pub source: Option<SandboxId>,
    /// Only those with this name; one without a tag stands for all tags.
    pub name: Option<String>,
    /// Only those with this key.
    pub key: Option<String>,
    /// Only those without a key: what people took, and no program for itself.
    pub keyless: bool,
    /// At most so many.
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<Position<SnapshotId>>,
}

impl SnapshotQuery {
    /// Whether a snapshot is one of those, wherever it stands.
    #[must_use]
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let named = |wanted: &String| snapshot.names.iter().any(|name| answers(name, wanted));
        self.tenant.as_ref().is_none_or(|tenant| *tenant == snapshot.tenant)
            && self.source.as_ref().is_none_or(|source| *source == snapshot.source)
            && self.name.as_ref().is_none_or(named)
            && (self.key.is_none() || self.key == snapshot.key)
            && !(self.keyless && snapshot.key.is_some())
    }

    /// The page that this asks for, of all that there are.
    #[must_use]
    pub fn page<'a>(&self, all: impl Iterator<Item = &'a Snapshot>) -> SnapshotPage {
        let after = |it: &&Snapshot| self.cursor.as_ref().is_none_or(|cursor| it.position() > *cursor);
        let mut found: Vec<&Snapshot> = all.filter(|it| self.matches(it)).filter(after).collect();
        found.sort_by_cached_key(|it| it.position());
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        let next = found.last().filter(|_| more).map(|it| it.position());
        SnapshotPage { items: found.into_iter().cloned().collect(), next }
    }
}

fn answers(name: &str, wanted: &str) -> bool {
    name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(':'))
}

/// One page of a list.
#[derive(Clone, Debug, Default)]
pub struct SnapshotPage {
    /// The snapshots.
    pub items: Vec<Snapshot>,
    /// Where to go on, unless this was the last page.
    pub next: Option<Position<SnapshotId>>,
}

/// The snapshots that a driver keeps. A sandbox is made from one by its [`reference`] as the image; with that of another
/// tenant, or of none, its creation is refused as `snapshot_not_found`. Where the driver cannot, calls answer
/// [`DriverError::Unsupported`].
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// Keeps the files of a running, paused or stopped sandbox as they are at one moment between the call and its answer.
    /// Of others it is [`DriverError::Conflict`]. The sandbox goes on as it was, also when this fails; then nothing is left.
    async fn take(&self, sandbox: &SandboxId, ask: NewSnapshot) -> Result<Snapshot, DriverError>;
    /// One snapshot.
    async fn get(&self, id: &SnapshotId) -> Result<Snapshot, DriverError>;
    /// Those that match, newest first.
    async fn list(&self, query: &SnapshotQuery) -> Result<SnapshotPage, DriverError>;
    /// Forgets a snapshot. Sandboxes that were made from it, or are being made, keep what they have of it.
    async fn remove(&self, id: &SnapshotId) -> Result<(), DriverError>;
}

/// The image reference by which a sandbox is made from a snapshot: `snapshot:ID`.
#[must_use]
pub fn reference(id: &SnapshotId) -> String {
    format!("{PREFIX}{id}")
}

/// The snapshot that an image reference names, where it names one.
///
/// # Errors
/// When it begins as one that does and goes on otherwise.
pub fn of_image(image: &str) -> Result<Option<SnapshotId>, Invalid> {
    let Some(id) = image.strip_prefix(PREFIX) else { return Ok(None) };
    let refused = |error: Invalid| Invalid::new("image", format!("{image:?}: {}", error.problem));
    SnapshotId::parse(id).map(Some).map_err(refused)
}

/// What is said of a snapshot that is not there, or is another tenant's, to whoever wants a sandbox of it.
#[must_use]
pub fn unknown(id: &SnapshotId) -> DriverError {
    let message = format!("snapshot {id} does not exist; `GET /api/v1/snapshots` has those that do");
    DriverError::Image { code: "snapshot_not_found".into(), message }
}

/// Checks what a user calls a snapshot: `name` or `name:tag`.
///
/// # Errors
/// When it is no name; the error carries `field`.
pub fn check_snapshot_name(field: &str, text: &str) -> Result<(), Invalid> {
    let (name, tag) = text.split_once(':').map_or((text, None), |(name, tag)| (name, Some(tag)));
    let plain = |part: &str, more: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c) || more.contains(c);
        (1..=LONGEST).contains(&part.len())
            && part.chars().all(fits)
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    if !plain(name, "/") || !tag.is_none_or(|tag| plain(tag, "")) {
        let rule = format!(
            "name or name:tag, each 1 to {LONGEST} letters, digits, `-`, `_`, `.`, beginning with a letter or digit; the \
             name may have `/` too"
        );
        return Err(Invalid::new(field, format!("{text:?} is not a name of a snapshot: {rule}")));
    }
    if SnapshotId::parse(name).is_ok() || SandboxId::parse(name).is_ok() {
        return Err(Invalid::new(field, format!("{name:?} could be an id; choose a name that could not")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sandbox;

    fn made(n: u8, names: &[&str]) -> Snapshot {
        let at = Timestamp::from_second(n.into()).unwrap();
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let ask = NewSnapshot { names, ..NewSnapshot::new(SnapshotId::from_entropy([n; 19]), at) };
        ask.made(&sandbox(n).spec, "base".into(), Defaults::default(), None)
    }

    #[test]
    fn an_image_may_name_a_snapshot() {
        let id = SnapshotId::from_entropy([1; 19]);
        assert_eq!(of_image(&reference(&id)), Ok(Some(id)));
        for other in ["base", "python:3.11-slim", "a/snapshot:x"] {
            assert_eq!(of_image(other), Ok(None), "{other}");
        }
        for bad in ["snapshot:", "snapshot:latest", "snapshot:../../etc"] {
            assert_eq!(of_image(bad).unwrap_err().field, "image", "{bad}");
        }
    }

    #[test]
    fn names_may_have_tags() {
        for fine in ["a", "my-work", "acme/Tools_2.0:v1", "x:latest"] {
            check_snapshot_name("name", fine).unwrap();
        }
        let (long, id) = ("x".repeat(129), SnapshotId::from_entropy([1; 19]).to_string());
        for bad in ["", ":v1", "a:", "a:b:c", "-a", "a b", "a:b/c", "é", "../x", &long, &id] {
            assert_eq!(check_snapshot_name("name", bad).unwrap_err().field, "name", "{bad:?}");
        }
    }

    #[test]
    fn a_name_without_a_tag_stands_for_all() {
        let all = [made(1, &["tools:v1"]), made(2, &["tools"]), made(3, &["toolshed:v1"])];
        let found = |name: &str| {
            let query = SnapshotQuery { name: Some(name.into()), limit: 9, ..SnapshotQuery::default() };
            query.page(all.iter()).items.iter().map(|it| it.created_at.as_second()).collect::<Vec<_>>()
        };
        assert_eq!(found("tools"), [2, 1]);
        assert_eq!(found("tools:v1"), [1]);
        assert_eq!(found("tool"), Vec::<i64>::new());
    }

    #[test]
    fn what_the_spec_says_goes_over_the_defaults() {
        let env = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let mut spec = sandbox(1).spec;
        spec.env = env(&[("A", "spec")]);
        spec.workdir = Some("/srv".into());
        let below = Defaults {
            env: env(&[("A", "image"), ("B", "image")]),
            user: Some("user".into()),
            workdir: Some("/".into()),
            start_command: Some(vec!["sleep".into()]),
        };
        let both = below.below(&spec);
        assert_eq!(both.env, env(&[("A", "spec"), ("B", "image")]));
        assert_eq!((both.user.as_deref(), both.workdir.as_deref()), (Some("user"), Some("/srv")));
        let ask = NewSnapshot {
            env: Some(env(&[("C", "new")])),
            start_command: Some(Vec::new()),
            ..NewSnapshot::new(SnapshotId::from_entropy([1; 19]), Timestamp::UNIX_EPOCH)
        };
        let defaults = ask.made(&spec, "base".into(), both, None).defaults;
        assert_eq!((defaults.env, defaults.start_command), (env(&[("C", "new")]), None));
        assert_eq!(defaults.workdir.as_deref(), Some("/srv"));
    }
}
