//! The driver of one machine keeps the contract of snapshots, on both of its storages, with the program's own launcher and
//! agent.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper that fails fails its test")]

use atoll_core::{
    driver::{Driver, ListQuery},
    quantity::Bytes,
    sandbox::SandboxSpec,
    testing::{sandbox, snapshot_contract},
};
use atoll_local::{
    LocalConfig, LocalDriver, Storage, StorageKind, destroy, images::RegistryConfig, oci::Runtimes,
};
use sha2::Digest;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// An image of nothing but a directory: the agent needs no more.
const IMAGE: &str = "localhost/empty:1";

fn archive() -> Vec<u8> {
    let entry = |kind, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size as u64);
        header
    };
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_data(&mut entry(tar::EntryType::Directory, 0), "etc", &b""[..]).unwrap();
    let layer = layer.into_inner().unwrap();
    let digest = hex::encode(sha2::Sha256::digest(&layer));
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({"os": "linux", "architecture": architecture, "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}})
    .to_string();
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    let files = [("config.json", config.into_bytes()), ("layer.tar", layer)];
    for (name, bytes) in files.into_iter().chain([("manifest.json", manifest.to_string().into_bytes())]) {
        archive.append_data(&mut entry(tar::EntryType::Regular, bytes.len()), name, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

/// The agent that the program carries.
fn agent(folder: &Path) -> &'static [u8] {
    let program = env!("CARGO_BIN_EXE_atoll");
    let written = Command::new(program).arg("install-agent").arg(folder).status().unwrap();
    assert!(written.success(), "{written:?}");
    std::fs::read(folder.join("atoll-agent")).unwrap().leak()
}

fn spec(n: u8) -> SandboxSpec {
    let mut spec = sandbox(n).spec;
    spec.image = IMAGE.into();
    spec.limits.disk = Bytes(32 << 20);
    spec
}

async fn on(storage: StorageKind) {
    let place = tempfile::Builder::new().prefix("atoll-").tempdir_in("/var/tmp").unwrap();
    let data = place.path().join("data");
    let driver = LocalDriver::open(LocalConfig {
        data: data.clone(),
        agent: agent(place.path()),
        launcher: PathBuf::from(env!("CARGO_BIN_EXE_atoll")),
        storage: Storage::Only(storage),
        disk: Some(Bytes::GIB),
        registries: RegistryConfig::default(),
        runtimes: Runtimes::beside(&[]),
        private_egress: false,
    })
    .await
    .unwrap();
    let image = place.path().join("image.tar");
    std::fs::write(&image, archive()).unwrap();
    driver.image_store().import(&image, IMAGE, &|_| ()).await.unwrap();
    snapshot_contract(&driver, spec).await;
    clear(&driver).await;
    drop(driver);
    close(&data).await;
}

async fn clear(driver: &LocalDriver) {
    let all = ListQuery { limit: 100, ..ListQuery::default() };
    let mut events = driver.subscribe();
    for it in Driver::list(driver, &all).await.unwrap().items {
        driver.delete(it.id(), it.reason.clone()).await.unwrap();
    }
    while !Driver::list(driver, &all).await.unwrap().items.is_empty() {
        events.recv().await.unwrap();
    }
}

/// What the driver began in the background ends soon after it.
async fn close(data: &Path) {
    let begun = Instant::now();
    while let Err(error) = destroy(data) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn run(name: &str, storage: StorageKind) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: {name}: sandboxes need root");
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(on(storage));
}

#[test]
fn the_contract_holds_on_btrfs() {
    run("the_contract_holds_on_btrfs", StorageKind::Btrfs);
}

#[test]
fn the_contract_holds_without_btrfs() {
    run("the_contract_holds_without_btrfs", StorageKind::Ext4);
}
