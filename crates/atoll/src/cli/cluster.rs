//! What everything of ours that speaks to a cluster is told on its command line.

use atoll_core::{
    quantity::{Bytes, MilliCpu},
    request::Capacity,
};
use atoll_kube::names::Namespaces;
use clap::{Args, ValueEnum};

use super::serve::size;

/// What runs sandboxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DriverKind {
    /// This machine
    #[default]
    Local,
    /// The cluster that KUBECONFIG names, or the one that this runs in
    Kubernetes,
}

/// Which namespaces are whose, and what one sandbox may have.
#[derive(Debug, Args)]
pub struct Cluster {
    /// What stands before a tenant's name in the name of its namespace
    #[arg(long, default_value = "tenant-", value_name = "TEXT")]
    pub namespace_prefix: String,
    /// Where Atoll itself runs, and where shared templates are
    #[arg(long, default_value = "atoll-system", value_name = "NAMESPACE")]
    pub platform_namespace: String,
    /// Most CPU of one sandbox of the cluster
    #[arg(long, default_value = "64", value_parser = cpu, value_name = "CPU")]
    pub max_cpu: MilliCpu,
    /// Most memory of one sandbox of the cluster
    #[arg(long, default_value = "256Gi", value_parser = size, value_name = "SIZE")]
    pub max_memory: Bytes,
    /// Most disk of one sandbox of the cluster
    #[arg(long, default_value = "1Ti", value_parser = size, value_name = "SIZE")]
    pub max_disk: Bytes,
    /// Most processes of one sandbox of the cluster
    #[arg(long, default_value_t = 32768, value_name = "NUMBER")]
    pub max_pids: u64,
}

impl Cluster {
    /// Which namespaces are whose.
    pub fn namespaces(&self) -> Namespaces {
        Namespaces { prefix: self.namespace_prefix.clone(), platform: self.platform_namespace.clone() }
    }

    /// What one sandbox may have.
    pub fn capacity(&self) -> Capacity {
        Capacity { cpu: self.max_cpu, memory: self.max_memory, disk: self.max_disk, pids: self.max_pids }
    }
}

fn cpu(text: &str) -> Result<MilliCpu, String> {
    MilliCpu::parse("cpu", text).map_err(|refused| refused.problem)
}
