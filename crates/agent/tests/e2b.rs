//! The services of the E2B SDK, in their JSON form, against the real agent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::os::unix::fs::symlink;
use std::time::Duration;

use atoll_proto::agent::filesystem::__buffa::oneof::watch_dir_response::Event as WatchEvent;
use atoll_proto::agent::filesystem::*;
use atoll_proto::agent::process::__buffa::oneof::process_event::Event;
use atoll_proto::agent::process::__buffa::oneof::process_event::data_event::Output;
use atoll_proto::agent::process::__buffa::oneof::process_input::Input;
use atoll_proto::agent::process::__buffa::oneof::process_selector::Selector;
use atoll_proto::agent::process::process_event::EndEvent;
use atoll_proto::agent::process::pty::Size;
use atoll_proto::agent::process::*;
use connectrpc::client::CallOptions;
use connectrpc::{ConnectError, ErrorCode};
use http::Request;
use http_body_util::Full;
use support::*;

fn bash(script: &str) -> StartRequest {
    let config = ProcessConfig {
        cmd: "/bin/bash".into(),
        args: ["-l", "-c", script].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    StartRequest { process: config.into(), stdin: Some(false), ..Default::default() }
}

fn by_pid(pid: u32) -> ProcessSelector {
    ProcessSelector { selector: Some(Selector::Pid(pid)), ..Default::default() }
}

fn stdin(pid: u32, data: &[u8]) -> SendInputRequest {
    let input = ProcessInput { input: Some(Input::Stdin(data.to_vec())), ..Default::default() };
    SendInputRequest { process: by_pid(pid).into(), input: input.into(), ..Default::default() }
}

/// What a stream told: process number, standard output and terminal, end.
#[derive(Default)]
struct Seen {
    pid: u32,
    text: String,
    end: Option<EndEvent>,
}

impl Seen {
    fn take(&mut self, event: Option<ProcessEvent>) {
        match event.and_then(|event| event.event) {
            Some(Event::Start(start)) => self.pid = start.pid,
            Some(Event::Data(data)) => {
                if let Some(Output::Stdout(data) | Output::Pty(data)) = data.output {
                    self.text += std::str::from_utf8(&data).unwrap();
                }
            }
            Some(Event::End(end)) => self.end = Some(*end),
            Some(Event::Keepalive(_)) | None => {}
        }
    }
}

/// Follows a stream until something is seen, or to its end.
macro_rules! follow {
    ($stream:expr, $seen:expr, $until:expr) => {
        loop {
            if $until(&$seen) {
                break Ok::<(), ConnectError>(());
            }
            match $stream.message().await {
                Ok(Some(response)) => $seen.take(response.to_owned_message().event.into_option()),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        }
    };
}

#[tokio::test]
async fn a_command_runs_and_ends_in_the_words_of_the_sdk() {
    let agent = Sandbox::start();
    let client = agent.process().await;
    let cases = [
        ("echo hi", 0, true, "exit status 0"),
        ("exit 3", 3, true, "exit status 3"),
        ("kill -9 $$", -1, false, "signal: killed"),
    ];
    for (script, code, exited, status) in cases {
        let mut seen = Seen::default();
        let mut stream = client.start(bash(script)).await.unwrap();
        follow!(stream, seen, |_: &Seen| false).unwrap();
        let end = seen.end.unwrap();
        assert_eq!((end.exit_code, end.exited, end.status.as_str()), (code, exited, status));
        assert_eq!(end.error.is_some(), code != 0);
    }
}

#[tokio::test]
async fn a_lost_client_ends_nothing_and_another_connects() {
    let agent = Sandbox::start();
    let client = agent.process().await;
    let mut request = bash("echo ready; read line; echo \"<$line>\"; cat");
    request.stdin = None;
    request.tag = Some("mine".into());
    let mut stream = client.start(request).await.unwrap();
    let mut seen = Seen::default();
    follow!(stream, seen, |seen: &Seen| seen.text.contains("ready")).unwrap();
    drop(stream);
    drop(client);
    let client = agent.process().await;
    let list = client.list(ListRequest::default()).await.unwrap().into_owned().processes;
    assert_eq!((list[0].pid, list[0].tag.as_deref()), (seen.pid, Some("mine")));
    assert_eq!(list[0].config.args[1], "-c");

    let selector = ProcessSelector { selector: Some(Selector::Tag("mine".into())), ..Default::default() };
    let connect = ConnectRequest { process: selector.into(), ..Default::default() };
    let mut stream = client.connect(connect).await.unwrap();
    let pid = seen.pid;
    let mut seen = Seen::default();
    client.send_input(stdin(pid, b"typed\n")).await.unwrap();
    follow!(stream, seen, |seen: &Seen| seen.text.contains("<typed>")).unwrap();
    assert_eq!(seen.pid, pid);
    let close = CloseStdinRequest { process: by_pid(pid).into(), ..Default::default() };
    client.close_stdin(close).await.unwrap();
    follow!(stream, seen, |_: &Seen| false).unwrap();
    assert_eq!(seen.end.unwrap().exit_code, 0);
    assert_eq!(client.send_input(stdin(pid, b"x")).await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn the_clients_deadline_ends_stream_and_process() {
    let agent = Sandbox::start();
    let client = agent.process().await;
    let options = CallOptions::default().with_header("connect-timeout-ms", "400");
    let mut stream = client.start_with_options(bash("trap '' TERM; sleep 61"), options).await.unwrap();
    let mut seen = Seen::default();
    let error = follow!(stream, seen, |_: &Seen| false).unwrap_err();
    assert_eq!(error.code, ErrorCode::DeadlineExceeded);
    assert!(seen.end.is_none());
    eventually("it is gone", async || !lives(seen.pid)).await;
}

/// A command that goes with its sandbox has no end of its own.
#[tokio::test]
async fn a_stop_ends_streams_and_not_commands() {
    let agent = Sandbox::start();
    let mut stream = agent.process().await.start(bash("echo begun; sleep 61")).await.unwrap();
    let mut seen = Seen::default();
    follow!(stream, seen, |seen: &Seen| seen.text.contains("begun")).unwrap();
    let request = atoll_proto::agent::v1::ShutdownRequest { grace_ms: Some(5000), ..Default::default() };
    agent.agent().await.shutdown(request).await.unwrap();
    let error = follow!(stream, seen, |_: &Seen| false).unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(seen.end.is_none());
}

#[tokio::test]
async fn a_terminal_is_typed_at_and_resized() {
    let agent = Sandbox::start();
    let client = agent.process().await;
    let size =
        |cols, rows| PTY { size: Size { cols, rows, ..Default::default() }.into(), ..Default::default() };
    let mut request = bash("stty size; read line; stty size");
    request.pty = size(100, 40).into();
    let mut stream = client.start(request).await.unwrap();
    let mut seen = Seen::default();
    follow!(stream, seen, |seen: &Seen| seen.text.contains("40 100")).unwrap();
    let update =
        UpdateRequest { process: by_pid(seen.pid).into(), pty: size(81, 25).into(), ..Default::default() };
    client.update(update).await.unwrap();
    assert_eq!(client.send_input(stdin(seen.pid, b"x")).await.unwrap_err().code, ErrorCode::InvalidArgument);
    let input = ProcessInput { input: Some(Input::Pty(b"go\n".to_vec())), ..Default::default() };
    let input =
        SendInputRequest { process: by_pid(seen.pid).into(), input: input.into(), ..Default::default() };
    client.send_input(input).await.unwrap();
    follow!(stream, seen, |_: &Seen| false).unwrap();
    assert!(seen.text.contains("25 81"), "{}", seen.text);
}

#[tokio::test]
async fn signals_and_unknown_processes() {
    let agent = Sandbox::start();
    let client = agent.process().await;
    let mut stream = client.start(bash("sleep 61")).await.unwrap();
    let mut seen = Seen::default();
    follow!(stream, seen, |seen: &Seen| seen.pid > 0).unwrap();
    let kill = |pid| SendSignalRequest {
        process: by_pid(pid).into(),
        signal: Signal::SIGNAL_SIGKILL.into(),
        ..Default::default()
    };
    client.send_signal(kill(seen.pid)).await.unwrap();
    follow!(stream, seen, |_: &Seen| false).unwrap();
    assert_eq!(seen.end.unwrap().status, "signal: killed");
    assert_eq!(client.send_signal(kill(4_000_000)).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(client.send_signal(kill(1)).await.unwrap_err().code, ErrorCode::NotFound);
}

/// As the SDK's transport sends it: HTTP/1.1, envelopes, the user in a header.
#[tokio::test]
async fn errors_of_streams_are_in_their_last_frame() {
    let agent = Sandbox::start();
    let body = br#"{"process":{"cmd":"/bin/bash","args":["-c","id -u"],"cwd":"/no/such"}}"#;
    let mut frame = vec![0];
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    let send = async |authorization: &str| {
        let request = Request::post("/process.Process/Start")
            .header("host", "a")
            .header("content-type", "application/connect+json")
            .header("connect-protocol-version", "1")
            .header("authorization", authorization)
            .body(Full::new(frame.clone().into()));
        answer(agent.http(request.unwrap()).await).await
    };
    let (status, answer) = send("Basic cm9vdDo=").await;
    assert_eq!((status, answer[0]), (200, 2));
    let text = String::from_utf8_lossy(&answer[5..]).into_owned();
    assert!(text.contains("invalid_argument") && text.contains("cwd '/no/such' does not exist"), "{text}");
    let (status, answer) = send("Basic bm9ib2R5LWhlcmU6").await;
    let text = String::from_utf8_lossy(&answer[5..]).into_owned();
    assert!(status == 200 && text.contains("unauthenticated"), "{text}");
    assert!(text.contains("invalid username: 'nobody-here'"), "{text}");
}

#[tokio::test]
async fn files_are_described_made_moved_and_removed() {
    let agent = Sandbox::start();
    let client = agent.filesystem().await;
    let path = |name: &str| agent.path(name);
    let stat = |path: String| client.stat(StatRequest { path, ..Default::default() });
    let make = |path: String| client.make_dir(MakeDirRequest { path, ..Default::default() });
    let made = make(path("a/b")).await.unwrap().into_owned();
    assert_eq!((made.entry.name.as_str(), made.entry.permissions.as_str()), ("b", "drwxr-xr-x"));
    assert_eq!(make(path("a/b")).await.unwrap_err().code, ErrorCode::AlreadyExists);
    assert_eq!(stat(path("none")).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(stat(String::new()).await.unwrap_err().code, ErrorCode::InvalidArgument);

    std::fs::write(path("a/file"), "12345").unwrap();
    symlink(path("a/file"), path("a/link")).unwrap();
    let list = |path: String, depth| client.list_dir(ListDirRequest { path, depth, ..Default::default() });
    let entries = list(path("a"), 1).await.unwrap().into_owned().entries;
    assert_eq!(entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["b", "file", "link"]);
    let link = &entries[2];
    assert!(link.is_symlink && link.r#type == FileType::FILE_TYPE_FILE);
    assert_eq!(link.symlink_target.as_deref(), Some(path("a/file").as_str()));
    assert_eq!((entries[1].size, entries[1].mode, entries[1].owner.as_str()), (5, 0o644, "root"));
    assert!(entries[1].modified_time.seconds > 1_700_000_000);
    assert_eq!(list(path("a/file"), 1).await.unwrap_err().code, ErrorCode::InvalidArgument);

    let rename = MoveRequest { source: path("a/file"), destination: path("c/d/file"), ..Default::default() };
    assert_eq!(client.r#move(rename.clone()).await.unwrap().into_owned().entry.path, path("c/d/file"));
    assert_eq!(client.r#move(rename).await.unwrap_err().code, ErrorCode::NotFound);
    let remove = |path: String| client.remove(RemoveRequest { path, ..Default::default() });
    for _ in 0..2 {
        remove(path("a")).await.unwrap();
    }
    assert!(!std::path::Path::new(&path("a")).exists());
    assert_eq!(remove("/../".into()).await.unwrap_err().code, ErrorCode::InvalidArgument);
}

fn has(seen: &[FilesystemEvent], name: &str, kind: EventType) -> bool {
    seen.iter().any(|event| event.name == name && event.r#type == kind)
}

#[tokio::test]
async fn changes_are_streamed() {
    let agent = Sandbox::start();
    std::fs::create_dir(agent.path("dir")).unwrap();
    let client = agent.filesystem().await;
    let request = WatchDirRequest {
        path: agent.path("dir"),
        recursive: true,
        include_entry: true,
        ..Default::default()
    };
    let mut stream = client.watch_dir(request).await.unwrap();
    let first = stream.message().await.unwrap().unwrap().to_owned_message();
    assert!(matches!(first.event, Some(WatchEvent::Start(_))));

    std::fs::create_dir(agent.path("dir/sub")).unwrap();
    let mut seen: Vec<FilesystemEvent> = Vec::new();
    let mut step = 0;
    loop {
        if step == 0 && has(&seen, "sub", EventType::EVENT_TYPE_CREATE) {
            std::fs::write(agent.path("dir/sub/file"), "x").unwrap();
            step = 1;
        }
        if step == 1 && has(&seen, "sub/file", EventType::EVENT_TYPE_WRITE) {
            std::fs::rename(agent.path("dir/sub/file"), agent.path("dir/moved")).unwrap();
            std::fs::remove_file(agent.path("dir/moved")).unwrap();
            step = 2;
        }
        if step == 2 && has(&seen, "moved", EventType::EVENT_TYPE_REMOVE) {
            break;
        }
        let response = tokio::time::timeout(Duration::from_secs(20), stream.message()).await;
        if let Some(WatchEvent::Filesystem(event)) =
            response.unwrap().unwrap().unwrap().to_owned_message().event
        {
            seen.push(*event);
        }
    }
    assert!(
        has(&seen, "sub/file", EventType::EVENT_TYPE_RENAME)
            && has(&seen, "moved", EventType::EVENT_TYPE_CREATE)
    );
    assert_eq!(seen[0].entry.path, agent.path("dir/sub"));
}

#[tokio::test]
async fn changes_are_collected() {
    let agent = Sandbox::start();
    std::fs::create_dir_all(agent.path("dir/sub")).unwrap();
    let client = agent.filesystem().await;
    let create = CreateWatcherRequest { path: agent.path("dir"), ..Default::default() };
    let watcher_id = client.create_watcher(create).await.unwrap().into_owned().watcher_id;
    std::fs::write(agent.path("dir/sub/file"), "x").unwrap();
    std::fs::write(agent.path("dir/moved"), "x").unwrap();
    std::fs::remove_file(agent.path("dir/moved")).unwrap();
    let get = GetWatcherEventsRequest { watcher_id: watcher_id.clone(), ..Default::default() };
    let mut polled = Vec::new();
    eventually("the watcher has seen it too", async || {
        polled.extend(client.get_watcher_events(get.clone()).await.unwrap().into_owned().events);
        has(&polled, "moved", EventType::EVENT_TYPE_REMOVE)
    })
    .await;
    assert!(!polled.iter().any(|event| event.name.starts_with("sub/")), "it does not look below");
    assert_eq!(agent.post(&format!("/files?path={}", agent.path("dir/up")), "x").await.0, 200);
    let mut uploaded = Vec::new();
    eventually("an upload is seen as a write", async || {
        uploaded.extend(client.get_watcher_events(get.clone()).await.unwrap().into_owned().events);
        has(&uploaded, "up", EventType::EVENT_TYPE_WRITE)
    })
    .await;
    assert!(uploaded.iter().all(|event| event.name == "up"), "{uploaded:?}");
    let remove = RemoveWatcherRequest { watcher_id, ..Default::default() };
    client.remove_watcher(remove.clone()).await.unwrap();
    assert_eq!(client.remove_watcher(remove).await.unwrap_err().code, ErrorCode::NotFound);
    let missing = WatchDirRequest { path: agent.path("none"), ..Default::default() };
    let mut stream = client.watch_dir(missing).await.unwrap();
    assert_eq!(stream.message().await.err().unwrap().code, ErrorCode::NotFound);
}
