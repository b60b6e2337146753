//! How unpacking behaves, on archives made by hand.

use std::os::unix::fs::{MetadataExt, symlink};

use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_000_000);
    header.set_size(size as u64);
    header
}

/// An entry with a name as it is, which the builder would refuse.
fn raw(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, data: &[u8]) {
    let mut header = header(kind, 0o644, data.len());
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

fn archive(fill: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    fill(&mut builder);
    builder.into_inner().unwrap()
}

fn unpack(path: &Path, bytes: &[u8]) -> Result<u64, UnpackError> {
    Unpack::begin(path.to_str().unwrap())?.run(bytes)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_packed_tree_unpacks_to_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("new/to"));
    fs::create_dir_all(from.join("sub/empty")).unwrap();
    fs::write(from.join("sub/file"), vec![7; 200_000]).unwrap();
    fs::write(from.join("x".repeat(150)), "long").unwrap();
    symlink("/etc/passwd", from.join("link")).unwrap();
    let mut bytes = Vec::new();
    crate::pack::pack(from.to_str().unwrap(), &mut bytes).unwrap();
    assert_eq!(unpack(&to, &bytes).unwrap(), 5);
    assert_eq!(fs::read(to.join("sub/file")).unwrap(), vec![7; 200_000]);
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert!(to.join("sub/empty").is_dir() && to.join("x".repeat(150)).is_file());
    assert_eq!(names(dir.path()), ["from", "new"]);
}

#[test]
fn a_packed_archive_is_known_by_its_first_bytes() {
    use std::io::Write;
    let plain = archive(|builder| raw(builder, EntryType::Regular, "a", "", b"data"));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&plain).unwrap();
    let packed = encoder.finish().unwrap();
    for bytes in [&plain, &packed] {
        let dir = tempfile::tempdir().unwrap();
        let run = |bytes: &[u8]| Unpack::begin(dir.path().to_str().unwrap()).unwrap().run_packed(bytes);
        assert_eq!(run(bytes).unwrap(), 1);
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"data");
    }
    let dir = tempfile::tempdir().unwrap();
    let cut = Unpack::begin(dir.path().to_str().unwrap()).unwrap().run_packed(&packed[..packed.len() - 4]);
    assert!(cut.is_err());
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn an_archive_merges_with_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/old"), "old").unwrap();
    fs::write(dir.path().join("sub/both"), "old").unwrap();
    let bytes = archive(|builder| {
        raw(builder, EntryType::Regular, "./sub/both", "", b"new");
        raw(builder, EntryType::Link, "sub/hard", "sub/both", b"");
        builder.append_data(&mut header(EntryType::Directory, 0o555, 0), "closed", io::empty()).unwrap();
        raw(builder, EntryType::Regular, "closed/in", "", b"in");
    });
    unpack(dir.path(), &bytes).unwrap();
    assert_eq!(fs::read(dir.path().join("sub/both")).unwrap(), b"new");
    assert_eq!(fs::read(dir.path().join("sub/old")).unwrap(), b"old");
    assert_eq!(fs::metadata(dir.path().join("sub/hard")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(dir.path().join("sub/hard")).unwrap().mtime(), 1_000_000);
    assert_eq!(fs::metadata(dir.path().join("closed")).unwrap().mode() & 0o777, 0o555);
    assert_eq!(names(dir.path()), ["closed", "sub"]);
}

#[test]
fn nothing_leads_outside() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let cases: [(&str, Vec<u8>); 6] = [
        ("..", archive(|builder| raw(builder, EntryType::Regular, "../evil", "", b"x"))),
        ("absolute", archive(|builder| raw(builder, EntryType::Regular, "/tmp/evil", "", b"x"))),
        (
            "through a link",
            archive(|builder| {
                raw(builder, EntryType::Symlink, "way", target, b"");
                raw(builder, EntryType::Regular, "way/evil", "", b"x");
            }),
        ),
        ("hard link", archive(|builder| raw(builder, EntryType::Link, "mine", "/etc/passwd", b""))),
        ("hard link up", archive(|builder| raw(builder, EntryType::Link, "mine", "../x", b""))),
        ("device", archive(|builder| raw(builder, EntryType::Char, "null", "", b""))),
    ];
    for (case, bytes) in cases {
        let dir = tempfile::tempdir().unwrap();
        assert!(unpack(dir.path(), &bytes).is_err(), "{case}");
        assert!(names(dir.path()).is_empty(), "{case}: {:?}", names(dir.path()));
    }
    assert!(names(outside.path()).is_empty());
}

#[test]
fn links_that_are_there_already_are_not_followed() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(outside.path(), dir.path().join("way")).unwrap();
    let bytes = archive(|builder| raw(builder, EntryType::Regular, "way/file", "", b"x"));
    unpack(dir.path(), &bytes).unwrap();
    assert!(names(outside.path()).is_empty());
    assert_eq!(fs::read(dir.path().join("way/file")).unwrap(), b"x");
}

#[test]
fn a_file_does_not_replace_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("b")).unwrap();
    let bytes = archive(|builder| {
        raw(builder, EntryType::Regular, "a", "", b"x");
        raw(builder, EntryType::Regular, "b", "", b"x");
    });
    assert!(matches!(unpack(dir.path(), &bytes), Err(UnpackError::Conflict(name)) if name == "b"));
    assert_eq!(names(dir.path()), ["b"]);
}

#[test]
fn half_an_archive_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = archive(|builder| raw(builder, EntryType::Regular, "file", "", &[1; 5000]));
    for length in [100, 512, 3000] {
        assert!(unpack(&dir.path().join("new"), &bytes[..length]).is_err() || length == 512, "{length}");
    }
    assert!(unpack(dir.path(), b"this is no archive at all, by far".repeat(40).as_slice()).is_err());
    assert!(!names(dir.path()).iter().any(|name| name.starts_with('.')));
}

/// What is beside the place of an archive stays as it is, whatever the archive says.
fn stays_inside(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("beside"), "mine").unwrap();
    let unpacked = unpack(&dir.path().join("to/here"), bytes);
    assert_eq!(fs::read(dir.path().join("beside")).unwrap(), b"mine");
    let expected: &[&str] = if unpacked.is_ok() { &["beside", "to"] } else { &["beside"] };
    assert_eq!(names(dir.path()), expected, "{unpacked:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_sent_breaks_it(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        stays_inside(&bytes);
    }

    #[test]
    fn no_name_leads_outside(
        names in prop::collection::vec(("(\\.\\./|/|\\./|a/|beside){0,4}[a-b]{0,2}", "(\\.\\./|/|a|b){0,4}", 0_usize..5), 0..6),
        changes in prop::collection::vec((0_usize..3000, any::<u8>()), 0..4),
    ) {
        const KINDS: [EntryType; 5] =
            [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Fifo];
        let mut bytes = archive(|builder| {
            for (name, link, kind) in &names {
                raw(builder, KINDS[*kind], name, link, if *kind == 0 { b"data" } else { b"" });
            }
        });
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        stays_inside(&bytes);
    }
}
