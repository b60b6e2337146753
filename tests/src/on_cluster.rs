//! What servers have below them where `ATOLL_TEST_DRIVER=kubernetes` says so: a cluster with an operator, in place of this
//! machine.
//! It must not know what a story is about.

use anyhow::{Result, bail, ensure};
use atoll_proto::api::Requests;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::{
    Cluster,
    cluster::Operator,
    server::{IMAGE, wait_until},
};

/// Tenants whose namespaces stories use.
const TENANTS: [&str; 3] = ["default", "elsewhere", "theirs"];

/// A cluster with an operator that the servers of one process share.
#[derive(Debug)]
pub struct OnCluster {
    cluster: Cluster,
    operator: Operator,
}

static OPEN: Mutex<Weak<OnCluster>> = Mutex::new(Weak::new());

/// Whether stories run on a cluster.
///
/// # Errors
/// The variable says something else.
pub fn is_asked() -> Result<bool> {
    match std::env::var("ATOLL_TEST_DRIVER").as_deref() {
        Err(_) | Ok("local") => Ok(false),
        Ok("kubernetes") => Ok(true),
        Ok(other) => bail!("ATOLL_TEST_DRIVER={other}: there are `local` and `kubernetes`"),
    }
}

/// What the cluster sets aside for a sandbox: little, because its nodes are small and most sandboxes do nothing.
#[must_use]
pub fn little() -> Requests {
    Requests { cpu: Some("50m".into()), memory: Some("64Mi".into()) }
}

impl OnCluster {
    /// The one that is open, or a new one, on the cluster that KUBECONFIG names or one of its own.
    ///
    /// # Errors
    /// The cluster cannot be had, or does not take what is put there.
    pub fn open() -> Result<Arc<Self>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ground) = open.upgrade() {
            return Ok(ground);
        }
        let ground = Arc::new(Self::set()?);
        *open = Arc::downgrade(&ground);
        Ok(ground)
    }

    fn set() -> Result<Self> {
        let cluster = Cluster::start("atoll-stories")?;
        cluster.prepare(&TENANTS)?;
        cluster.push_base()?;
        let agent = cluster.push_agent()?;
        let operator =
            cluster.operator(&agent, "stories", &["--domain", "localhost", "--kata-image", IMAGE])?;
        Ok(Self { cluster, operator })
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The operator's process.
    #[must_use]
    pub fn operator(&self) -> u32 {
        self.operator.pid()
    }

    /// What a server is told in addition.
    ///
    /// # Errors
    /// The operator's key cannot be written.
    pub fn arguments(&self) -> Result<Vec<String>> {
        let key = self.cluster.agent_key()?.display().to_string();
        Ok(["--driver", "kubernetes", "--agent-key", &key, "--kata-image", IMAGE].map(str::to_owned).to_vec())
    }

    /// After a failure: ends what it left.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn sweep(&self) -> Result<()> {
        TENANTS.iter().try_for_each(|tenant| {
            let arguments =
                ["-n", &format!("tenant-{tenant}"), "delete", "sandboxes", "--all", "--timeout=60s"];
            self.cluster.kubectl(&arguments).map(drop)
        })
    }

    /// Waits until nothing of sandboxes is there but the users' volumes.
    ///
    /// # Errors
    /// Something stays.
    pub async fn is_empty(&self) -> Result<()> {
        wait_until("nothing is left on the cluster", async || {
            for tenant in TENANTS {
                for kind in ["sandboxes", "pods", "statefulsets"] {
                    let left = self.cluster.list(&format!("tenant-{tenant}"), kind)?;
                    ensure!(left.is_empty(), "left of {tenant}: {left:#?}");
                }
            }
            Ok(true)
        })
        .await
    }
}
