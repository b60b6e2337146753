//! The way to the cluster's API server, and what is common to all that it says.

use http::{HeaderValue, header::USER_AGENT};
use kube::{Client, Config};

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nothing says where a cluster is.
    #[error("no cluster is named: set KUBECONFIG, or run in a pod with a service account ({0})")]
    Nowhere(Box<kube::config::InferConfigError>),
    /// What names it cannot be used.
    #[error("the cluster cannot be used as it is named: {0}")]
    Unusable(Box<kube::Error>),
}

/// The cluster that KUBECONFIG (or ~/.kube/config) names, otherwise the one that this runs in. Nothing is asked of it yet.
///
/// # Errors
/// When none is named, or certificates and credentials cannot be read.
pub async fn connect() -> Result<Client, ClusterError> {
    let mut config = Config::infer().await.map_err(|error| ClusterError::Nowhere(Box::new(error)))?;
    // Whoever asks decides what is tried again: a write whose answer was lost may have been made.
    config.default_retry = false;
    // Audit logs tell by it who asked.
    let agent = HeaderValue::from_static(concat!("atoll/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    Client::try_from(config).map_err(|error| ClusterError::Unusable(Box::new(error)))
}

/// Whether the cluster refused because it has not counted yet what a quota is about. It soon will have.
#[must_use]
pub fn is_uncounted(message: &str) -> bool {
    message.contains("status unknown for quota")
}
