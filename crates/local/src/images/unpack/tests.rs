//! Layers good and bad, unpacked into real directories.

use std::{
    fs::{self, File},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::PathBuf,
};

use tar::{Builder, EntryType, Header};

use super::*;

/// An archive under construction whose names and links are written as they are, unlike `tar`'s own, which refuses some.
struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn raw(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o750 } else { 0o640 });
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(1_600_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.raw(EntryType::Regular, path, "", data.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.raw(EntryType::Directory, path, "", b"")
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

struct Target(tempfile::TempDir);

impl Target {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("root").join(name)
    }

    fn unpack(&self, archive: &[u8]) -> Result<(u64, String), UnpackError> {
        self.unpack_within(archive, Limits::default())
    }

    fn unpack_within(&self, archive: &[u8], limits: Limits) -> Result<(u64, String), UnpackError> {
        let root = self.path("");
        fs::create_dir(&root).unwrap();
        unpack(archive, &root, None, limits, &Arc::default())
    }
}

fn refusal(archive: Archive) -> String {
    let target = Target::new();
    let outside = target.0.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let result = target.unpack(&archive.bytes());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "written outside of the layer");
    match result {
        Err(UnpackError::Refused { reason, .. } | UnpackError::Damaged { reason }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn files_get_all_that_the_archive_says() {
    let target = Target::new();
    let long = format!("d/{}", "n".repeat(200));
    let mut archive = Archive::new().dir("./").dir("d/").file("d/plain", "hello");
    archive.0.append_data(&mut header_of(3), &long, &b"abc"[..]).unwrap();
    let archive = archive
        .pax(&[
            ("mtime", b"1500000000.25"),
            ("SCHILY.xattr.user.note", b"a\nb"),
            ("SCHILY.xattr.trusted.x", b"no"),
        ])
        .file("d/attributed", "x")
        .raw(EntryType::Symlink, "d/link", "../../../etc/passwd", b"")
        .raw(EntryType::Link, "hard", "d/plain", b"")
        .raw(EntryType::Fifo, "pipe", "", b"")
        .file("made/without/a/directory", "y");
    target.unpack(&archive.bytes()).unwrap();

    let meta = fs::metadata(target.path("d/plain")).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.mtime()),
        (1000, 1001, 0o640, 1_600_000_000)
    );
    assert_eq!(meta.nlink(), 2);
    assert_eq!(fs::read_to_string(target.path("hard")).unwrap(), "hello");
    assert_eq!(fs::metadata(target.path("d")).unwrap().mtime(), 1_600_000_000, "set after the files inside");
    assert_eq!(fs::metadata(target.path("")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(fs::read(target.path(&long)).unwrap(), b"abc");
    let attributed = fs::metadata(target.path("d/attributed")).unwrap();
    assert_eq!((attributed.mtime(), attributed.mtime_nsec()), (1_500_000_000, 250_000_000));
    assert_eq!(xattr(&target.path("d/attributed"), "user.note"), Some(b"a\nb".to_vec()));
    assert_eq!(xattr(&target.path("d/attributed"), "trusted.x"), None);
    assert_eq!(fs::read_link(target.path("d/link")).unwrap(), PathBuf::from("../../../etc/passwd"));
    assert!(fs::symlink_metadata(target.path("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::metadata(target.path("made/without")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn set_user_id_and_capabilities_survive_the_change_of_owner() {
    let target = Target::new();
    let capability: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut archive = Archive::new();
    let mut header = header_of(0);
    header.set_mode(0o4755);
    header.set_uid(7);
    archive.0.append_data(&mut header, "sudo", &b""[..]).unwrap();
    let archive = archive.pax(&[("SCHILY.xattr.security.capability", capability)]).file("ping", "");
    target.unpack(&archive.bytes()).unwrap();
    assert_eq!(fs::metadata(target.path("sudo")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(xattr(&target.path("ping"), "security.capability").as_deref(), Some(capability));
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let target = Target::new();
    let archive = Archive::new()
        .file("gone/.wh.a", "")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "x")
        .file(".wh.anew", "")
        .dir("anew")
        .dir("later")
        .file(".wh.later", "")
        .file(".wh..wh.plnk", "");
    target.unpack(&archive.bytes()).unwrap();
    let gone = fs::symlink_metadata(target.path("gone/a")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |path: &str| xattr(&target.path(path), "trusted.overlay.opaque");
    assert_eq!(opaque("opaque"), Some(b"y".to_vec()));
    assert_eq!(opaque("anew"), Some(b"y".to_vec()), "removed and made again by the same layer");
    assert_eq!(opaque("later"), Some(b"y".to_vec()), "in either order");
    assert!(!target.path(".wh..wh.plnk").exists());
}

#[test]
fn later_entries_replace_earlier_ones() {
    let target = Target::new();
    let archive = Archive::new()
        .file("f", "one")
        .raw(EntryType::Link, "g", "f", b"")
        .file("f", "two")
        .raw(EntryType::Symlink, "l", "/etc", b"")
        .file("l", "a file now")
        .dir("d")
        .file("d", "also");
    target.unpack(&archive.bytes()).unwrap();
    assert_eq!(fs::read_to_string(target.path("f")).unwrap(), "two");
    assert_eq!(
        fs::read_to_string(target.path("g")).unwrap(),
        "one",
        "the old file is not written through its other name"
    );
    assert_eq!(fs::read_to_string(target.path("l")).unwrap(), "a file now");
    assert_eq!(fs::read_to_string(target.path("d")).unwrap(), "also");
}

#[test]
fn what_no_honest_layer_does_is_refused() {
    let new = Archive::new;
    let link = |archive: Archive, path: &str, to: &str| archive.raw(EntryType::Symlink, path, to, b"");
    let hard = |archive: Archive, path: &str, to: &str| archive.raw(EntryType::Link, path, to, b"");
    let table: Vec<(&str, Archive, &str)> = vec![
        ("a path upwards", new().file("../outside/x", "x"), "`..`"),
        ("a path upwards, inside", new().file("a/../../outside/x", "x"), "`..`"),
        ("an absolute hard link", hard(new(), "x", "/etc/passwd"), "absolute"),
        ("a hard link upwards", hard(new(), "x", "../outside/y"), "`..`"),
        ("a hard link to nothing", hard(new(), "x", "y"), "not in this layer"),
        ("a hard link to itself", hard(new().file("x", "1"), "x", "./x"), "itself"),
        ("a hard link to a directory", hard(new().dir("d"), "x", "d"), "no file"),
        ("a hard link to a whiteout", hard(new().file(".wh.a", ""), "x", "a"), "no file"),
        ("a hard link through a link", hard(link(new(), "l", "../outside"), "x", "l/y"), "symbolic link"),
        ("a file through a link", link(new(), "l", "../outside").file("l/x", "x"), "symbolic link"),
        ("through an absolute link", link(new(), "l", "/tmp").file("l/x", "x"), "symbolic link"),
        ("through links in a ring", link(link(new(), "a", "b"), "b", "a").file("a/x", "x"), "symbolic link"),
        ("a directory through a link", link(new(), "l", "../outside").dir("l/d"), "symbolic link"),
        (
            "deep through a link",
            link(new().dir("d"), "d/l", "../../outside").file("d/l/e/x", "x"),
            "symbolic link",
        ),
        ("a whiteout through a link", link(new(), "l", "../outside").file("l/.wh.x", ""), "symbolic link"),
        ("through a file", new().file("f", "").file("f/x", ""), "no directory"),
        ("a block device", new().raw(EntryType::Block, "sda", "", b""), "device"),
        ("a char device", new().raw(EntryType::Char, "null", "", b""), "device"),
        ("a whiteout of nothing", new().file(".wh.", ""), "marks nothing"),
        ("a whiteout of the parent", new().file("d/.wh...", ""), "marks nothing"),
        ("a file instead of the root", new().file("./", "x").file(".", "x"), "root"),
        ("a file over a full directory", new().file("d/x", "").file("d", ""), "has files in it"),
        ("an empty symbolic link", link(new(), "l", ""), "empty"),
        ("an unknown type", new().raw(EntryType::new(b'Q'), "q", "", b""), "not known"),
        ("a name too long", new().pax(&[("path", &[b'a'; 256])]).file("x", ""), "255"),
        ("a path too long", new().pax(&[("path", "a/".repeat(3000).as_bytes())]).file("x", ""), "4095"),
        ("a zero in a path", new().pax(&[("path", b"a\0b")]).file("x", ""), "zero"),
        ("an owner beyond 32 bits", new().pax(&[("uid", b"4294967295")]).file("x", ""), "32 bits"),
        ("a wrong length", new().pax(&[("size", b"99999999")]).file("x", "y"), "end"),
    ];
    for (what, archive, words) in table {
        let reason = refusal(archive);
        assert!(reason.contains(words), "{what}: {reason}");
    }
}

#[test]
fn damaged_archives_are_told() {
    let good = Archive::new().file("a", "some content").bytes();
    let mut bad_sum = good.clone();
    bad_sum[0] ^= 1;
    for (what, bytes) in [("cut", &good[..700]), ("cut in a header", &good[..300]), ("changed", &bad_sum)] {
        let result = Target::new().unpack(bytes);
        assert!(matches!(result, Err(UnpackError::Damaged { .. })), "{what}: {result:?}");
    }
    let broken_gzip = [&[0x1f, 0x8b][..], &good].concat();
    assert!(matches!(Target::new().unpack(&broken_gzip), Err(UnpackError::Damaged { .. })));
}

#[test]
fn bombs_stop_at_the_limit() {
    let limits = Limits { bytes: 100_000, entries: 10 };
    let zeros = vec![0; 1 << 20];
    let big = Archive::new().raw(EntryType::Regular, "zeros", "", &zeros).bytes();
    let after_end = [Archive::new().bytes(), zeros].concat();
    for bytes in [zstd::encode_all(&big[..], 1).unwrap(), big, after_end, sparse_archive(1 << 40)] {
        let result = Target::new().unpack_within(&bytes, limits);
        assert!(
            matches!(&result, Err(UnpackError::TooLarge { limit }) if limit.contains("bytes")),
            "{result:?}"
        );
    }
    let many = (0..11).fold(Archive::new(), |archive, n| archive.file(&n.to_string(), "")).bytes();
    let deep = Archive::new().file("1/2/3/4/5/6/7/8/9/10/11", "").file("x", "").bytes();
    for bytes in [many, deep] {
        let result = Target::new().unpack_within(&bytes, limits);
        assert!(
            matches!(&result, Err(UnpackError::TooLarge { limit }) if limit.contains("entries")),
            "{result:?}"
        );
    }
}

#[test]
fn every_compression_gives_the_same_digest() {
    let plain = Archive::new().file("a", "content").bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &plain[..512]).unwrap();
    let mut gzip = gzip.finish().unwrap();
    let mut second = flate2::write::GzEncoder::new(gzip.split_off(gzip.len()), flate2::Compression::fast());
    io::Write::write_all(&mut second, &plain[512..]).unwrap();
    gzip.extend(second.finish().unwrap()); // parallel compressors write several members
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    let expected = super::super::reference::digest_of(&plain);
    for bytes in [&plain, &gzip, &zstd] {
        let target = Target::new();
        assert_eq!(target.unpack(bytes).unwrap(), (plain.len() as u64, expected.clone()));
        assert_eq!(fs::read_to_string(target.path("a")).unwrap(), "content");
    }
    let target = Target::new();
    fs::create_dir(target.path("")).unwrap();
    let wrong = unpack(&plain[..], &target.path(""), Some("sha256:00"), Limits::default(), &Arc::default());
    assert!(matches!(wrong, Err(UnpackError::WrongDigest { .. })));
}

#[test]
fn sparse_files_keep_their_holes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 32 << 20).unwrap();
    for format in ["gnu", "posix"] {
        let mut tar = std::process::Command::new("tar");
        tar.args(["--sparse", "--format", format, "-C"]).arg(directory.path()).args(["-cf", "-", "sparse"]);
        let output = tar.output().unwrap();
        assert!(output.status.success() && output.stdout.len() < 1 << 20);
        let target = Target::new();
        target.unpack(&output.stdout).unwrap();
        let meta = fs::metadata(target.path("sparse")).unwrap();
        assert_eq!(meta.len(), 64 << 20, "{format}");
        assert!(meta.blocks() * 512 < 1 << 20, "{format}: no holes");
        assert!(fs::read(target.path("sparse")).unwrap() == fs::read(&path).unwrap(), "{format}");
    }
}

#[test]
fn nobody_waiting_stops_the_work() {
    let target = Target::new();
    fs::create_dir(target.path("")).unwrap();
    let archive = Archive::new().file("a", "x").bytes();
    let result =
        unpack(&archive[..], &target.path(""), None, Limits::default(), &Arc::new(AtomicBool::new(true)));
    assert!(matches!(result, Err(UnpackError::Cancelled)), "{result:?}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever names and links an archive has, nothing appears beside the layer's directory.
    #[test]
    fn nothing_escapes(entries in proptest::collection::vec(
        (0usize..5, "(\\.\\./|\\./|/|a/|b/|\\.wh\\.|l/){0,4}[abl.]{1,3}", "(\\.\\./|/|a/|l/){0,4}[abl.]{1,3}"), 1..12)) {
        let kinds = [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Fifo];
        let archive = entries.iter().fold(Archive::new(), |archive, (kind, path, link)| {
            archive.raw(kinds[*kind], path, if *kind >= 2 { link } else { "" }, b"")
        });
        let target = Target::new();
        let _ = target.unpack(&archive.bytes());
        let beside: Vec<_> = fs::read_dir(target.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        proptest::prop_assert_eq!(beside, ["root"]);
    }

    /// Bytes that are no archive, or a damaged one, give an error or an end, never a panic.
    #[test]
    fn noise_is_survived(flips in proptest::collection::vec((0usize..2048, proptest::num::u8::ANY), 0..20)) {
        let mut bytes = Archive::new().pax(&[("path", b"p"), ("SCHILY.xattr.user.a", b"v")]).file("a", "x").bytes();
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        }
        let _ = Target::new().unpack(&bytes);
    }
}

fn header_of(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    header
}

/// A GNU sparse entry of one huge hole.
fn sparse_archive(size: u64) -> Vec<u8> {
    let mut header = header_of(0);
    header.set_entry_type(EntryType::GNUSparse);
    header.as_gnu_mut().unwrap().set_real_size(size);
    header.as_old_mut().name[0] = b's';
    header.set_cksum();
    let mut archive = Builder::new(Vec::new());
    archive.append(&header, &b""[..]).unwrap();
    archive.into_inner().unwrap()
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}
