//! Connections to agents. Calls share one HTTP/2 connection for each sandbox, which is closed when nothing used it for a
//! moment; each transfer of a file has a connection of its own. It must not know what the calls are about.

use atoll_core::{
    driver::{AgentSigner, BoxStream, DriverError, Target},
    early::HearsOut,
    id::SandboxId,
    phase::Phase,
    sandbox::Sandbox,
};
use atoll_proto::sign;
use connectrpc::{
    ConnectError, ErrorCode,
    client::{BoxFuture, ClientBody, ClientConfig, ClientTransport},
};
use http::{Request, Response, Uri};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Base, error::ServiceError};
use crate::world::World;

/// Room for data on its way, for each call and for all of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The largest message that an agent may send.
const MESSAGE: usize = 32 << 20;

/// A connection to an agent, for calls.
#[derive(Clone)]
pub struct Agent {
    sender: http2::SendRequest<ClientBody>,
    signature: Signature,
}

impl Agent {
    /// How calls are made: in the binary form, to whatever is at the other end.
    pub fn calls() -> ClientConfig {
        ClientConfig::new(Uri::from_static("http://agent")).proto().with_default_max_message_size(MESSAGE)
    }
}

/// Signs the requests to one agent, where it wants that.
#[derive(Clone)]
struct Signature {
    signer: Option<AgentSigner>,
    world: Arc<dyn World>,
}

impl Signature {
    /// Adds the proof that a request comes from this server.
    fn sign<B>(&self, request: &mut Request<B>) {
        if let Some(sign) = &self.signer {
            sign::prove(request, self.world.now().as_millisecond(), &**sign);
        }
    }
}

impl ClientTransport for Agent {
    type ResponseBody = Incoming;
    type Error = hyper::Error;

    fn send(
        &self,
        mut request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Incoming>, hyper::Error>> {
        let mut sender = self.sender.clone();
        self.signature.sign(&mut request);
        Box::pin(async move {
            sender.ready().await?;
            sender.send_request(request).await
        })
    }
}

/// A connection that waits for the next call.
struct Idle {
    agent: Agent,
    used: Instant,
}

/// All connections to agents.
pub struct Agents {
    base: Arc<Base>,
    idle: Mutex<HashMap<SandboxId, Idle>>,
}

impl Agents {
    pub fn new(base: Arc<Base>) -> Self {
        Self { base, idle: Mutex::default() }
    }

    /// A connection for calls. A sandbox that rests wakes.
    pub async fn reach(&self, sandbox: &Sandbox) -> Result<Agent, ServiceError> {
        self.base.driver.touch(sandbox.id(), self.base.world.now());
        if sandbox.phase == Phase::Running
            && let Some(agent) = self.known(sandbox.id())
        {
            return Ok(agent);
        }
        let stream = self.connect(sandbox.id()).await?;
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let greeted = http.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = greeted.map_err(|error| silent(sandbox.id(), &error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an agent broke");
            }
        });
        let agent = Agent { sender, signature: self.signature(sandbox.id()) };
        self.keep(sandbox.id().clone(), agent.clone());
        Ok(agent)
    }

    /// Sends one request on a connection of its own, which ends with the answer's body.
    pub async fn transfer<B>(
        &self,
        sandbox: &Sandbox,
        mut request: Request<B>,
    ) -> Result<Response<Incoming>, ServiceError>
    where
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.base.driver.touch(sandbox.id(), self.base.world.now());
        let stream = self.connect(sandbox.id()).await?;
        // An upload may be refused before all of it is there.
        let greeted = http1::handshake(TokioIo::new(HearsOut(stream))).await;
        let (mut sender, connection) = greeted.map_err(|error| silent(sandbox.id(), &error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a transfer broke off");
            }
        });
        self.signature(sandbox.id()).sign(&mut request);
        sender.send_request(request).await.map_err(|error| silent(sandbox.id(), &error))
    }

    async fn connect(&self, id: &SandboxId) -> Result<BoxStream, ServiceError> {
        let connected = self.base.driver.connect(id, Target::Agent).await;
        Ok(connected.inspect_err(|error| self.base.metrics.driver_failed(error))?)
    }

    fn signature(&self, id: &SandboxId) -> Signature {
        Signature { signer: self.base.driver.agent_signer(id), world: self.base.world.clone() }
    }

    /// Closes connections that nothing used lately, for as long as the server runs.
    pub async fn close_idle(&self) {
        let patience = self.base.config.limits.agent_idle_for;
        loop {
            tokio::select! {
                () = self.base.stopping.cancelled() => return,
                () = tokio::time::sleep(patience / 2) => {}
            }
            self.lock().retain(|_, idle| idle.used.elapsed() < patience);
        }
    }

    /// Forgets connections to sandboxes that left the running phase, for as long as the server runs.
    pub async fn follow_phases(&self) {
        use tokio::sync::broadcast::error::RecvError;
        let mut events = self.base.driver.subscribe();
        loop {
            let event = tokio::select! {
                () = self.base.stopping.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(event) if event.sandbox.phase != Phase::Running => {
                    self.lock().remove(event.sandbox.id());
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.lock().clear(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn known(&self, id: &SandboxId) -> Option<Agent> {
        let mut idle = self.lock();
        let known = idle.get_mut(id)?;
        if known.agent.sender.is_closed() {
            idle.remove(id);
            return None;
        }
        known.used = Instant::now();
        Some(known.agent.clone())
    }

    fn keep(&self, id: SandboxId, agent: Agent) {
        let mut idle = self.lock();
        if idle.len() >= self.base.config.limits.agents_idle {
            let oldest = idle.iter().min_by_key(|(_, it)| it.used).map(|(id, _)| id.clone());
            oldest.map(|id| idle.remove(&id));
        }
        idle.insert(id, Idle { agent, used: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a failed call means: what the agent said, or why it says nothing any more.
    pub async fn explain(&self, id: &SandboxId, error: ConnectError) -> ServiceError {
        let message = error.message.clone().unwrap_or_default();
        match said(error.code, message) {
            Ok(refused) => refused,
            Err(problem) => self.why_silent(id, problem).await,
        }
    }

    /// Why an agent does not answer: its sandbox is gone, or not running, or it is broken.
    async fn why_silent(&self, id: &SandboxId, problem: String) -> ServiceError {
        self.lock().remove(id);
        match self.base.driver.get(id).await {
            Err(DriverError::NotFound(what)) => ServiceError::NotFound(what),
            Ok(sandbox) if sandbox.phase != Phase::Running => {
                let why = sandbox.reason.message;
                let message = format!("sandbox {id} became {:?} meanwhile: {why}", sandbox.phase);
                ServiceError::Conflict { code: "not_running", message }
            }
            _ => ServiceError::AgentSilent { id: id.to_string(), problem },
        }
    }
}

fn silent(id: &SandboxId, error: &hyper::Error) -> ServiceError {
    ServiceError::AgentSilent { id: id.to_string(), problem: error.to_string() }
}

/// A refusal of the agent's, in the server's words. What is no refusal is given back as the error.
pub fn said(code: ErrorCode, message: String) -> Result<ServiceError, String> {
    Ok(match code {
        ErrorCode::InvalidArgument | ErrorCode::OutOfRange => {
            ServiceError::Refused { code: "invalid", message }
        }
        // The server is trusted; it is the user that the agent does not know.
        ErrorCode::Unauthenticated => ServiceError::invalid("user", message),
        ErrorCode::NotFound => ServiceError::Missing(message),
        ErrorCode::AlreadyExists => ServiceError::Conflict { code: "exists", message },
        ErrorCode::FailedPrecondition | ErrorCode::Aborted => {
            ServiceError::Conflict { code: "conflict", message }
        }
        ErrorCode::PermissionDenied => ServiceError::Denied(message),
        ErrorCode::ResourceExhausted => ServiceError::SandboxFull(message),
        ErrorCode::Unimplemented => ServiceError::Driver(DriverError::Unsupported(format!(
            "the agent of this sandbox is too old for that: {message}"
        ))),
        _ => return Err(message),
    })
}
