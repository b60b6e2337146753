//! `serve`: puts driver, store and server together on this machine.

mod admin_key;
pub mod authorities;
mod authority;
mod door;
mod driver;
mod kata;
pub mod logging;
mod secret_file;
mod tls;

use atoll_core::{driver::Driver, store::Store};
use atoll_local::images::{Recipe, RegistryConfig};
use atoll_server::{Links, Ports, RealWorld, ServerConfig, World};
use std::{
    env, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::{DriverKind, Registries, Serve, ServerRole},
    failure::Failure,
};

/// How the network is reached, where it is not reached directly, and where pip finds its packages: for images that are made here.
const REACH: [&str; 9] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
];

/// How long the address of a server before may stay taken.
const PATIENCE: Duration = Duration::from_secs(1);

/// `atoll serve`
pub async fn serve(args: Serve) -> Result<(), Failure> {
    may_listen(&args)?;
    logging::begin(args.log_format, "info");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = config(&args)?;
    let stop = asked_to_stop()?;
    raise_descriptor_limit();
    let listener = listen(args.listen).await.map_err(|source| occupied(args.listen, source))?;
    let listening = listener.local_addr().unwrap_or(args.listen);
    let address = door::address(&args, listening)?;
    let (driver, templates) = driver::open(&args).await?;
    let world = RealWorld;
    let store =
        atoll_store::open(&database(&args)).await.map_err(|error| Failure::Wrong(error.to_string()))?;
    admin(&args, &*store, &world).await?;
    let link_key = door::link_key(&args, &world)?;
    announce(&args, listening);
    announce_images(&*driver).await;
    let world: Arc<dyn World> = Arc::new(world);
    config.tls = tls::open(&args, &world)?;
    let front = door::open(&args, &address, &link_key, &driver, &store, &world);
    config.links = Some(Links { address, key: link_key });
    let templates = templates.unwrap_or_else(|| store.clone());
    let ports = Ports { driver, templates, store, front };
    let served = atoll_server::serve(config, listener, ports, world, stop).await;
    served.map_err(|error| Failure::Wrong(error.to_string()))
}

fn config(args: &Serve) -> Result<ServerConfig, Failure> {
    Ok(ServerConfig {
        no_auth: args.no_auth,
        metrics_public: args.metrics_public,
        gateway_only: args.role == ServerRole::Gateway,
        user_template: args.user_template.clone(),
        // On a cluster, what is kept is kept by the cluster.
        uploads: (args.driver == DriverKind::Local).then(|| args.data.join("uploads")),
        kata: kata::config(&args.kata, args.driver)?,
        ..ServerConfig::default()
    })
}

/// The first key, with which all others are made.
async fn admin(args: &Serve, store: &dyn Store, world: &dyn World) -> Result<(), Failure> {
    match &args.admin_key_file {
        _ if args.no_auth => Ok(()),
        // A cluster's gateway asks for keys and makes none; on one machine all parts share the data directory's.
        _ if args.role == ServerRole::Gateway && args.driver == DriverKind::Kubernetes => Ok(()),
        Some(file) => admin_key::ensure_given(file, store, world).await,
        None => admin_key::ensure(&args.data, store, world).await,
    }
}

/// SIGHUP is not among them: a server may outlive the terminal that it was started from.
pub fn asked_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).map_err(|source| Failure::io("listen for signals", source));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping; sandboxes run on");
    })
}

/// Whoever can connect can try keys, and without TLS whoever is on the way can read them.
fn may_listen(args: &Serve) -> Result<(), Failure> {
    let refuse = |why: String| Err(Failure::Wrong(why));
    let address = args.listen;
    if address.ip().is_loopback() {
        return Ok(());
    }
    if args.no_auth {
        return refuse(format!(
            "--no-auth makes everybody admin who can connect, and {address} can be reached from other machines: listen \
             on 127.0.0.1, or leave --no-auth out"
        ));
    }
    if !args.is_tls() && !args.insecure_listen {
        return refuse(format!(
            "{address} can be reached from other machines, and without TLS keys and commands could be read on the way: \
             give --tls-cert and --tls-key, --tls-dev for a certificate of this machine's own, or --insecure-listen when something in front encrypts"
        ));
    }
    Ok(())
}

/// A server that was killed just now may have begun to run a program, which holds its socket until it is executed: for
/// milliseconds, or longer on a busy machine.
async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            bound => return bound,
        }
    }
}

fn occupied(address: SocketAddr, source: io::Error) -> Failure {
    match source.kind() {
        io::ErrorKind::AddrInUse => Failure::Wrong(format!(
            "something listens on {address} already; choose another port with --listen"
        )),
        _ => Failure::io(format!("listen on {address}"), source),
    }
}

fn database(args: &Serve) -> String {
    args.database.clone().unwrap_or_else(|| format!("sqlite:{}", args.data.join("atoll.db").display()))
}

/// What the command line says about registries, for the driver.
pub fn registries(args: &Registries) -> Result<RegistryConfig, Failure> {
    let mut config = RegistryConfig {
        insecure: args.registry_insecure.iter().cloned().collect(),
        docker_config: args.docker_config.clone(),
        extra_roots: args.registry_ca.clone(),
        no_authorities: authorities::missing(),
        reach: REACH.iter().filter_map(|name| Some(((*name).to_owned(), env::var(name).ok()?))).collect(),
        ..RegistryConfig::default()
    };
    for mirror in &args.registry_mirror {
        let (registry, address) = mirror_of(mirror).map_err(Failure::Wrong)?;
        config.mirrors.entry(registry).or_default().push(address);
    }
    Ok(config)
}

/// `[REGISTRY=]URL`; the registry that short names mean when none is named.
fn mirror_of(text: &str) -> Result<(String, String), String> {
    const DEFAULT_REGISTRY: &str = "docker.io";
    let (registry, address) = match text.split_once('=') {
        Some((registry, address)) if !registry.contains("://") => (registry, address),
        _ => (DEFAULT_REGISTRY, text),
    };
    if registry.is_empty() || !(address.starts_with("https://") || address.starts_with("http://")) {
        return Err(format!("{text:?} is no mirror; write https://HOST, or REGISTRY=https://HOST"));
    }
    Ok((registry.to_owned(), address.to_owned()))
}

/// Many sandboxes and many clients are many descriptors; what the system gives without asking is 1,024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn announce(args: &Serve, address: SocketAddr) {
    let scheme = if args.is_tls() { "https" } else { "http" };
    let host = match address.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let url = format!("{scheme}://{host}:{}", address.port());
    if args.no_auth {
        tracing::warn!("everybody on this machine is admin: --no-auth");
    } else if args.role != ServerRole::Gateway || args.driver == DriverKind::Local {
        let file = args.admin_key_file.clone().unwrap_or_else(|| args.data.join(admin_key::FILE));
        tracing::info!(key = %file.display(), "the admin key is kept in a file");
    }
    tracing::info!(%url, data = %args.data.display(), version = env!("CARGO_PKG_VERSION"), "serving");
}

/// Images that whoever asks first would wait for, longer than some clients do.
async fn announce_images(driver: &dyn Driver) {
    for name in Recipe::names() {
        if matches!(driver.images().get(name).await, Ok(None)) {
            let text = "this image is made when it is first asked for, which takes minutes; `atoll images pull` makes it ahead";
            tracing::info!(image = name, "{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn args(line: &[&str]) -> Serve {
        match Cli::try_parse_from([&["atoll", "serve"], line].concat()).expect("a good line").command {
            Command::Serve(serve) => *serve,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_machines_are_let_in_only_with_tls_or_when_that_was_said() {
        assert!(may_listen(&args(&[])).is_ok());
        assert!(may_listen(&args(&["--listen", "[::1]:1", "--no-auth"])).is_ok());
        let why = may_listen(&args(&["--listen", "0.0.0.0:1"])).unwrap_err().to_string();
        assert!(why.contains("--tls-cert") && why.contains("--insecure-listen"), "{why}");
        assert!(may_listen(&args(&["--listen", "0.0.0.0:1", "--insecure-listen"])).is_ok());
        assert!(may_listen(&args(&["--listen", "0.0.0.0:1", "--tls-cert", "c", "--tls-key", "k"])).is_ok());
        assert!(may_listen(&args(&["--listen", "0.0.0.0:1", "--tls-dev"])).is_ok());
        let why =
            may_listen(&args(&["--listen", "0.0.0.0:1", "--insecure-listen", "--no-auth"])).unwrap_err();
        assert!(why.to_string().contains("--no-auth"), "{why}");
    }

    #[test]
    fn mirrors_belong_to_a_registry() {
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(mirror_of("http://127.0.0.1:5000"), pair("docker.io", "http://127.0.0.1:5000"));
        assert_eq!(mirror_of("ghcr.io=https://m/x=y"), pair("ghcr.io", "https://m/x=y"));
        assert_eq!(mirror_of("https://m/x=y"), pair("docker.io", "https://m/x=y"));
        assert!(mirror_of("m").is_err() && mirror_of("=https://m").is_err());
    }

    #[test]
    fn the_database_is_in_the_data_directory_unless_it_is_elsewhere() {
        assert_eq!(database(&args(&["--data", "/d"])), "sqlite:/d/atoll.db");
        assert_eq!(database(&args(&["--database", "postgres://h/d"])), "postgres://h/d");
    }
}
