//! The driver that the command line names.

use atoll_core::{driver::Driver, store::Templates};
use atoll_kube::driver::{KubeConfig, KubeDriver};
use atoll_local::{LocalConfig, LocalDriver, oci::Runtimes};
use std::{fs, path::PathBuf, sync::Arc};

use super::registries;
use crate::{
    agent_key,
    cli::{DriverKind, Serve},
    failure::Failure,
};

/// A driver, and the templates that it keeps, where they are not the store's.
pub type Opened = (Arc<dyn Driver>, Option<Arc<dyn Templates>>);

/// Opens it.
pub async fn open(args: &Serve) -> Result<Opened, Failure> {
    match args.driver {
        DriverKind::Local => Ok((Arc::new(local(args).await?), None)),
        DriverKind::Kubernetes => {
            let driver = kubernetes(args).await?;
            let templates = Arc::new(driver.templates());
            Ok((Arc::new(driver), Some(templates)))
        }
    }
}

async fn local(args: &Serve) -> Result<LocalDriver, Failure> {
    let driver = LocalDriver::open(LocalConfig {
        data: args.data.clone(),
        agent: crate::agent::PROGRAM,
        launcher: PathBuf::from("/proc/self/exe"),
        storage: args.storage.into(),
        disk: args.disk_size,
        registries: registries(&args.registries)?,
        runtimes: Runtimes::beside(&args.runtime_dir),
        private_egress: args.private_egress,
    });
    driver.await.map_err(|error| Failure::Wrong(error.to_string()))
}

async fn kubernetes(args: &Serve) -> Result<KubeDriver, Failure> {
    let Some(path) = &args.agent_key else {
        let what =
            "--driver kubernetes needs --agent-key FILE, the operator's; `atoll agent-key FILE` makes one";
        return Err(Failure::Wrong(what.into()));
    };
    let key = agent_key::read(path)?;
    // The database, and what else has no file of its own.
    fs::create_dir_all(&args.data).map_err(|source| Failure::file("make", &args.data, source))?;
    let wrong = |error: &dyn std::error::Error| Failure::Wrong(error.to_string());
    let client = atoll_kube::cluster::connect().await.map_err(|error| wrong(&error))?;
    let (namespaces, capacity) = (args.cluster.namespaces(), args.cluster.capacity());
    let opened = KubeDriver::open(KubeConfig { client, namespaces, key, capacity }).await;
    opened.map_err(|error| wrong(&error))
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

    #[tokio::test]
    async fn a_cluster_needs_the_operators_key() {
        let refused = open(&args(&["--driver", "kubernetes"])).await.err().unwrap().to_string();
        assert!(refused.contains("--agent-key") && refused.contains("atoll agent-key"), "{refused}");
        let refused =
            open(&args(&["--driver", "kubernetes", "--agent-key", "/no/such"])).await.err().unwrap();
        assert!(refused.to_string().contains("/no/such"), "{refused}");
    }

    #[test]
    fn what_a_sandbox_of_a_cluster_may_have_is_said_on_the_command_line() {
        let cluster =
            args(&["--max-cpu", "1500m", "--max-memory", "3Gi", "--namespace-prefix", "t-"]).cluster;
        assert_eq!((cluster.capacity().cpu.0, cluster.capacity().memory.0), (1500, 3 << 30));
        assert_eq!(cluster.namespaces().of("acme"), "t-acme");
        assert!(Cli::try_parse_from(["atoll", "serve", "--max-cpu", "lots"]).is_err());
    }
}
