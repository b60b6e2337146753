//! `operator`: makes pods of the Sandbox objects of a cluster.

use std::sync::Arc;

use crate::{
    agent_key,
    cli::Operator,
    failure::Failure,
    serve::{asked_to_stop, logging},
};

/// `atoll operator`
pub async fn operator(args: Operator) -> Result<(), Failure> {
    logging::begin(args.log_format, "info");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = Arc::new(agent_key::read(&args.agent_key)?);
    let client = atoll_kube::cluster::connect().await;
    let client = client.map_err(|error| Failure::Wrong(error.to_string()))?;
    let identity = args.identity.clone().unwrap_or_else(host_name);
    let stop = asked_to_stop()?;
    let settings = args.settings(identity);
    tracing::info!(identity = %settings.identity, metrics = %settings.listen, "the operator waits for its turn");
    let ran = atoll_kube::operator::run(client, settings, key, stop).await;
    ran.map_err(|error| Failure::Wrong(error.to_string()))
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
