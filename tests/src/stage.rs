//! A cluster with tenants, an operator and images to make sandboxes of: what stories of Sandbox objects share. It must not
//! know what they tell.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{Cluster, cluster::Operator};

/// The namespace of the tenant that most is done for.
pub const NS: &str = "tenant-default";

/// All of it.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// The image that brings agents into pods.
    pub agent: String,
    /// A small image that has a shell.
    pub busybox: String,
}

impl Stage {
    /// A cluster of that name with the tenants `default` and `other`.
    ///
    /// # Errors
    /// [`crate::Skip`] where no cluster can be had.
    pub fn set(name: &str) -> Result<Self> {
        let cluster = Cluster::start(name)?;
        let busybox = format!("{}/busybox:1", cluster.var("ATOLL_CLUSTER_REGISTRY")?);
        cluster.prepare(&["default", "other"])?;
        let agent = cluster.push_agent()?;
        Ok(Self { cluster, agent, busybox })
    }

    /// Takes everything down.
    ///
    /// # Errors
    /// When something stays.
    pub fn strike(mut self) -> Result<()> {
        self.cluster.down()
    }

    /// Starts an operator.
    ///
    /// # Errors
    /// When the binary was not built.
    pub fn operator(&self, identity: &str, more: &[&str]) -> Result<Operator> {
        self.cluster.operator(&self.agent, identity, &[&["--domain", "sandbox.test"], more].concat())
    }

    /// A small sandbox; `spec` is what it has besides, and null takes away.
    #[must_use]
    pub fn sandbox(&self, namespace: &str, name: &str, spec: Value) -> Value {
        let mut all = json!({ "image": self.busybox, "cpu": "200m", "memory": "64Mi", "disk": "64Mi" });
        if let (Some(all), Value::Object(spec)) = (all.as_object_mut(), spec) {
            all.extend(spec);
            all.retain(|_, value| !value.is_null());
        }
        json!({ "apiVersion": "atoll.dev/v1alpha1", "kind": "Sandbox",
            "metadata": { "name": name, "namespace": namespace }, "spec": all })
    }

    /// A template for such.
    #[must_use]
    pub fn template(&self, name: &str, spec: Value) -> Value {
        let mut object = self.sandbox(NS, name, spec);
        object["kind"] = json!("SandboxTemplate");
        object
    }

    /// Makes one and waits until it runs; gives its pod's name.
    ///
    /// # Errors
    /// When it does not come to run.
    pub async fn run(&self, namespace: &str, name: &str, spec: Value) -> Result<String> {
        self.cluster.apply(&self.sandbox(namespace, name, spec))?;
        let made = self.cluster.phase(namespace, name, "Running").await?;
        Ok(pod_of(&made))
    }

    /// Deletes one and waits until it is gone.
    ///
    /// # Errors
    /// When it is not, in a minute.
    pub fn delete(&self, namespace: &str, name: &str) -> Result<()> {
        self.cluster.kubectl(&["-n", namespace, "delete", "sandbox", name, "--timeout=60s"]).map(drop)
    }

    /// Deletes the claims of the tenant.
    ///
    /// # Errors
    /// When the cluster does not.
    pub fn delete_claims(&self) -> Result<()> {
        self.cluster.kubectl(&["-n", NS, "delete", "pvc", "--all"]).map(drop)
    }

    /// Asks for a sandbox to be in a state.
    ///
    /// # Errors
    /// When the cluster does not take it.
    pub fn want(&self, name: &str, state: &str) -> Result<()> {
        let patch = json!({ "spec": { "state": state } }).to_string();
        self.cluster.kubectl(&["-n", NS, "patch", "sandbox", name, "--type=merge", "-p", &patch]).map(drop)
    }

    /// Runs a shell line in a pod of the tenant.
    ///
    /// # Errors
    /// When it fails.
    pub fn inside(&self, pod: &str, line: &str) -> Result<String> {
        self.cluster.inside(NS, pod, line)
    }

    /// Everything of sandboxes that is there, but for claims.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn left(&self) -> Result<Vec<Value>> {
        let all = ["pods", "statefulsets", "sandboxes"].map(|kind| self.cluster.list(NS, kind));
        Ok(all.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }
}

/// The name of a sandbox's pod.
#[must_use]
pub fn pod_of(sandbox: &Value) -> String {
    let id = sandbox["status"]["id"].as_str().unwrap_or_default();
    let volumes = sandbox["status"]["resolved"]["spec"]["volumes"].as_array();
    if volumes.is_some_and(|volumes| !volumes.is_empty()) { format!("{id}-0") } else { id.to_owned() }
}

/// Volumes: a home of that size.
#[must_use]
pub fn home(size: &str) -> Value {
    json!({ "home": { "path": "/home/user", "size": size } })
}
