//! A directory as a tar archive. Links are sent as links; sockets and devices are left out. Blocking; whoever calls
//! has taken on the user's credentials.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use tar::{Builder, EntryType, Header};

/// Writes everything below a directory, with paths relative to it.
pub fn pack(root: &str, writer: &mut impl Write) -> io::Result<()> {
    let mut builder = Builder::new(writer);
    directory(&mut builder, Path::new(root), Path::new(""))?;
    builder.into_inner().map(drop)
}

fn directory(builder: &mut Builder<impl Write>, root: &Path, below: &Path) -> io::Result<()> {
    let mut names = fs::read_dir(root.join(below))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        let below = below.join(name);
        match fs::symlink_metadata(root.join(&below)) {
            Ok(metadata) => entry(builder, root, &below, &metadata)?,
            // Gone since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn entry(
    builder: &mut Builder<impl Write>,
    root: &Path,
    below: &Path,
    metadata: &Metadata,
) -> io::Result<()> {
    let mut header = header(metadata);
    if metadata.is_dir() {
        header.set_entry_type(EntryType::Directory);
        builder.append_data(&mut header, below, io::empty())?;
        directory(builder, root, below)
    } else if metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        builder.append_link(&mut header, below, fs::read_link(root.join(below))?)
    } else if metadata.is_file() {
        file(builder, root, below, header)
    } else {
        Ok(())
    }
}

fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

/// As long as it was when it was opened, whatever its writers do meanwhile.
fn file(builder: &mut Builder<impl Write>, root: &Path, below: &Path, mut header: Header) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(root.join(below))?;
    let size = file.metadata()?.len();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    builder.append_data(&mut header, below, file.chain(io::repeat(0)).take(size))
}
