//! `cp`: files and folders, both ways, streamed. Folders travel as tar.

use atoll_client::{
    Body, Files,
    api::{FileInfo, FileKind},
    body_of,
};
use bytes::Bytes;
use futures::TryStreamExt;
use indicatif::ProgressBar;
use serde::Serialize;
use std::{
    fs,
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{Context, resolve};
use crate::{
    cli::Cp,
    failure::Failure,
    output::{self, Format},
    places::{self, Place},
};

const PIECE: usize = 256 << 10;
const PIECES: usize = 4;
const PERMISSIONS: u32 = 0o777;
const EXECUTABLE: u32 = 0o111;

/// What was copied.
#[derive(Serialize)]
struct Copied {
    source: String,
    destination: String,
}

/// `atoll cp`
pub async fn cp(context: &Context, args: Cp) -> Result<(), Failure> {
    let destination = Place::parse(&args.destination);
    let mut copied = Vec::new();
    for source in &args.sources {
        let end = match (Place::parse(source), &destination) {
            (Place::Here(path), Place::Sandbox { id, path: to }) => {
                let files = files(context, id, args.user.as_deref()).await?;
                let many = args.sources.len() > 1;
                up(&files, &path, to, many).await?
            }
            (Place::Sandbox { id, path }, Place::Here(to)) => {
                let files = files(context, &id, args.user.as_deref()).await?;
                let many = args.sources.len() > 1;
                down(&files, &path, to, many).await?
            }
            _ => {
                return Err(Failure::Wrong(
                    "exactly one side must be a sandbox: write it SANDBOX:PATH".into(),
                ));
            }
        };
        copied.push(Copied { source: source.clone(), destination: end });
    }
    match context.format {
        Format::Json => output::print_json(&copied),
        Format::Name => context.format.print_all(&copied, &[], |_| Vec::new(), |copied| &copied.destination),
        Format::Table => Ok(()),
    }
}

async fn files(context: &Context, id: &str, user: Option<&str>) -> Result<Files, Failure> {
    let files = resolve::sandbox(&context.client, id).await?.files();
    Ok(match user {
        Some(user) => files.as_user(user),
        None => files,
    })
}

/// What is at a path inside, when something is.
async fn look(files: &Files, path: &str) -> Result<Option<FileInfo>, Failure> {
    match files.stat(path).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Copies into the sandbox; says where the thing ended up.
async fn up(files: &Files, source: &Path, to: &str, many: bool) -> Result<String, Failure> {
    let metadata = fs::metadata(source).map_err(|error| Failure::file("read", source, error))?;
    let there = look(files, to).await?;
    let is_directory = there.as_ref().is_some_and(|info| info.kind == FileKind::Directory);
    if many && !is_directory {
        return Err(Failure::Wrong(format!("{to} is no folder, and several things cannot go to one place")));
    }
    let target = places::target(&source.to_string_lossy(), to, is_directory);
    if metadata.is_dir() {
        if there.is_some() && !is_directory {
            return Err(Failure::Wrong(format!("{to} is a file; a folder cannot take its place")));
        }
        up_folder(files, source, &target).await?;
    } else {
        up_file(files, source, &metadata, &target).await?;
    }
    Ok(target)
}

async fn up_file(files: &Files, source: &Path, metadata: &fs::Metadata, to: &str) -> Result<(), Failure> {
    if metadata.is_file() && metadata.permissions().mode() & EXECUTABLE != 0 {
        return up_packed(files, source, to).await;
    }
    let file = tokio::fs::File::open(source).await.map_err(|error| Failure::file("read", source, error))?;
    let size = metadata.is_file().then_some(metadata.len());
    let bar = output::bytes_bar(&source.display().to_string(), size);
    let sent = files.upload(to, body_of(bar.wrap_async_read(file))).await;
    bar.finish_and_clear();
    sent?;
    Ok(())
}

/// A program keeps its permissions, which an upload of bytes does not carry: it travels as an archive of one.
async fn up_packed(files: &Files, source: &Path, to: &str) -> Result<(), Failure> {
    let (folder, name) = match to.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
        None => (".", to),
    };
    let name = name.to_owned();
    send_tar(files, source, folder, move |source, builder| builder.append_path_with_name(source, name)).await
}

async fn up_folder(files: &Files, source: &Path, to: &str) -> Result<(), Failure> {
    send_tar(files, source, to, |source, builder| builder.append_dir_all(".", source)).await
}

async fn send_tar<P>(files: &Files, source: &Path, to: &str, pack: P) -> Result<(), Failure>
where
    P: FnOnce(&Path, &mut tar::Builder<Pieces>) -> io::Result<()> + Send + 'static,
{
    let bar = output::bytes_bar(&source.display().to_string(), None);
    let (packing, tar) = packed(source.to_owned(), &bar, pack);
    let sent = files.upload_archive(to, tar).await;
    bar.finish_and_clear();
    // What could not be read here explains why the other side got half an archive.
    match packing.await {
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::file("read", source, error))
        }
        _ => Ok(sent?),
    }
}

/// A tar stream, packed as it is sent. When packing fails the stream does too, so that half a folder is never taken for
/// a whole one.
fn packed<P>(source: PathBuf, bar: &ProgressBar, pack: P) -> (JoinHandle<io::Result<()>>, Body)
where
    P: FnOnce(&Path, &mut tar::Builder<Pieces>) -> io::Result<()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let pieces = BufWriter::with_capacity(PIECE, Sender { sender: sender.clone(), bar: bar.clone() });
    let packing = spawn_blocking(move || {
        let mut builder = tar::Builder::new(pieces);
        builder.follow_symlinks(false);
        let packed = pack(&source, &mut builder).and_then(|()| builder.into_inner()?.flush());
        if let Err(error) = &packed {
            // Whoever no longer listens knows already.
            let _ = sender.blocking_send(Err(error.kind().into()));
        }
        packed
    });
    let pieces = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    (packing, Body::wrap_stream(pieces))
}

type Pieces = BufWriter<Sender>;

/// Hands what is written to the connection.
struct Sender {
    sender: mpsc::Sender<io::Result<Bytes>>,
    bar: ProgressBar,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.bar.inc(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies out of the sandbox; says where the thing ended up.
async fn down(files: &Files, source: &str, to: &Path, many: bool) -> Result<String, Failure> {
    if many && !to.is_dir() {
        let to = to.display();
        return Err(Failure::Wrong(format!("{to} is no folder, and several things cannot go to one place")));
    }
    let info = files.stat(source).await?;
    let target = places::target_here(source, to);
    if info.kind == FileKind::Directory {
        down_folder(files, source, &target).await?;
    } else {
        down_file(files, source, info.mode, &target).await?;
    }
    Ok(target.display().to_string())
}

/// Writes beside the target and renames, so that a copy that breaks off leaves what was there. Links, devices and pipes
/// are written through: `/dev/stdout` must stay what it is.
async fn down_file(files: &Files, source: &str, mode: u32, to: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::file("write", to, error);
    let special = fs::symlink_metadata(to).is_ok_and(|there| !there.is_file());
    let place = if special { to.to_owned() } else { beside(to) };
    let download = files.download(source).await?;
    let mut file = tokio::fs::File::create(&place).await.map_err(failed)?;
    let bar = output::bytes_bar(source, download.size());
    let written = download.write_to(&mut bar.wrap_async_write(&mut file)).await;
    bar.finish_and_clear();
    if special {
        return written.map(drop).map_err(Failure::from);
    }
    let settled = written.map_err(Failure::from).and_then(|_| settle(&place, mode, to).map_err(failed));
    if settled.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&place);
    }
    settled
}

fn settle(from: &Path, mode: u32, to: &Path) -> io::Result<()> {
    fs::set_permissions(from, fs::Permissions::from_mode(mode & PERMISSIONS))?;
    fs::rename(from, to)
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.atoll-{}", std::process::id()))
}

/// The sandbox is not trusted: the unpacker keeps every entry below the target.
async fn down_folder(files: &Files, source: &str, to: &Path) -> Result<(), Failure> {
    let download = files.download_archive(source).await?;
    let bar = output::bytes_bar(source, None);
    let stream = download.into_stream().map_err(io::Error::other);
    let reader = SyncIoBridge::new(bar.wrap_async_read(StreamReader::new(stream)));
    let target = to.to_owned();
    let unpacked = spawn_blocking(move || unpack(reader, &target)).await;
    bar.finish_and_clear();
    let unpacked = unpacked.map_err(|error| Failure::file("write", to, io::Error::other(error)))?;
    unpacked.map_err(|error| Failure::file("write", to, error))
}

fn unpack(reader: impl io::Read, target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let mut archive = tar::Archive::new(reader);
    archive.unpack(target)?;
    // An archive that broke off after a whole entry must not pass for a whole one.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}
