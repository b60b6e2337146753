//! What a data directory holds of its machine: the lock that makes it one server's, its tag, its block of uids.
//! Several directories live side by side; what must differ between them is chosen under a lock of the whole machine.

use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, TryLockError},
    io,
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{
    launcher::UIDS_PER_SANDBOX,
    net::{HostLock, NetError, NetPlan, PlanOptions, RUN_ROOT, plan},
};

/// The places that sandboxes of one data directory can have: so many uid ranges fit into a sixteenth of all uids, and the
/// first addresses of a block are the router's.
pub const SLOTS: Range<u32> = 16..4096;
/// A sixteenth of all uids. The first, where the machine's own users are, is never taken.
const BLOCK: u64 = 1 << 28;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file operation failed.
    #[error("{path}: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server has it.
    #[error("another server uses {0}; stop it, or name another --data")]
    Locked(PathBuf),
    /// All uid blocks are taken.
    #[error("15 data directories are in use on this machine, which is all that fit; destroy one")]
    NoUids,
    /// The network could not be planned.
    #[error(transparent)]
    Net(#[from] NetError),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> HostError + '_ {
    move |source| HostError::File { path: path.to_owned(), source }
}

/// What was chosen for a data directory, at its first start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Six hex digits that are part of every name on the machine.
    pub tag: String,
    /// First uid of its block.
    pub uid_base: u32,
    /// Its addresses and router.
    pub net: NetPlan,
}

impl Host {
    /// The name of its control group.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("atoll-{}", self.tag)
    }

    /// First uid of a sandbox. Slots count from the address block's first.
    #[must_use]
    pub fn uid(&self, slot: u32) -> u32 {
        self.uid_base + slot * UIDS_PER_SANDBOX
    }
}

/// Makes the directory and locks it for this process; the lock ends with the file.
///
/// # Errors
/// When another server has it.
pub fn lock(data: &Path) -> Result<File, HostError> {
    fs::create_dir_all(data).map_err(at(data))?;
    fs::set_permissions(data, fs::Permissions::from_mode(0o700)).map_err(at(data))?;
    let path = data.join("lock");
    let file = File::create(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HostError::Locked(data.to_owned())),
        Err(TryLockError::Error(error)) => Err(at(&path)(error)),
    }
}

/// What was chosen for this directory, or a new choice.
///
/// # Errors
/// When nothing is left to choose.
pub fn choose(data: &Path) -> Result<Host, HostError> {
    let path = data.join("host.json");
    let known = read(&path)?;
    let tag = match &known {
        Some(host) => host.tag.clone(),
        None => new_tag()?,
    };
    let options = PlanOptions::default();
    let net = plan(&tag, &options)?;
    let lock = HostLock::acquire(&options.run_root)?;
    let uid_base = claim_uids(data, known.map(|host| host.uid_base))?;
    drop(lock);
    let host = Host { tag, uid_base, net };
    let text = serde_json::to_vec_pretty(&host).map_err(|error| at(&path)(error.into()))?;
    let unfinished = data.join("host.json.new");
    fs::write(&unfinished, text).map_err(at(&unfinished))?;
    fs::rename(&unfinished, &path).map_err(at(&path))?;
    Ok(host)
}

/// What was chosen for this directory, if anything was.
///
/// # Errors
/// When the file is damaged.
pub fn read(path: &Path) -> Result<Option<Host>, HostError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| at(path)(error.into())),
    }
}

fn new_tag() -> Result<String, HostError> {
    let mut bytes = [0; 3];
    let source = Path::new("getrandom");
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| at(source)(error.into()))?;
    Ok(hex::encode(bytes))
}

fn claims() -> PathBuf {
    Path::new(RUN_ROOT).join("uids")
}

/// Claims are files named by block that hold the directory's path. One whose directory is gone is free.
fn claim_uids(data: &Path, wanted: Option<u32>) -> Result<u32, HostError> {
    let claims = claims();
    fs::create_dir_all(&claims).map_err(at(&claims))?;
    let data = fs::canonicalize(data).map_err(at(data))?;
    let first = wanted.map_or(1, |base| (u64::from(base) / BLOCK).clamp(1, 15));
    for block in (first..16).chain(1..first) {
        let path = claims.join(block.to_string());
        let owner = fs::read_to_string(&path).unwrap_or_default();
        let free =
            owner.is_empty() || Path::new(&owner) == data || !Path::new(&owner).join("host.json").exists();
        if free {
            fs::write(&path, data.display().to_string()).map_err(at(&path))?;
            return u32::try_from(block * BLOCK).map_err(|_| HostError::NoUids);
        }
        if wanted.is_some() {
            break;
        }
    }
    Err(HostError::NoUids)
}

/// Gives up what was chosen.
pub fn release(data: &Path, host: &Host) {
    let _ = fs::remove_file(claims().join((u64::from(host.uid_base) / BLOCK).to_string()));
    let _ = fs::remove_file(data.join("host.json"));
}
