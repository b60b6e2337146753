//! What this API is asked and answers, field by field, and how that maps onto ours.

use atoll_core::{driver::Location, phase::Phase, sandbox::Sandbox, template::EXECUTOR};
use atoll_proto::api::{CreateSandbox, Requests};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};
use utoipa::ToSchema;

use super::{DIALECT, LABELS};
use crate::{config::KataConfig, services::error::ServiceError};

/// A container to make. Fields that are not known are ignored.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct CreateContainer {
    /// Labels beside those that every container has.
    pub labels: BTreeMap<String, String>,
    /// Environment of every command.
    pub environment_variables: BTreeMap<String, String>,
    /// Program that runs from the start, beside the executor.
    pub command: Option<Vec<String>>,
    /// Its arguments; they go with `command`.
    pub args: Option<Vec<String>>,
    /// What is set aside for it, and its limits.
    pub resources: Option<Resources>,
    /// Whether the stream goes on until it is ready; `true` when absent.
    pub wait_for_ready: Option<bool>,
    /// Refused: the image is the executor's.
    #[schema(ignore)]
    pub image: Option<serde_json::Value>,
}

/// What is set aside, and the limits.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct Resources {
    /// What a cluster sets aside; one machine sets nothing aside.
    pub requests: Option<Amounts>,
    /// Hard limits.
    pub limits: Option<Amounts>,
}

/// Memory and CPU. What is absent has its default.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Amounts {
    /// Mebibytes.
    #[schema(minimum = 1)]
    pub memory_mi: Option<i64>,
    /// Thousandths of a CPU.
    #[schema(minimum = 1)]
    pub cpu_millicores: Option<i64>,
}

impl Amounts {
    /// CPU and memory as our own API writes them.
    fn texts(self, of: &str) -> Result<(Option<String>, Option<String>), ServiceError> {
        let text = |amount: Option<i64>, name: &str, unit: &str| match amount {
            Some(amount) if amount < 1 => {
                let problem = format!("{amount} is no amount; give at least 1, or leave it out");
                Err(ServiceError::invalid(format!("resources.{of}.{name}"), problem))
            }
            amount => Ok(amount.map(|amount| format!("{amount}{unit}"))),
        };
        Ok((text(self.cpu_millicores, "cpuMillicores", "m")?, text(self.memory_mi, "memoryMi", "Mi")?))
    }
}

impl CreateContainer {
    /// The sandbox that is to be made.
    pub fn request(self) -> Result<CreateSandbox, ServiceError> {
        if self.image.is_some() {
            let problem = "is fixed to the executor's, for security; leave it out";
            return Err(ServiceError::invalid("image", problem));
        }
        let resources = self.resources.unwrap_or_default();
        let (cpu, memory) = resources.limits.unwrap_or_default().texts("limits")?;
        let (request_cpu, request_memory) = resources.requests.unwrap_or_default().texts("requests")?;
        Ok(CreateSandbox {
            cpu,
            memory,
            requests: Requests { cpu: request_cpu, memory: request_memory },
            env: self.environment_variables,
            labels: labels(self.labels)?,
            start_command: start_command(self.command, self.args)?,
            ..CreateSandbox::of_template(EXECUTOR)
        })
    }
}

/// Ours last: a container that lost the label could not be found again.
fn labels(asked: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ServiceError> {
    if asked.get(DIALECT.0).is_some_and(|value| value != DIALECT.1) {
        let problem = "is how containers of this API are known; leave it out";
        return Err(ServiceError::invalid(format!("labels.{}", DIALECT.0), problem));
    }
    let mut labels: BTreeMap<_, _> = LABELS.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    labels.extend(asked);
    labels.insert(DIALECT.0.to_owned(), DIALECT.1.to_owned());
    Ok(labels)
}

fn start_command(
    command: Option<Vec<String>>,
    args: Option<Vec<String>>,
) -> Result<Option<Vec<String>>, ServiceError> {
    let command = command.filter(|command| !command.is_empty());
    let args = args.unwrap_or_default();
    match command {
        Some(command) => Ok(Some(command.into_iter().chain(args).collect())),
        None if args.is_empty() => Ok(None),
        None => Err(ServiceError::invalid("args", "goes with `command`, which names the program")),
    }
}

/// A container as lists show it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerInfo {
    /// Name of its pod.
    pub name: String,
    /// As Kubernetes names the phases of pods; `Terminating` on its way out.
    pub phase: &'static str,
    /// Whether a command can run in it now. One that rests wakes for a command all the same.
    pub is_ready: bool,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When somebody last used it.
    #[schema(value_type = String, format = DateTime)]
    pub last_activity: Timestamp,
    /// The machine that it runs on, where that is known.
    pub node_name: Option<String>,
    /// Its address in its own network, which need not be reachable from outside, where that is known.
    #[serde(rename = "podIP")]
    #[schema(value_type = Option<String>)]
    pub pod_ip: Option<IpAddr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its image.
    pub image: String,
}

impl ContainerInfo {
    /// A sandbox as a container, and where it is.
    pub fn of(sandbox: Sandbox, at: Location, config: &KataConfig) -> Self {
        Self {
            name: config.name_of(sandbox.id()),
            phase: phase(sandbox.phase),
            is_ready: sandbox.phase == Phase::Running,
            created_at: sandbox.spec.created_at,
            last_activity: sandbox.last_activity,
            node_name: at.node,
            pod_ip: at.address,
            labels: sandbox.spec.labels,
            image: sandbox.spec.image,
        }
    }
}

/// A paused sandbox's processes are there; a stopped one's have ended in order.
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "Pending",
        Phase::Running | Phase::Paused => "Running",
        Phase::Stopped => "Succeeded",
        Phase::Failed => "Failed",
        Phase::Terminating => "Terminating",
    }
}

/// What happens while a container is made.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "eventType", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum CreationEvent {
    /// It is recorded.
    Created {
        /// Name of its pod.
        pod_name: String,
        /// Always `Pending`.
        phase: &'static str,
    },
    /// It is not ready yet.
    Waiting {
        /// Name of its pod.
        pod_name: String,
        /// Counts these events from 1.
        attempt_number: u32,
        /// As in a list.
        phase: &'static str,
        /// What is being done.
        message: String,
    },
    /// The executor was asked whether it is there.
    HealthCheck {
        /// Name of its pod.
        pod_name: String,
        /// Whether it is.
        is_healthy: bool,
        /// What it said.
        message: &'static str,
        /// As in a list.
        #[serde(rename = "podIP")]
        #[schema(value_type = Option<String>)]
        pod_ip: Option<IpAddr>,
    },
    /// Commands can run in it. The last event.
    Ready {
        /// Name of its pod.
        pod_name: String,
        /// The container.
        container_info: Box<ContainerInfo>,
        /// Since it was asked for.
        elapsed_seconds: f64,
    },
    /// It could not be made, or not in time. The last event.
    Failed {
        /// Name of its pod.
        pod_name: String,
        /// Why.
        reason: String,
        /// What there is of it.
        container_info: Option<Box<ContainerInfo>>,
    },
}

/// Answer of a deletion.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    /// Always true; a failure is an error.
    pub success: bool,
    /// A sentence.
    pub message: String,
    /// Name of its pod.
    pub pod_name: String,
}

/// Answer of the deletion of all.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletedAll {
    /// How many.
    pub deleted_count: usize,
    /// How many could not be.
    pub failed_count: usize,
    /// Their names.
    pub deleted_pods: Vec<String>,
    /// The names of the others.
    pub failed_pods: Vec<String>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "eventType", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum ExecutionEvent {
    /// It wrote a line.
    Output {
        /// Process id inside the container.
        pid: u32,
        /// `Stdout` or `Stderr`.
        stream: &'static str,
        /// The line, without its end.
        data: String,
    },
    /// It ended. The last event.
    Completed {
        /// Process id inside the container.
        pid: u32,
        /// Its exit code, as shells say it.
        exit_code: i32,
        /// Whether its time was up.
        timed_out: bool,
    },
}

/// Whose container is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allocate {
    /// Any name of a user, also an e-mail address.
    pub user_id: String,
}

/// How many containers there are. There is no pool of warm ones: what is said of it is zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// Being made.
    pub creating: usize,
    /// Made ahead, for nobody yet: 0.
    pub warm: usize,
    /// Somebody's.
    pub allocated: usize,
    /// Made by name of nobody.
    pub manual: usize,
    /// All of these.
    pub total: usize,
    /// How many are to be made ahead: 0.
    pub target_size: usize,
    /// Of those to be made ahead: 0.
    pub ready_percentage: f64,
    /// Of all, those that are somebody's.
    pub utilization_percentage: f64,
    /// As `warm`, in the words of older clients.
    pub warm_count: usize,
    /// As `allocated`.
    pub allocated_count: usize,
    /// As `total`.
    pub total_count: usize,
}
