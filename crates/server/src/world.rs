//! The clock and randomness, as values that are passed in, so that tests decide them.

use atoll_core::{
    id::{SandboxId, SnapshotId},
    key,
};
use jiff::Timestamp;

/// Where time and randomness come from.
pub trait World: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;

    /// Fills `bytes` with randomness that nobody can guess.
    ///
    /// # Errors
    /// When the system has none to give.
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()>;
}

/// The system's clock and random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealWorld;

impl World for RealWorld {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        getrandom::fill(bytes).map_err(std::io::Error::other)
    }
}

pub(crate) fn bytes<const N: usize>(world: &dyn World) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    world.fill(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn new_id(world: &dyn World) -> std::io::Result<SandboxId> {
    Ok(SandboxId::from_entropy(bytes(world)?))
}

pub(crate) fn new_snapshot_id(world: &dyn World) -> std::io::Result<SnapshotId> {
    Ok(SnapshotId::from_entropy(bytes(world)?))
}

/// A secret for a new API key.
///
/// # Errors
/// When the system has no randomness to give.
pub fn new_secret(world: &dyn World) -> std::io::Result<String> {
    Ok(key::secret(bytes(world)?))
}
