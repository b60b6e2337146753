//! Sandboxes on a Kubernetes cluster: the objects that describe them, the operator that makes pods of them, and the driver
//! through which the server meets them. The only crate that speaks to the cluster's API; it must not know of exec, files,
//! terminals, HTTP routes or SQL.

pub mod agent;
pub mod cluster;
pub mod convert;
pub mod crd;
pub mod driver;
pub mod names;
pub mod operator;
mod pauses;
