//! The image store against a real registry on loopback, with real overlays, real full disks and real kills.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

mod images_support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use atoll_local::images::{
    Credentials, ImageError, ImageStore, Limits, Percentage, PruneScope, PullEvent, PullOptions,
    RegistryConfig,
};
use images_support::{Layout, Mounted, Registry, Tar, digest_of, free_port, install_tls};

fn store(root: &Path) -> ImageStore {
    install_tls();
    ImageStore::open(root, RegistryConfig::default()).unwrap()
}

fn forced() -> PullOptions {
    PullOptions { force: true, ..PullOptions::default() }
}

/// Nothing but an empty house.
fn assert_empty(root: &Path) {
    for name in ["tmp", "layers", "blobs", "images", "names"] {
        let left: Vec<_> = fs::read_dir(root.join(name)).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_mounts_as_an_overlay() {
    let registry = Registry::start();
    let lower =
        Tar::new().dir("etc").file("etc/old", "old").file("etc/kept", "kept").dir("d").file("d/below", "x");
    let upper = Tar::new()
        .file("etc/.wh.old", "")
        .file("etc/new", "new")
        .hard_link("etc/second", "etc/new")
        .dir("d")
        .file("d/.wh..wh..opq", "")
        .file("d/above", "y");
    registry.push(&Layout::new().gzip(&lower).zstd(&upper).zstd(&upper), "test/plain:1");
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let (events, figures) = (Mutex::new(Vec::new()), Mutex::new((Percentage::default(), Vec::new())));
    let progress = |event: PullEvent| {
        let mut figures = figures.lock().unwrap();
        let figure = figures.0.update(&event);
        figures.1.push(figure);
        events.lock().unwrap().push(event);
    };
    let name = registry.name("test/plain:1");
    assert_eq!(store.get(&name).await.unwrap(), None);
    let image = store.pull(&name, PullOptions::default(), &progress).await.unwrap();

    assert_eq!(image.layers.len(), 2, "a layer that occurs twice is mounted once");
    assert_eq!(image.config.cmd, ["/bin/sh"]);
    assert_eq!(image.config.exposed_ports, ["8080/tcp"]);
    assert_eq!((image.config.user.as_str(), image.config.workdir.as_str()), ("1000:1000", "/srv"));
    assert_eq!(image.config.labels["who"], "test");
    assert_eq!(events.lock().unwrap().first(), Some(&PullEvent::Resolving));
    assert_eq!(events.lock().unwrap().last(), Some(&PullEvent::Done));
    let shown = std::mem::take(&mut figures.lock().unwrap().1);
    assert!(shown.is_sorted() && shown.last() == Some(&100), "{shown:?}");

    let mounted = Mounted::new(&image.layers);
    let read = |path: &str| fs::read_to_string(mounted.root().join(path)).ok();
    assert_eq!((read("etc/old"), read("etc/kept")), (None, Some("kept".into())));
    assert_eq!((read("d/below"), read("d/above")), (None, Some("y".into())));
    assert_eq!(fs::metadata(mounted.root().join("etc/second")).unwrap().nlink(), 2);
    drop(mounted);

    assert_eq!(store.get(&name).await.unwrap().as_ref(), Some(&image));
    assert_eq!(store.get(&image.digest).await.unwrap().unwrap().layers, image.layers);
    let by_digest = registry.name(&format!("test/plain@{}", image.digest));
    assert_eq!(store.get(&by_digest).await.unwrap().unwrap().digest, image.digest);
    assert_eq!(store.pull(&by_digest, forced(), &|_| {}).await.unwrap().digest, image.digest);
    assert_eq!(store.list().await.unwrap().len(), 2);
    assert_eq!(
        fs::read_dir(root.path().join("blobs")).unwrap().count(),
        0,
        "blobs go once they are unpacked"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_again_with_what_it_had() {
    let registry = Registry::start();
    registry.push(&Layout::new().gzip(&Tar::new().file("a", "1")), "again:1");
    let root = tempfile::tempdir().unwrap();
    let first = store(root.path());
    let image = first.pull(&registry.name("again:1"), PullOptions::default(), &|_| {}).await.unwrap();
    assert!(matches!(
        ImageStore::open(root.path(), RegistryConfig::default()),
        Err(ImageError::Locked { .. })
    ));
    drop(first);
    fs::create_dir_all(root.path().join("tmp/7/fs/half")).unwrap();
    let second = store(root.path());
    assert_eq!(second.list().await.unwrap(), std::slice::from_ref(&image));
    assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
    drop(second);
    // An image that lost a layer is no image.
    fs::remove_dir_all(image.layers[0].parent().unwrap()).unwrap();
    assert_eq!(store(root.path()).list().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_pulls_at_once_fetch_once() {
    let registry = Registry::start();
    let layout =
        Layout::new().gzip(&Tar::new().noise("a", 3 << 20, 1)).gzip(&Tar::new().noise("b", 1 << 20, 2));
    registry.push(&layout, "shared:1");
    registry.push(&layout, "shared:2");
    registry.forget_requests();
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let pulls = (0..8).map(|number| {
        let (store, name) = (store.clone(), registry.name(if number < 6 { "shared:1" } else { "shared:2" }));
        tokio::spawn(async move { store.pull(&name, PullOptions::default(), &|_| {}).await })
    });
    for pull in pulls.collect::<Vec<_>>() {
        pull.await.unwrap().unwrap();
    }
    for blob in layout.layer_digests() {
        assert_eq!(registry.requests(&format!("GET /v2/shared/blobs/{blob}")), 1);
    }
    assert_eq!(registry.requests("GET /v2/shared/manifests/1 "), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_asked_for_and_used() {
    let registry = Registry::start_with_password("me", "secret");
    registry.push(&Layout::new().gzip(&Tar::new().file("a", "1")), "private:1");
    let root = tempfile::tempdir().unwrap();
    let open = store(root.path());
    let name = registry.name("private:1");
    let basic = |password: &str| PullOptions {
        credentials: Some(Credentials::Basic { username: "me".into(), password: password.into() }),
        ..PullOptions::default()
    };
    let error = open.pull(&name, PullOptions::default(), &|_| {}).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    let error = open.pull(&name, basic("wrong-one"), &|_| {}).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert!(!error.to_string().contains("wrong-one") && error.to_string().contains("private:1"));
    assert_empty(root.path());
    open.pull(&name, basic("secret"), &|_| {}).await.unwrap();
    drop(open);

    let docker_config = root.path().join("config.json");
    let text =
        format!(r#"{{"auths": {{"{}": {{"username": "me", "password": "secret"}}}}}}"#, registry.host());
    fs::write(&docker_config, text).unwrap();
    let config = RegistryConfig { docker_config: Some(docker_config), ..RegistryConfig::default() };
    let other = tempfile::tempdir().unwrap();
    let open = ImageStore::open(other.path(), config).unwrap();
    open.pull(&name, PullOptions::default(), &|_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_serves_docker_hubs_names() {
    let registry = Registry::start();
    registry.push(&Layout::new().gzip(&Tar::new().file("a", "1")), "library/python:3.11-slim");
    registry.push(&Layout::new().gzip(&Tar::new().file("b", "1")), "hub/library/tool:1");
    install_tls();
    let mirrors = |list: &[String]| BTreeMap::from([(String::from("docker.io"), list.to_vec())]);
    let root = tempfile::tempdir().unwrap();
    let dead = format!("http://127.0.0.1:{}", free_port());
    let live = format!("http://{}", registry.host());
    let config = RegistryConfig {
        mirrors: mirrors(&[dead, live.clone(), format!("{live}/hub/")]),
        ..Default::default()
    };
    let store = ImageStore::open(root.path(), config).unwrap();
    let image = store.pull("python:3.11-slim", PullOptions::default(), &|_| {}).await.unwrap();
    assert_eq!(image.reference, "docker.io/library/python:3.11-slim");
    assert_eq!(store.get("docker.io/library/python:3.11-slim").await.unwrap().as_ref(), Some(&image));
    assert_eq!(store.get("python:3.11-slim").await.unwrap().as_ref(), Some(&image));
    store.pull("tool:1", PullOptions::default(), &|_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_says_why() {
    let registry = Registry::start();
    registry.push(&Layout::new().gzip(&Tar::new().file("a", "1")), "known:1");
    registry.push(&Layout::new().architecture("arm64").gzip(&Tar::new().file("a", "2")), "arm:1");
    registry.push_index(&["arm64", "s390x"], "other:1");
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let pull = async |name: String| store.pull(&name, PullOptions::default(), &|_| {}).await.unwrap_err();

    let error = pull(registry.name("unknown:1")).await;
    assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
    let error = pull(registry.name("known:2")).await;
    assert!(
        matches!(&error, ImageError::NotFound { reference, .. } if reference.ends_with("known:2")),
        "{error}"
    );
    let error = pull(format!("127.0.0.1:{}/x:1", free_port())).await;
    assert!(
        matches!(&error, ImageError::Unreachable { .. }) && error.to_string().contains("refused"),
        "{error}"
    );
    for (name, found) in [("arm:1", "arm64"), ("other:1", "linux/arm64, linux/s390x")] {
        let error = pull(registry.name(name)).await;
        assert!(matches!(error, ImageError::WrongPlatform { .. }), "{error}");
        assert!(error.to_string().contains(found) && error.to_string().contains("linux/amd64"), "{error}");
    }
    let error = pull(registry.name(&format!("known@sha256:{}", "0".repeat(64)))).await;
    assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
    assert!(matches!(pull("Not A Name".into()).await, ImageError::InvalidReference { .. }));
    assert_empty(root.path());

    let arm = PullOptions { platform: Some("linux/arm64".parse().unwrap()), ..PullOptions::default() };
    assert_eq!(store.pull(&registry.name("arm:1"), arm, &|_| {}).await.unwrap().platform, "linux/arm64");
    let error = pull(registry.name("arm:1")).await;
    assert!(
        matches!(error, ImageError::WrongPlatform { .. }),
        "the one that is here is not for this machine: {error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_bytes_are_found() {
    let registry = Registry::start();
    let layout = Layout::new().gzip(&Tar::new().file("a", "1"));
    registry.push(&layout, "blob:1");
    registry.push(&Layout::new().gzip(&Tar::new().file("a", "2")), "manifest:1");
    registry.push(&Layout::new().wrong_diff_id().gzip(&Tar::new().file("a", "3")), "diff:1");
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    registry.corrupt(&layout.layer_digests()[0]);
    registry.corrupt(&registry.manifest_digest("manifest", "1"));
    for name in ["blob:1", "manifest:1", "diff:1"] {
        let error = store.pull(&registry.name(name), PullOptions::default(), &|_| {}).await.unwrap_err();
        // The registry checks manifests itself and refuses to give a changed one.
        let told = matches!(error, ImageError::WrongDigest { .. })
            || (name == "manifest:1"
                && matches!(error, ImageError::RegistryFault { .. } | ImageError::NotFound { .. }));
        assert!(told, "{name}: {error}");
        assert_empty(root.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_layers_leave_nothing() {
    let registry = Registry::start();
    let good = Tar::new().file("fine", "1");
    registry.push(&Layout::new().gzip(&good).gzip(&Tar::new().raw_path("../../escape")), "evil:1");
    registry.push(&Layout::new().gzip(&Tar::new().noise("big", 2 << 20, 3)), "big:1");
    registry.push(&Layout::new().not_tar(), "noise:1");
    let root = tempfile::tempdir().unwrap();
    install_tls();
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    let store = ImageStore::open(root.path(), RegistryConfig { limits, ..Default::default() }).unwrap();
    let pull = async |name: &str| {
        store.pull(&registry.name(name), PullOptions::default(), &|_| {}).await.unwrap_err()
    };
    let error = pull("evil:1").await;
    assert!(matches!(&error, ImageError::LayerRefused { entry, .. } if entry == "../../escape"), "{error}");
    let error = pull("big:1").await;
    assert!(matches!(error, ImageError::LayerTooLarge { .. }), "{error}");
    let error = pull("noise:1").await;
    assert!(matches!(error, ImageError::LayerDamaged { .. }), "{error}");
    // The good layer may have come before the bad one was met: it belongs to no image.
    store.prune(PruneScope::Dangling, &|_| false).await.unwrap();
    assert_empty(root.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_given_up_goes_on_where_it_was() {
    let registry = Registry::start();
    let layout = Layout::new().gzip(&Tar::new().noise("a", 24 << 20, 5));
    registry.push(&layout, "large:1");
    let slow = registry.throttled(8 << 20);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let name = slow.name("large:1");
    let far_enough = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&far_enough);
    let progress = move |event| {
        if matches!(event, PullEvent::Layer { done_bytes, .. } if done_bytes > 6 << 20) {
            seen.store(true, Ordering::Relaxed);
        }
    };
    let pull = {
        let (store, name) = (store.clone(), name.clone());
        tokio::spawn(async move { store.pull(&name, PullOptions::default(), &progress).await })
    };
    while !far_enough.load(Ordering::Relaxed) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    drop(store);
    let partial = fs::read_dir(root.path().join("blobs")).unwrap().next().unwrap().unwrap();
    let had = partial.metadata().unwrap().len();
    assert!(had > 1 << 20, "{had} bytes kept");

    // The proxy ends this one after 8 MiB, too: the pull goes on by itself, more than once.
    let store = self::store(root.path());
    let first = AtomicUsize::new(usize::MAX);
    let note_first = |event| {
        if let PullEvent::Layer { done_bytes, .. } = event
            && done_bytes > 0
        {
            first.fetch_min(done_bytes as usize, Ordering::Relaxed);
        }
    };
    store.pull(&name, PullOptions::default(), &note_first).await.unwrap();
    assert!(first.load(Ordering::Relaxed) as u64 >= had, "started anew");
    assert!(
        slow.ranges().iter().any(|range| range.starts_with(&format!("bytes={had}-"))),
        "{:?}",
        slow.ranges()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_given_back() {
    let registry = Registry::start();
    registry.push(&Layout::new().gzip(&Tar::new().zeros("zeros", 24 << 20)), "unpacked:1");
    registry.push(&Layout::new().gzip(&Tar::new().noise("noise", 24 << 20, 9)), "packed:1");
    registry.push(&Layout::new().gzip(&Tar::new().file("small", "1")), "small:1");
    let disk = images_support::SmallDisk::new(16 << 20);
    let store = store(&disk.path().join("images"));
    for name in ["unpacked:1", "packed:1"] {
        let error = store.pull(&registry.name(name), PullOptions::default(), &|_| {}).await.unwrap_err();
        assert!(matches!(error, ImageError::DiskFull { .. }), "{error}");
        assert_empty(&disk.path().join("images"));
    }
    store.pull(&registry.name("small:1"), PullOptions::default(), &|_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_removed_unless_in_use() {
    let registry = Registry::start();
    let common = Tar::new().file("common", "1");
    registry.push(&Layout::new().gzip(&common).gzip(&Tar::new().file("a", "1")), "one:1");
    registry.push(&Layout::new().gzip(&common).gzip(&Tar::new().file("b", "1")), "two:1");
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let one = store.pull(&registry.name("one:1"), PullOptions::default(), &|_| {}).await.unwrap();
    let two = store.pull(&registry.name("two:1"), PullOptions::default(), &|_| {}).await.unwrap();
    let used = one.digest.clone();
    let in_use = |digest: &str| digest == used;

    let error = store.remove(&one.reference, &in_use).await.unwrap_err();
    assert!(matches!(&error, ImageError::InUse { digest, .. } if *digest == one.digest), "{error}");
    let removed = store.remove(&two.reference, &in_use).await.unwrap();
    assert_eq!((removed.images, removed.layers.len()), (vec![two.reference.clone()], 1));
    assert!(one.layers.iter().all(|layer| layer.is_dir()), "the shared layer stays");
    let error = store.remove(&two.reference, &in_use).await.unwrap_err();
    assert!(matches!(error, ImageError::NotPresent { .. }), "{error}");

    // The tag moves while a sandbox stands on the old image.
    registry.push(&Layout::new().gzip(&Tar::new().file("c", "1")), "one:1");
    let moved = store.pull(&one.reference, forced(), &|_| {}).await.unwrap();
    assert_ne!(moved.digest, one.digest);
    assert_eq!(
        store.prune(PruneScope::Unused, &|d| d == used || d == moved.digest).await.unwrap().images.len(),
        0
    );
    assert_eq!(store.get(&one.digest).await.unwrap().unwrap().layers, one.layers);
    let pruned = store.prune(PruneScope::Dangling, &|_| false).await.unwrap();
    assert_eq!((pruned.images, pruned.layers.len()), (vec![one.digest], 2));
    assert!(pruned.bytes > 0);
    store.prune(PruneScope::Unused, &|_| false).await.unwrap();
    assert_empty(root.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_imported() {
    let layout = Layout::new().gzip(&Tar::new().file("a", "1")).plain(&Tar::new().file("b", "2"));
    let directory = layout.write();
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    let tar =
        Command::new("tar").arg("-C").arg(directory.path()).arg("-cf").arg(at("oci.tar")).arg(".").status();
    assert!(tar.unwrap().success());
    let target = format!("docker-archive:{}:some/name:1", at("docker.tar").display());
    images_support::skopeo(&["copy", &format!("oci:{}", directory.path().display()), &target]);
    let store = store(&at("store"));
    let from_directory = store.import(directory.path(), "local/dir:1", &|_| {}).await.unwrap();
    let from_tar = store.import(&at("oci.tar"), "local/tar:1", &|_| {}).await.unwrap();
    let from_docker = store.import(&at("docker.tar"), "local/docker:1", &|_| {}).await.unwrap();
    assert_eq!(from_directory.digest, from_tar.digest);
    assert_eq!(from_directory.layers, from_docker.layers);
    assert_eq!(from_docker.config, from_directory.config);
    assert!(from_tar.layers[0].join("b").is_file());
    assert_eq!(store.get("local/docker:1").await.unwrap(), Some(from_docker));

    fs::write(at("not.tar"), "nothing of the kind").unwrap();
    for path in [at("not.tar"), at("missing.tar"), at("")] {
        let error = store.import(&path, "local/bad:1", &|_| {}).await.unwrap_err();
        assert!(matches!(error, ImageError::Malformed { .. } | ImageError::Io { .. }), "{error}");
    }
    let blob =
        directory.path().join("blobs/sha256").join(from_directory.digest.trim_start_matches("sha256:"));
    let text = fs::read_to_string(&blob).unwrap();
    fs::write(&blob, text.replace("{", " {")).unwrap();
    let error = store.import(directory.path(), "local/changed:1", &|_| {}).await.unwrap_err();
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
}

/// Not a test of its own: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_killed() {
    let Ok(arguments) = std::env::var("ATOLL_TEST_PULL") else { return };
    let (root, name) = arguments.split_once(' ').unwrap();
    store(Path::new(root)).pull(name, PullOptions::default(), &|_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_nothing_half_made() {
    let registry = Registry::start();
    let many = (0..6000).fold(Tar::new(), |tar, n| tar.file(&format!("d{}/f{n}", n % 50), "some content"));
    registry.push(&Layout::new().gzip(&many).gzip(&Tar::new().noise("a", 6 << 20, 4)), "kill:1");
    let root = tempfile::tempdir().unwrap();
    let name = registry.name("kill:1");
    for milliseconds in [30, 90, 150, 250, 400, 600, 900] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env("ATOLL_TEST_PULL", format!("{} {name}", root.path().display()))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        let open = store(root.path());
        assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
        for image in open.list().await.unwrap() {
            assert!(image.layers.iter().all(|layer| layer.is_dir()));
        }
    }
    let open = store(root.path());
    let image = open.pull(&name, PullOptions::default(), &|_| {}).await.unwrap();
    let files = walk(image.layers.last().unwrap());
    assert_eq!(files, 6000);
    open.remove(&name, &|_| false).await.unwrap();
    open.prune(PruneScope::Unused, &|_| false).await.unwrap();
    assert_empty(root.path());
}

fn walk(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap() {
            kind if kind.is_dir() => walk(&entry.path()),
            kind => usize::from(!kind.is_char_device()),
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_from_memory() {
    let registry = Registry::start();
    registry.push(&Layout::new().gzip(&Tar::new().file("a", "1")), "quick:1");
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let name = registry.name("quick:1");
    store.pull(&name, PullOptions::default(), &|_| {}).await.unwrap();
    drop(registry);
    let start = std::time::Instant::now();
    for _ in 0..1000 {
        assert!(store.get(&name).await.unwrap().is_some());
    }
    println!("get: {:?} each", start.elapsed() / 1000);
    store.pull(&name, PullOptions::default(), &|_| {}).await.unwrap();
    assert_eq!(digest_of(b"").len(), 71);
}
