//! The command line of whoever runs the operator on a cluster.

use atoll_core::network::Cidr;
use atoll_kube::operator::{Entrance, Injection, Routing, Settings, Tls};
use clap::{Args, ValueEnum};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use super::{DriverKind, Executor, LogFormat, cluster::Cluster};

/// `atoll operator`
#[derive(Debug, Args)]
pub struct Operator {
    /// Where things are on the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
    /// The key that requests to agents are signed with: 32 bytes
    #[arg(long, value_name = "FILE")]
    pub agent_key: PathBuf,
    /// Image that has the agent at /agent/atoll-agent
    #[arg(long, value_name = "IMAGE")]
    pub agent_image: String,
    /// How the agent gets into pods
    #[arg(long, value_enum, default_value_t, value_name = "WAY")]
    pub agent_injection: AgentInjection,
    /// A name server for sandboxes; the node's when there is none; repeatable
    #[arg(long, value_name = "IP")]
    pub resolver: Vec<IpAddr>,
    /// A Service in the platform's namespace that is one
    #[arg(long, value_name = "NAME")]
    pub resolver_service: Option<String>,
    /// Take only images that begin so; `{tenant}` is the tenant; repeatable
    #[arg(long, value_name = "PREFIX")]
    pub allowed_image: Vec<String>,
    /// Take images whose names have no registry from here, with a path where it has one [default: Docker Hub]
    #[arg(long, value_name = "HOST[:PORT][/PATH]")]
    pub default_registry: Option<String>,
    /// Speak to this registry without TLS; repeatable
    #[arg(long, value_name = "HOST[:PORT]")]
    pub registry_insecure: Vec<String>,
    /// The domain below which sandboxes have host names
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// What leads host names to the gateway
    #[arg(long, value_enum, default_value_t, value_name = "WAY")]
    pub routing: Routes,
    /// An entry point of Traefik's that routes of single sandboxes begin at; repeatable [default: Traefik's own choice]
    #[arg(long, value_name = "NAME")]
    pub route_entry_point: Vec<String>,
    /// They end TLS, with Traefik's default certificate
    #[arg(long)]
    pub route_tls: bool,
    /// They end TLS, with the certificate in this Secret of the platform's namespace
    #[arg(long, value_name = "NAME")]
    pub route_tls_secret: Option<String>,
    /// The gateway's Service in the platform's namespace
    #[arg(long, default_value = "atoll-gateway", value_name = "NAME")]
    pub gateway_service: String,
    /// Its port
    #[arg(long, default_value_t = 80, value_name = "PORT")]
    pub gateway_port: u16,
    /// StorageClass of volumes whose template names none
    #[arg(long, value_name = "NAME")]
    pub storage_class: Option<String>,
    /// Access mode of volumes
    #[arg(long, default_value = "ReadWriteOnce", value_parser = ["ReadWriteOnce", "ReadWriteOncePod"], value_name = "MODE")]
    pub volume_access_mode: String,
    /// Let policies open private address ranges by name
    #[arg(long)]
    pub private_egress: bool,
    /// A range that nothing opens, beside the cluster's own addresses; repeatable
    #[arg(long, value_name = "CIDR")]
    pub protected_cidr: Vec<Cidr>,
    /// A range from which the server reaches agents, where it runs outside the cluster; repeatable
    #[arg(long, value_name = "CIDR")]
    pub platform_cidr: Vec<Cidr>,
    /// Where /metrics, /healthz and /readyz are answered
    #[arg(long, default_value = "0.0.0.0:9090", value_name = "ADDR")]
    pub metrics: SocketAddr,
    /// Name of this replica [default: the host's name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// What containers under /api/kata are.
    #[command(flatten)]
    pub executor: Executor,
    /// How to log
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How the agent gets into pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AgentInjection {
    /// As a volume of its image
    #[default]
    ImageVolume,
    /// Copied by an init container, for runtimes that cannot mount images
    InitContainer,
}

/// What leads host names to the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Routes {
    /// One wildcard
    #[default]
    Wildcard,
    /// A Service of each sandbox, and an IngressRoute of each host name
    PerSandbox,
}

impl Operator {
    /// What the operator is told, as the replica `identity`.
    pub fn settings(&self, identity: String) -> Settings {
        Settings {
            namespaces: self.cluster.namespaces(),
            capacity: self.cluster.capacity(),
            agent_image: self.agent_image.clone(),
            injection: match self.agent_injection {
                AgentInjection::ImageVolume => Injection::ImageVolume,
                AgentInjection::InitContainer => Injection::InitContainer,
            },
            resolvers: self.resolver.clone(),
            resolver_service: self.resolver_service.clone(),
            allowed_images: self.allowed_image.clone(),
            default_registry: self.default_registry.clone(),
            insecure_registries: self.registry_insecure.clone(),
            domain: self.domain.clone(),
            routing: match self.routing {
                Routes::Wildcard => Routing::Wildcard,
                Routes::PerSandbox => Routing::PerSandbox,
            },
            entrance: Entrance { points: self.route_entry_point.clone(), tls: self.tls() },
            executor: self.executor.template(DriverKind::Kubernetes),
            gateway_service: (self.gateway_service.clone(), self.gateway_port),
            storage_class: self.storage_class.clone(),
            access_mode: self.volume_access_mode.clone(),
            private_egress: self.private_egress,
            protected: self.protected_cidr.clone(),
            platform_ranges: self.platform_cidr.clone(),
            listen: self.metrics,
            identity,
        }
    }

    fn tls(&self) -> Tls {
        match (&self.route_tls_secret, self.route_tls) {
            (Some(secret), _) => Tls::Secret(secret.clone()),
            (None, true) => Tls::Default,
            (None, false) => Tls::Off,
        }
    }
}
