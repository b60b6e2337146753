//! Fakes and contract suites of the ports, and sample values, for tests of every crate.

mod builds_contract;
mod fake_builds;
mod fake_driver;
mod fake_images;
mod fake_snapshots;
mod fake_store;
mod fake_volumes;
mod snapshot_contract;
mod store_contract;

pub use fake_driver::{Connector, FakeDriver};
pub use fake_images::FakeImages;
pub use fake_store::FakeStore;
pub use fake_volumes::FakeVolumes;
pub use snapshot_contract::snapshot_contract;
pub use store_contract::store_contract;

use jiff::Timestamp;

use crate::{
    id::SandboxId,
    quantity::{Bytes, MilliCpu},
    request::{Birth, Capacity, CreateRequest, resolve},
    sandbox::Sandbox,
};

/// What the fakes can give to one sandbox.
pub const ROOM: Capacity =
    Capacity { cpu: MilliCpu(2000), memory: Bytes(8 << 30), disk: Bytes(64 << 30), pids: 4096 };

/// A sandbox of image `base` that was asked for at the epoch; `n` tells several apart.
#[must_use]
pub fn sandbox(n: u8) -> Sandbox {
    let birth =
        Birth { id: SandboxId::from_entropy([n; 19]), tenant: "default".into(), at: Timestamp::UNIX_EPOCH };
    let ask = CreateRequest { image: Some("base".into()), ..CreateRequest::default() };
    resolve(ask, None, &ROOM, birth).unwrap_or_else(|refused| unreachable!("the sample is valid: {refused}"))
}
