//! `operator`: makes pods of the Sandbox objects of a cluster.

use atoll_proto::sign::RequestSigner;
use std::{fs, path::Path, sync::Arc};

use crate::{
    cli::Operator,
    failure::Failure,
    serve::{asked_to_stop, logging},
};

/// `atoll operator`
pub async fn operator(args: Operator) -> Result<(), Failure> {
    logging::begin(args.log_format);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = Arc::new(agent_key(&args.agent_key)?);
    let client = cluster().await?;
    let identity = args.identity.clone().unwrap_or_else(host_name);
    let stop = asked_to_stop()?;
    let settings = args.settings(identity);
    tracing::info!(identity = %settings.identity, metrics = %settings.listen, "the operator waits for its turn");
    let ran = atoll_kube::operator::run(client, settings, key, stop).await;
    ran.map_err(|error| Failure::Wrong(error.to_string()))
}

/// The cluster that KUBECONFIG names, or the one that this runs in.
pub async fn cluster() -> Result<atoll_kube::Client, Failure> {
    let client = atoll_kube::Client::try_default().await;
    client.map_err(|error| Failure::Wrong(format!("no cluster: {error}; set KUBECONFIG, or run in a pod")))
}

/// The key that requests to agents are signed with.
pub fn agent_key(path: &Path) -> Result<RequestSigner, Failure> {
    let bytes = fs::read(path).map_err(|source| Failure::file("read", path, source))?;
    let wrong = |_| Failure::Wrong(format!("{} is no agent key: it must have 32 bytes", path.display()));
    let secret: [u8; 32] = bytes.try_into().map_err(wrong)?;
    Ok(RequestSigner::new(&secret))
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
