//! A server for tests of the command line alone: it answers with the real API types, runs commands as ordinary
//! processes of this machine and keeps files below a temporary directory. It contains nothing and knows no rules.

use atoll_proto::api::{
    CreateEvent, CreateSandbox, ExecExit, ExecRequest, ExecResponse, FRAME_STDERR, FRAME_STDOUT, FileInfo,
    FileKind, InteractiveMessage, InteractiveStart, Logs, Network, Phase, Reason, Sandbox, SandboxList,
    Status, Uploaded,
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        Path, Query, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use futures::{SinkExt, StreamExt};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// What the fake knows and has seen.
#[derive(Clone)]
pub struct Fake {
    pub url: String,
    pub root: PathBuf,
    pub state: Arc<Mutex<Seen>>,
}

/// What happened so far.
#[derive(Default)]
pub struct Seen {
    pub sandboxes: Vec<Sandbox>,
    pub created: Vec<CreateSandbox>,
    pub deleted: Vec<String>,
    pub requests: Vec<String>,
    pub keys: Vec<Option<String>>,
    pub starts: Vec<InteractiveStart>,
    pub resizes: Vec<(u16, u16)>,
    pub refuse_creation: bool,
    pub hang_creation: bool,
}

pub fn sandbox(id: &str) -> Sandbox {
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    Sandbox {
        id: id.into(),
        image: "base".into(),
        cpu: "2".into(),
        memory: "512Mi".into(),
        disk: "10Gi".into(),
        requests: Default::default(),
        pids: 100,
        io: atoll_client::api::Io::default(),
        ttl: None,
        env: BTreeMap::new(),
        labels: BTreeMap::from([("team".into(), "blue".into())]),
        metadata: BTreeMap::new(),
        agent_open: false,
        mask_host: None,
        https_ports: Vec::new(),
        status: Status::Running,
        phase: Phase::Running,
        reason: Reason { code: "ready".into(), message: "its agent answers".into() },
        owner: None,
        owner_label: None,
        ports: BTreeMap::new(),
        urls: BTreeMap::new(),
        port_url: None,
        access_url: None,
        access_token: None,
        volumes: BTreeMap::new(),
        public: false,
        template: None,
        template_version: None,
        network: Network::default(),
        runtime: None,
        created_at: at,
        expires_at: None,
        updated_at: at,
        last_activity: at,
        history: Vec::new(),
    }
}

/// An id as the server makes them.
pub fn id(number: usize) -> String {
    format!("i{number:019}")
}

impl Fake {
    /// Starts it on a port of its own; it ends with the test's process.
    pub fn start(sandboxes: usize) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let root = tempfile::tempdir().unwrap().keep();
        let seen = Seen { sandboxes: (1..=sandboxes).map(|n| sandbox(&id(n))).collect(), ..Seen::default() };
        let fake = Self { url, root, state: Arc::new(Mutex::new(seen)) };
        let served = fake.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router(served)).await.unwrap();
            });
        });
        fake
    }

    pub fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    fn path(&self, query: &HashMap<String, String>) -> PathBuf {
        self.root.join(query["path"].trim_start_matches('/'))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // The clone that serves lives as long as the process; the directory goes with the test's.
        if Arc::strong_count(&self.state) <= 2 {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

fn router(fake: Fake) -> Router {
    let one = Router::new()
        .route("/", get(get_one).delete(delete_one))
        .route("/stop", post(get_one))
        .route("/logs", get(logs))
        .route("/exec", post(exec))
        .route("/exec/interactive", get(interactive))
        .route("/processes/{pid}", delete(kill))
        .route("/files", get(download).put(upload))
        .route("/files/stat", get(stat))
        .route("/archive", get(pack).put(unpack));
    Router::new()
        .route("/api/v1/sandboxes", get(list).post(create))
        .route("/api/v1/templates/{name}", get(|| async { refuse(404, "not_found", "no such template") }))
        .nest("/api/v1/sandboxes/{id}", one)
        .layer(axum::middleware::from_fn_with_state(fake.clone(), note))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(fake)
}

async fn note(
    State(fake): State<Fake>,
    uri: Uri,
    headers: HeaderMap,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let key = headers.get("x-api-key").map(|key| key.to_str().unwrap().to_owned());
    let refused = key.as_deref() == Some("wrong");
    fake.seen(|seen| {
        seen.requests.push(format!("{} {uri}", request.method()));
        seen.keys.push(key);
    });
    if refused { refuse(401, "unauthorized", "an API key is needed") } else { next.run(request).await }
}

fn refuse(status: u16, code: &str, message: &str) -> Response {
    let body = serde_json::json!({ "error": message, "code": code });
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

fn event<T: serde::Serialize>(event: &T) -> String {
    let value = serde_json::to_value(event).unwrap();
    format!("event: {}\ndata: {value}\n\n", value["event"].as_str().unwrap())
}

async fn list(State(fake): State<Fake>, Query(query): Query<HashMap<String, String>>) -> Json<SandboxList> {
    // Pages of two, so that paging is tried by every list.
    let start: usize = query.get("cursor").map_or(0, |cursor| cursor.parse().unwrap());
    let all = fake.seen(|seen| seen.sandboxes.clone());
    let end = (start + 2).min(all.len());
    let next_cursor = (end < all.len()).then(|| end.to_string());
    Json(SandboxList { items: all[start..end].to_vec(), next_cursor })
}

async fn create(State(fake): State<Fake>, Json(request): Json<CreateSandbox>) -> Response {
    let number = fake.seen(|seen| {
        seen.created.push(request);
        seen.created.len()
    });
    let made = sandbox(&id(900 + number));
    let mut events = vec![
        event(&CreateEvent::Queued { id: made.id.clone() }),
        event(&CreateEvent::Pulling { percent: 43 }),
        "event: later\ndata: {}\n\n".into(),
    ];
    let (refused, hangs) = fake.seen(|seen| (seen.refuse_creation, seen.hang_creation));
    if refused {
        let error = atoll_proto::api::ErrorBody {
            error: "image nope cannot be found".into(),
            code: "image_not_found".into(),
            field: None,
        };
        events.push(event(&CreateEvent::Failed { error }));
    } else if !hangs {
        fake.seen(|seen| seen.sandboxes.push(made.clone()));
        events.push(event(&CreateEvent::Ready { sandbox: Box::new(made) }));
    }
    let events = futures::stream::iter(events.into_iter().map(Ok::<_, std::convert::Infallible>));
    let rest = futures::stream::once(async move {
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(String::new())
    });
    ([("content-type", "text/event-stream")], Body::from_stream(events.chain(rest))).into_response()
}

async fn get_one(State(fake): State<Fake>, Path(id): Path<String>) -> Response {
    let found = fake.seen(|seen| seen.sandboxes.iter().find(|sandbox| sandbox.id == id).cloned());
    match found {
        Some(sandbox) => Json(sandbox).into_response(),
        None => refuse(404, "not_found", &format!("sandbox {id} does not exist")),
    }
}

async fn delete_one(State(fake): State<Fake>, Path(id): Path<String>) -> Response {
    let found = fake.seen(|seen| {
        let before = seen.sandboxes.len();
        seen.sandboxes.retain(|sandbox| sandbox.id != id);
        seen.deleted.push(id.clone());
        seen.sandboxes.len() < before
    });
    if found { StatusCode::NO_CONTENT.into_response() } else { refuse(404, "not_found", "it does not exist") }
}

async fn logs(Query(query): Query<HashMap<String, String>>) -> Response {
    let text = "one\ntwo\nthree\n";
    if query.contains_key("follow") {
        let tail = query.get("tail").map_or(text.len(), |tail| tail.parse().unwrap());
        return text[text.len() - tail..].to_owned().into_response();
    }
    Json(Logs { logs: text.into(), events: Vec::new() }).into_response()
}

async fn exec(Json(request): Json<ExecRequest>) -> Json<ExecResponse> {
    let done = Command::new(&request.command[0]).args(&request.command[1..]).output().await.unwrap();
    Json(ExecResponse {
        exit: ExecExit { exit_code: done.status.code().unwrap(), ..ExecExit::default() },
        stdout: String::from_utf8(done.stdout).unwrap(),
        stderr: String::from_utf8(done.stderr).unwrap(),
        ..ExecResponse::default()
    })
}

async fn interactive(State(fake): State<Fake>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|socket| talk(fake, socket))
}

async fn talk(fake: Fake, socket: WebSocket) {
    let (sink, mut source) = socket.split();
    let sink = Arc::new(tokio::sync::Mutex::new(sink));
    let text = |message: &InteractiveMessage| Message::text(serde_json::to_string(message).unwrap());
    let Some(Ok(Message::Text(first))) = source.next().await else { return };
    let InteractiveMessage::Start(start) = serde_json::from_str(&first).unwrap() else { return };
    fake.seen(|seen| seen.starts.push(start.clone()));
    let spawned = Command::new(&start.command[0])
        .args(&start.command[1..])
        .envs(&start.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .process_group(0)
        .spawn();
    let Ok(mut child) = spawned else {
        let message = format!("{}: command not found", start.command[0]);
        let error = InteractiveMessage::Error { message, code: Some("command_not_found".into()) };
        sink.lock().await.send(text(&error)).await.unwrap();
        return;
    };
    let pid = child.id().unwrap();
    sink.lock().await.send(text(&InteractiveMessage::Started { pid })).await.unwrap();
    let mut stdin = child.stdin.take();
    let reading = tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) => {
                    if let Some(stdin) = &mut stdin {
                        let _ = stdin.write_all(&bytes).await;
                    }
                }
                Message::Text(text) => match serde_json::from_str(&text).unwrap() {
                    InteractiveMessage::Eof => stdin = None,
                    InteractiveMessage::Resize { cols, rows } => {
                        fake.seen(|seen| seen.resizes.push((cols, rows)))
                    }
                    other => panic!("{other:?} was not expected"),
                },
                _ => {}
            }
        }
        let _ = rustix::process::kill_process_group(
            rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
            rustix::process::Signal::KILL,
        );
    });
    let out = pump(child.stdout.take().unwrap(), FRAME_STDOUT, sink.clone());
    let err = pump(child.stderr.take().unwrap(), FRAME_STDERR, sink.clone());
    tokio::join!(out, err);
    let status = child.wait().await.unwrap();
    let signal = status.signal();
    let exit_code = status.code().unwrap_or_else(|| 128 + signal.unwrap());
    let exit = InteractiveMessage::Exit { exit_code, signal, timed_out: false, oom_killed: false };
    let _ = sink.lock().await.send(text(&exit)).await;
    // A socket that is closed while input waits in it is reset, and the reset overtakes the exit.
    let _ = reading.await;
}

type Sink = Arc<tokio::sync::Mutex<futures::stream::SplitSink<WebSocket, Message>>>;

async fn pump(mut from: impl tokio::io::AsyncRead + Unpin, stream: u8, sink: Sink) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let mut frame = vec![stream];
        frame.extend(&buffer[..count]);
        if sink.lock().await.send(Message::Binary(frame.into())).await.is_err() {
            return;
        }
    }
}

async fn kill(Path((_, pid)): Path<(String, i32)>, Query(query): Query<HashMap<String, i32>>) -> StatusCode {
    let signal = rustix::process::Signal::from_named_raw(query["signal"]).unwrap();
    rustix::process::kill_process_group(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    StatusCode::NO_CONTENT
}

async fn stat(State(fake): State<Fake>, Query(query): Query<HashMap<String, String>>) -> Response {
    let path = fake.path(&query);
    let Ok(metadata) = fs::metadata(&path) else { return refuse(404, "not_found", "it is not there") };
    Json(FileInfo {
        name: String::new(),
        path: query["path"].clone(),
        kind: if metadata.is_dir() { FileKind::Directory } else { FileKind::File },
        size: i64::try_from(metadata.len()).unwrap(),
        mode: metadata.mode() & 0o7777,
        owner: "root".into(),
        group: "root".into(),
        modified_at: None,
        symlink_target: None,
    })
    .into_response()
}

async fn upload(
    State(fake): State<Fake>,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Json<Uploaded> {
    let path = fake.path(&query);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &body).unwrap();
    Json(Uploaded { message: String::new(), path: query["path"].clone(), size: body.len() as u64 })
}

async fn download(State(fake): State<Fake>, Query(query): Query<HashMap<String, String>>) -> Response {
    fs::read(fake.path(&query)).unwrap().into_response()
}

async fn unpack(
    State(fake): State<Fake>,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> StatusCode {
    let path = fake.path(&query);
    fs::create_dir_all(&path).unwrap();
    tar::Archive::new(&body[..]).unpack(path).unwrap();
    StatusCode::NO_CONTENT
}

async fn pack(State(fake): State<Fake>, Query(query): Query<HashMap<String, String>>) -> Response {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", fake.path(&query)).unwrap();
    builder.into_inner().unwrap().into_response()
}
