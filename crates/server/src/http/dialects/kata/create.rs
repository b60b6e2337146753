//! The route that makes a container and tells how that goes.

use atoll_core::{driver::CreateStep, id::SandboxId, sandbox::Sandbox};
use atoll_proto::api::ErrorBody;
use axum::{extract::State, response::Response};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use std::{pin::Pin, sync::Arc};
use tokio::time::Sleep;

use super::{
    containers::info,
    in_their_words,
    types::{CreateContainer, CreationEvent},
};
use crate::{
    http::{
        error::Answer,
        extract::JsonBody,
        sandboxes::{Step, steps},
        sse,
    },
    services::{Services, access::Caller, error::ServiceError},
};

/// Makes a container and streams how that goes.
///
/// Each event is one `data:` line. With `waitForReady: false` the stream ends after `created`. Whoever leaves does not stop
/// the creation; neither does `failed` because the time to be ready was over: it says so then.
#[utoipa::path(post, path = "/api/kata", operation_id = "kata_create", tag = "kata", request_body = CreateContainer,
    responses((status = 200, body = CreationEvent, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(services): State<Arc<Services>>,
    caller: Caller,
    body: JsonBody<CreateContainer>,
) -> Answer<Response> {
    let wait = body.value.wait_for_ready.unwrap_or(true);
    let ask = body.value.request()?;
    let begun = services.create(&caller, ask, None).await.map_err(in_their_words)?;
    let id = begun.sandbox().id().clone();
    let pod_name = services.base.config.kata.name_of(&id);
    let created = CreationEvent::Created { pod_name: pod_name.clone(), phase: "Pending" };
    let told = Telling::new(services, caller, id, pod_name, steps(begun).boxed());
    let rest = if wait { told.events().boxed() } else { stream::empty().boxed() };
    Ok(sse::lines(stream::iter([created]).chain(rest)))
}

/// Tells what becomes of a creation, until it has ended or its time is over.
struct Telling {
    services: Arc<Services>,
    caller: Caller,
    id: SandboxId,
    pod_name: String,
    steps: BoxStream<'static, Step>,
    deadline: Pin<Box<Sleep>>,
    attempts: u32,
}

impl Telling {
    fn new(
        services: Arc<Services>,
        caller: Caller,
        id: SandboxId,
        pod_name: String,
        steps: BoxStream<'static, Step>,
    ) -> Self {
        let deadline = Box::pin(tokio::time::sleep(services.base.config.kata.ready_timeout));
        Self { services, caller, id, pod_name, steps, deadline, attempts: 0 }
    }

    fn events(self) -> impl Stream<Item = CreationEvent> + Send {
        let told = stream::unfold(Some(self), async |telling| telling?.next().await);
        told.flat_map(stream::iter)
    }

    async fn next(mut self) -> Option<(Vec<CreationEvent>, Option<Self>)> {
        let step = tokio::select! {
            biased;
            step = self.steps.next() => step?,
            () = &mut self.deadline => return Some((vec![self.late().await], None)),
        };
        match step {
            Step::Did(step) => Some((vec![self.waiting(&step)], Some(self))),
            Step::Ended(Ok(sandbox)) => Some((self.ready(*sandbox), None)),
            Step::Ended(Err(error)) => Some((vec![self.failed(error.tell().error).await], None)),
        }
    }

    fn waiting(&mut self, step: &CreateStep) -> CreationEvent {
        self.attempts += 1;
        let message = match step {
            CreateStep::Queued => "Waiting for pod to be ready".to_owned(),
            CreateStep::Pulling { percent } => format!("Pulling image: {percent}%"),
            CreateStep::Preparing => "Preparing filesystem, network and limits".to_owned(),
            CreateStep::Starting => "Starting the executor".to_owned(),
        };
        let (pod_name, attempt_number) = (self.pod_name.clone(), self.attempts);
        CreationEvent::Waiting { pod_name, attempt_number, phase: "Pending", message }
    }

    /// A sandbox runs when its agent answers, and the agent is the executor.
    fn ready(&self, sandbox: Sandbox) -> Vec<CreationEvent> {
        let took = self.services.base.world.now().duration_since(sandbox.spec.created_at);
        let info = info(&self.services, sandbox);
        let healthy = CreationEvent::HealthCheck {
            pod_name: self.pod_name.clone(),
            is_healthy: true,
            message: "Executor API is healthy",
            pod_ip: info.pod_ip,
        };
        let ready = CreationEvent::Ready {
            pod_name: self.pod_name.clone(),
            container_info: Box::new(info),
            elapsed_seconds: took.as_secs_f64(),
        };
        vec![healthy, ready]
    }

    async fn late(&mut self) -> CreationEvent {
        let seconds = self.services.base.config.kata.ready_timeout.as_secs();
        let name = self.pod_name.clone();
        let reason =
            format!("not ready within {seconds} s; it is still being made: GET /api/kata/{name} tells when");
        self.failed(reason).await
    }

    async fn failed(&mut self, reason: String) -> CreationEvent {
        let left: Result<Sandbox, ServiceError> = self.services.sandbox(&self.caller, self.id.as_str()).await;
        let container_info = left.ok().map(|sandbox| Box::new(info(&self.services, sandbox)));
        CreationEvent::Failed { pod_name: self.pod_name.clone(), reason, container_info }
    }
}
