//! The command line of whoever runs the server.

use atoll_core::{
    id::check_name,
    quantity::Bytes,
    template::{self, EXECUTOR, TemplateSpec},
};
use atoll_local::StorageKind;
use clap::{Args, ValueEnum};
use std::{io, net::SocketAddr, path::PathBuf};

use super::cluster::{Cluster, DriverKind};
use crate::config;

/// Where images come from.
#[derive(Debug, Default, Args)]
pub struct Registries {
    /// Ask this address before a registry, docker.io when none is named
    #[arg(long, value_name = "[REGISTRY=]URL")]
    pub registry_mirror: Vec<String>,
    /// Speak to this registry or mirror without TLS
    #[arg(long, value_name = "HOST[:PORT]")]
    pub registry_insecure: Vec<String>,
    /// Trust these certificates (PEM) for registries, beside the system's
    #[arg(long, value_name = "FILE")]
    pub registry_ca: Vec<PathBuf>,
    /// Take credentials from this config.json, as `docker login` writes it
    #[arg(long, value_name = "FILE")]
    pub docker_config: Option<PathBuf>,
}

/// What containers of the API under /api/kata are.
#[derive(Debug, Default, Args)]
pub struct Kata {
    /// What the names of pods under /api/kata begin with, before the sandbox's id [default: kata-sandbox]
    #[arg(long, value_name = "NAME")]
    pub kata_pod_prefix: Option<String>,
    /// Seconds after which a container under /api/kata that is not ready is told to have failed, 30 to 300 [default: 90]
    #[arg(long, value_name = "SECONDS")]
    pub kata_ready_timeout: Option<u64>,
    /// The template that they are made from.
    #[command(flatten)]
    pub executor: Executor,
}

/// The built-in template `executor`; a stored template of that name takes its place.
#[derive(Debug, Default, Args)]
pub struct Executor {
    /// Runtime of the containers under /api/kata: an OCI runtime [default: our own launcher]; on a cluster a RuntimeClass
    /// [default: kata-qemu], the same for server and operator; empty for the node's own
    #[arg(long, value_name = "NAME")]
    pub kata_runtime_class: Option<String>,
    /// Their image [default: base; on a cluster docker.io/library/python:3.13-slim]
    #[arg(long, value_name = "IMAGE")]
    pub kata_image: Option<String>,
    /// CPU that a cluster sets aside for each [default: 250m]
    #[arg(long, value_name = "CPU")]
    pub kata_cpu_request: Option<String>,
    /// Memory that a cluster sets aside for each [default: 128Mi]
    #[arg(long, value_name = "SIZE")]
    pub kata_memory_request: Option<String>,
    /// CPU limit of each [default: 1000m]
    #[arg(long, value_name = "CPU")]
    pub kata_cpu_limit: Option<String>,
    /// Memory limit of each [default: 512Mi]
    #[arg(long, value_name = "SIZE")]
    pub kata_memory_limit: Option<String>,
}

/// The RuntimeClass that containers of such a manager have always had.
const KATA_QEMU: &str = "kata-qemu";
/// What a cluster, which has no image of ours, finds Python in.
const CLUSTER_IMAGE: &str = "docker.io/library/python:3.13-slim";

impl Executor {
    /// The template, not checked yet.
    pub fn template(&self, driver: DriverKind) -> TemplateSpec {
        let mut executor = template::builtin(EXECUTOR).unwrap_or_default();
        if driver == DriverKind::Kubernetes {
            executor.image = CLUSTER_IMAGE.into();
            executor.runtime = Some(KATA_QEMU.into());
        }
        let replace = |slot: &mut Option<String>, given: &Option<String>| {
            if given.is_some() {
                slot.clone_from(given);
            }
        };
        if let Some(image) = &self.kata_image {
            executor.image.clone_from(image);
        }
        replace(&mut executor.runtime, &self.kata_runtime_class);
        executor.runtime = executor.runtime.filter(|name| !name.is_empty());
        replace(&mut executor.requests.cpu, &self.kata_cpu_request);
        replace(&mut executor.requests.memory, &self.kata_memory_request);
        replace(&mut executor.cpu, &self.kata_cpu_limit);
        replace(&mut executor.memory, &self.kata_memory_limit);
        executor
    }
}

/// `atoll serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Where everything is kept
    #[arg(long, default_value = config::DEFAULT_DATA, value_name = "DIR")]
    pub data: PathBuf,
    /// What runs sandboxes
    #[arg(long, env = "ATOLL_DRIVER", value_enum, default_value_t, value_name = "DRIVER")]
    pub driver: DriverKind,
    /// What a cluster is told; for --driver kubernetes.
    #[command(flatten)]
    pub cluster: Cluster,
    /// The key that requests to the agents of a cluster are signed with, the operator's: 32 bytes
    #[arg(long, value_name = "FILE")]
    pub agent_key: Option<PathBuf>,
    /// Take the admin key from this file [default: admin.key in the data directory, made when missing]
    #[arg(long, value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
    /// What is remembered besides: sqlite:PATH or postgres://... [default: atoll.db in the data directory]
    #[arg(long, env = "ATOLL_DATABASE", hide_env_values = true, value_name = "URL")]
    pub database: Option<String>,
    /// Ask nobody for a key; on loopback only
    #[arg(long)]
    pub no_auth: bool,
    /// Listen for other machines without TLS, because something in front encrypts
    #[arg(long)]
    pub insecure_listen: bool,
    /// Certificate chain (PEM); read again when it changes and on SIGHUP
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Speak TLS with a certificate of an authority made for this server alone, and print how clients trust it
    #[arg(long, conflicts_with = "tls_cert")]
    pub tls_dev: bool,
    /// What keeps images and sandboxes' files: btrfs, or where there is none an ext4 in a file for each sandbox
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub storage: Storage,
    /// Size of the btrfs for all sandboxes, when one must be made, e.g. 200Gi
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub disk_size: Option<Bytes>,
    /// Let policies open private address ranges by name
    #[arg(long)]
    pub private_egress: bool,
    /// Directory to look for OCI runtimes in, before the usual ones; repeatable
    #[arg(long, value_parser = absolute, value_name = "DIR")]
    pub runtime_dir: Vec<PathBuf>,
    /// Template of the sandboxes under /v1/sandbox/USER [default: desktop]
    #[arg(long, value_parser = template_name, value_name = "NAME")]
    pub user_template: Option<String>,
    /// Show /metrics without a key
    #[arg(long)]
    pub metrics_public: bool,
    /// What this process answers
    #[arg(long, env = "ATOLL_ROLE", value_enum, default_value_t, value_name = "ROLE")]
    pub role: ServerRole,
    /// Domain of sandboxes' host names: PORT-ID.DOMAIN and USER-PORTNAME.DOMAIN [default: localhost; with --tls-dev
    /// atoll.localhost]
    #[arg(
        long,
        env = "ATOLL_DOMAIN",
        default_value = "localhost",
        default_value_if("tls_dev", "true", "atoll.localhost")
    )]
    #[arg(hide_default_value = true, value_name = "DOMAIN")]
    pub domain: String,
    /// How browsers reach those names, e.g. https://{host} [default: this server's own scheme and port]
    #[arg(long, env = "ATOLL_CONTENT_URL", value_name = "URL")]
    pub content_url: Option<String>,
    /// The key that links to sandboxes are signed with [default: gateway.key in the data directory, made when missing]
    #[arg(long, env = "ATOLL_GATEWAY_KEY", value_name = "FILE")]
    pub gateway_key: Option<PathBuf>,
    /// How to log
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// What containers under /api/kata are.
    #[command(flatten)]
    pub kata: Kata,
    /// Where images come from.
    #[command(flatten)]
    pub registries: Registries,
}

impl Serve {
    /// Whether clients come over TLS.
    pub fn is_tls(&self) -> bool {
        self.tls_dev || self.tls_cert.is_some()
    }
}

fn absolute(text: &str) -> io::Result<PathBuf> {
    std::path::absolute(text)
}

fn template_name(text: &str) -> Result<String, String> {
    check_name("name", text).map(|()| text.to_owned()).map_err(|refused| refused.problem)
}

pub(super) fn size(text: &str) -> Result<Bytes, String> {
    Bytes::parse("size", text).map_err(|refused| refused.problem)
}

/// What keeps images and sandboxes' files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Storage {
    /// What the directory was made with, else btrfs where it can be had, else ext4
    #[default]
    Auto,
    /// One btrfs
    Btrfs,
    /// An ext4 in a file for each sandbox
    Ext4,
}

impl From<Storage> for atoll_local::Storage {
    fn from(asked: Storage) -> Self {
        match asked {
            Storage::Auto => Self::Auto,
            Storage::Btrfs => Self::Only(StorageKind::Btrfs),
            Storage::Ext4 => Self::Only(StorageKind::Ext4),
        }
    }
}

/// What a process answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ServerRole {
    /// Everything
    #[default]
    All,
    /// The API
    Api,
    /// Requests for sandboxes, and its own health and metrics
    Gateway,
}

/// How the server logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines at a terminal, JSON elsewhere
    #[default]
    Auto,
    /// Lines
    Human,
    /// JSON
    Json,
}
