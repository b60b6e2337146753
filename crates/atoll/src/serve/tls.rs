//! What the server shows over TLS: the certificate of two files, read again when they change, or one of an authority made
//! for this machine alone. Certificates end; servers run on.

use atoll_server::{Certificates, Tls, World};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

use super::authority::Authority;
use crate::{cli::Serve, failure::Failure, output};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How often the authority certifies anew: well before what it certified ends.
const RENEW: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Where certificates come from.
enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    Own { authority: Box<Authority>, world: Arc<dyn World> },
}

impl Source {
    fn load(&self) -> Result<Tls, Failure> {
        let read = |path: &Path| fs::read(path).map_err(|source| Failure::file("read", path, source));
        match self {
            Self::Files { certificate, key } => Ok(Tls { certificate: read(certificate)?, key: read(key)? }),
            Self::Own { authority, world } => authority.certify(world.now()),
        }
    }

    fn pause(&self) -> Duration {
        match self {
            Self::Files { .. } => LOOK,
            Self::Own { .. } => RENEW,
        }
    }
}

/// The certificate that the command line asks for, kept current for as long as this process lives; none where it asks for
/// none.
pub fn open(args: &Serve, world: &Arc<dyn World>) -> Result<Option<Arc<Certificates>>, Failure> {
    let Some(source) = source(args, world)? else { return Ok(None) };
    let first = source.load()?;
    let shown = Certificates::new(&first).map_err(|error| Failure::Wrong(error.to_string()))?;
    let shown = Arc::new(shown);
    let hangup = signal(SignalKind::hangup()).map_err(|source| Failure::io("listen for SIGHUP", source))?;
    tokio::spawn(keep_current(source, first, shown.clone(), hangup));
    Ok(Some(shown))
}

fn source(args: &Serve, world: &Arc<dyn World>) -> Result<Option<Source>, Failure> {
    if let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) {
        return Ok(Some(Source::Files { certificate: certificate.clone(), key: key.clone() }));
    }
    if !args.tls_dev {
        return Ok(None);
    }
    let authority = Authority::ensure(&args.data, &args.domain, world.now())?;
    // The server is of use also where nobody reads this.
    let _ = output::print(&authority.how_to_trust());
    Ok(Some(Source::Own { authority: Box::new(authority), world: world.clone() }))
}

async fn keep_current(
    source: Source,
    mut last: Tls,
    shown: Arc<Certificates>,
    mut hangup: tokio::signal::unix::Signal,
) {
    loop {
        tokio::select! {
            _ = hangup.recv() => tracing::info!("asked to read the certificate again"),
            () = tokio::time::sleep(source.pause()) => {}
        }
        match source.load() {
            Ok(next) if next == last => {}
            Ok(next) => {
                match shown.replace(&next) {
                    Ok(()) => tracing::info!("another certificate is shown from now on"),
                    Err(error) => tracing::warn!(%error, "the certificate stays as it is"),
                }
                // One that is of no use is complained of once.
                last = next;
            }
            Err(error) => tracing::warn!(%error, "the certificate stays as it is"),
        }
    }
}
