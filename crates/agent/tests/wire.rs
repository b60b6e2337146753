//! What clients of E2B send as bytes: their envelopes, well formed and not, and `/files` in all its forms.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const JSON: &str = "application/connect+json";

/// Some methods of either kind; one that exists is followed by what it is not.
const METHODS: [&str; 6] = [
    "/process.Process/Start",
    "/process.Process/Connect",
    "/process.Process/StreamInput",
    "/process.Process/List",
    "/filesystem.Filesystem/WatchDir",
    "/filesystem.Filesystem/Stat",
];

fn envelope(flags: u8, body: &[u8]) -> Vec<u8> {
    [&[flags][..], &(body.len() as u32).to_be_bytes(), body].concat()
}

/// The messages of a stream, with their flags.
fn messages(mut bytes: &[u8]) -> Vec<(u8, Value)> {
    let mut all = Vec::new();
    while let Some((prefix, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let (message, rest) = rest.split_at(length);
        all.push((prefix[0], serde_json::from_slice(message).unwrap_or(Value::Null)));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "{bytes:?}");
    all
}

impl Sandbox {
    async fn call(&self, path: &str, kind: &str, body: Vec<u8>) -> (u16, Bytes) {
        let request = Request::post(path).header("host", "a").header("content-type", kind);
        let request = request.header("connect-protocol-version", "1").body(Full::new(body.into()));
        answer(self.http(request.unwrap()).await).await
    }

    async fn ask(&self, method: &str, uri: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Bytes) {
        let mut request = Request::builder().method(method).uri(uri).header("host", "a");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.http(request.body(Full::default()).unwrap()).await;
        let (parts, body) = response.into_parts();
        (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes())
    }

    async fn upload(&self, uri: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (u16, Value) {
        let mut request = Request::post(uri).header("host", "a");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, body) = answer(self.http(request.body(Full::new(body.into())).unwrap()).await).await;
        (status, serde_json::from_slice(&body).unwrap())
    }
}

#[tokio::test]
async fn the_answer_to_streamed_input_is_enveloped() {
    let agent = Sandbox::start();
    let start = br#"{"process":{"cmd":"/bin/cat"},"tag":"cat","stdin":true}"#;
    let following = agent.call("/process.Process/Start", JSON, envelope(0, start));
    let typing = async {
        eventually("it runs", async || {
            let (_, list) = agent.call("/process.Process/List", "application/json", b"{}".to_vec()).await;
            String::from_utf8_lossy(&list).contains("\"cat\"")
        })
        .await;
        let input = [
            envelope(0, br#"{"start":{"process":{"tag":"cat"}}}"#),
            envelope(0, br#"{"keepalive":{}}"#),
            envelope(0, br#"{"data":{"input":{"stdin":"aGk="}}}"#),
        ];
        let (status, answer) = agent.call("/process.Process/StreamInput", JSON, input.concat()).await;
        assert_eq!((status, messages(&answer)), (200, vec![(0, json!({})), (2, json!({}))]));
        let close = br#"{"process":{"tag":"cat"}}"#;
        let closed = agent.call("/process.Process/CloseStdin", "application/json", close.to_vec()).await;
        assert_eq!(closed.0, 200, "{closed:?}");
    };
    let ((status, output), ()) = futures::join!(following, typing);
    let output = messages(&output);
    assert_eq!((status, &output[1].1), (200, &json!({"event": {"data": {"stdout": "aGk="}}})));
    assert_eq!(output[2].1["event"]["end"]["status"], "exit status 0");
    assert_eq!(output[3], (2, json!({})));
    let (_, answer) = agent
        .call("/process.Process/StreamInput", JSON, envelope(0, br#"{"start":{"process":{"pid":4000000}}}"#))
        .await;
    let told = messages(&answer);
    let error = json!({"code": "not_found", "message": "process with pid 4000000 not found"});
    assert_eq!((told.len(), &told[0].1["error"]), (1, &error));
}

#[tokio::test]
async fn input_that_is_closed_already_may_be_closed_again_and_no_time_is_no_limit() {
    let agent = Sandbox::start();
    let start =
        br#"{"process":{"cmd":"/bin/sh","args":["-c","sleep 0.3; echo done"]},"stdin":false,"tag":"t"}"#;
    let request = Request::post("/process.Process/Start").header("host", "a").header("content-type", JSON);
    let request = request.header("connect-timeout-ms", "0").body(Full::new(envelope(0, start).into()));
    let following = async { answer(agent.http(request.unwrap()).await).await };
    let closing = async {
        let close = || {
            agent.call(
                "/process.Process/CloseStdin",
                "application/json",
                br#"{"process":{"tag":"t"}}"#.to_vec(),
            )
        };
        eventually("it runs and has no input", async || close().await.0 == 200).await;
    };
    let ((_, output), ()) = futures::join!(following, closing);
    let output = messages(&output);
    assert_eq!(output[2].1["event"]["end"]["status"], "exit status 0", "{output:?}");
}

#[tokio::test]
async fn lying_and_oversized_envelopes_are_refused_cleanly() {
    let agent = Sandbox::start();
    let mut huge = envelope(0, b"{}");
    huge[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut long = envelope(0, br#"{"process":{"cmd":"true"}}"#);
    long[4] += 5;
    let mut short = envelope(0, br#"{"process":{"cmd":"true"}}"#);
    short[4] -= 5;
    let cases =
        [huge, long, short, envelope(1, b"not gzip"), vec![0, 0], envelope(0, b"not json"), Vec::new()];
    for body in cases {
        let (status, answer) = agent.call("/process.Process/Start", JSON, body.clone()).await;
        assert!((200..500).contains(&status), "{body:?}: {status} {answer:?}");
        if status == 200 {
            let told = messages(&answer);
            assert!(told.len() == 1 && told[0].0 == 2, "{body:?}: {told:?}");
            assert!(told[0].1["error"]["code"].is_string(), "{body:?}: {told:?}");
        }
    }
    let (mut reader, mut writer) = UnixStream::connect(agent.socket()).await.unwrap().into_split();
    let head = format!(
        "POST /filesystem.Filesystem/Stat HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        17 << 20
    );
    writer.write_all(head.as_bytes()).await.unwrap();
    // It need not take all of it.
    let sending = tokio::spawn(async move { writer.write_all(&vec![b' '; 17 << 20]).await });
    let mut answer = [0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 429");
    sending.abort();
    assert_eq!(agent.get("/health").await.0, 204, "it lives");
}

#[test]
fn nothing_that_is_sent_breaks_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let agent = runtime.block_on(async { Sandbox::start() });
    let kinds = ["application/json", JSON, "application/proto", "application/connect+proto", "text/plain"];
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(flags, body)| envelope(flags, &body)),
        "\\{\"(path|process|watcherId|event)\":\\PC{0,20}\\}".prop_map(|text| envelope(0, text.as_bytes())),
    ];
    let input = (prop::sample::select(METHODS.to_vec()), prop::sample::select(kinds.to_vec()), body);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&input, |(method, kind, body)| {
        let (status, answer) = runtime.block_on(agent.call(method, kind, body));
        prop_assert!(status < 500 || status == 501, "{} {:?}", status, answer);
        Ok(())
    });
    outcome.unwrap();
    runtime.block_on(async { assert_eq!(agent.get("/health").await.0, 204, "it lives") });
}

#[tokio::test]
async fn parts_of_files_and_files_that_did_not_change() {
    let agent = Sandbox::start();
    std::fs::write(agent.path("file"), "0123456789").unwrap();
    let uri = format!("/files?path={}", agent.path("file"));
    let (status, headers, body) = agent.ask("GET", &uri, &[]).await;
    assert_eq!((status, &body[..]), (200, &b"0123456789"[..]));
    assert!(headers["accept-ranges"] == "bytes" && headers["vary"] == "Accept-Encoding");
    assert_eq!(headers["content-disposition"], "inline; filename*=UTF-8''file");
    let date = headers["last-modified"].to_str().unwrap().to_owned();
    for (range, status, expected, told) in [
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=8-", 206, "89", "bytes 8-9/10"),
        ("bytes=10-", 416, "", "bytes */10"),
    ] {
        let (got, headers, body) = agent.ask("GET", &uri, &[("range", range)]).await;
        assert_eq!((got, &body[..]), (status, expected.as_bytes()), "{range}");
        assert_eq!(headers["content-range"], told);
    }
    let (status, headers, body) = agent.ask("HEAD", &uri, &[("range", "bytes=0-1")]).await;
    assert_eq!((status, body.len(), &headers["content-length"]), (206, 0, &"2".parse().unwrap()));
    assert_eq!(agent.ask("GET", &uri, &[("if-modified-since", &date)]).await.0, 304);
    let (status, headers, _) = agent.ask("GET", &uri, &[("accept-encoding", "gzip")]).await;
    assert_eq!((status, &headers["content-encoding"]), (200, &"gzip".parse().unwrap()));
    let (_, headers, _) = agent.ask("GET", &uri, &[("accept-encoding", "gzip, deflate")]).await;
    assert!(!headers.contains_key("content-encoding"));
}

fn form(parts: &[(&str, &str, &str)]) -> String {
    let part = |(name, file, data): &(&str, &str, &str)| {
        let head = format!("--B\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n");
        format!("{head}content-type: application/octet-stream\r\n\r\n{data}\r\n")
    };
    parts.iter().map(part).collect::<String>() + "--B--\r\n"
}

const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=B");

#[tokio::test]
async fn forms_are_read_in_every_way() {
    let agent = Sandbox::start();
    let (one, two) = (agent.path("one"), agent.path("deep/two"));
    let body = form(&[("note", "ignored", "x"), ("file", &one, "1"), ("file", &two, "22")]);
    let (status, told) = agent.upload("/files", &[FORM], body.clone()).await;
    assert_eq!(status, 200, "{told}");
    let expected = json!([
        {"name": "one", "type": "file", "path": one},
        {"name": "two", "type": "file", "path": two},
    ]);
    assert_eq!(told, expected);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(form(&[("file", &one, "packed")]).as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let (status, told) = agent.upload("/files", &[FORM, ("content-encoding", "gzip")], packed).await;
    assert_eq!((status, std::fs::read(&one).unwrap()), (200, b"packed".to_vec()), "{told}");
    let at = format!("/files?path={one}");
    assert_eq!(agent.upload(&at, &[FORM], form(&[("file", "any name", "at")])).await.0, 200);
    assert_eq!(std::fs::read(&one).unwrap(), b"at");
    for (uri, body) in [
        (at.as_str(), form(&[("file", "a", "1"), ("file", "b", "2")])),
        ("/files", form(&[("other", &one, "1")])),
        ("/files", "--B\r\nno form".into()),
        ("/files", form(&[("file", "", "1")])),
    ] {
        let (status, told) = agent.upload(uri, &[FORM], body).await;
        assert_eq!((status, &told["code"]), (400, &400.into()), "{uri}: {told}");
    }
    let (status, told) = agent.upload(&at, &[("content-encoding", "br")], "x").await;
    assert_eq!((status, &told["error_code"]), (400, &"invalid_argument".into()));
}

#[tokio::test]
async fn metadata_is_kept_with_a_file_until_it_is_written_anew() {
    let agent = Sandbox::start();
    let uri = format!("/files?path={}", agent.path("file"));
    let metadata = [("X-Metadata-Author", "me"), ("x-metadata-author", "other"), ("x-metadata-", "nothing")];
    let (status, told) = agent.upload(&uri, &metadata, "x").await;
    assert_eq!((status, &told[0]["metadata"]), (200, &json!({"author": "me"})), "{told}");
    let stat = async || {
        let ask = json!({"path": agent.path("file")}).to_string();
        let (_, told) = agent.call("/filesystem.Filesystem/Stat", "application/json", ask.into()).await;
        serde_json::from_slice::<Value>(&told).unwrap()["entry"]["metadata"].clone()
    };
    assert_eq!(stat().await, json!({"author": "me"}));
    let (_, told) = agent.upload(&uri, &[], "y").await;
    assert!(told[0]["metadata"].is_null() && stat().await.is_null());
    let long = format!("x-metadata-{}", "k".repeat(300));
    let (status, told) = agent.upload(&uri, &[(&long, "v")], "x").await;
    assert_eq!(status, 400, "{told}");
    assert_eq!(std::fs::read(agent.path("file")).unwrap(), b"y");
}

#[tokio::test]
async fn parts_become_one_file() {
    let agent = Sandbox::start();
    std::fs::set_permissions(agent.dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let part = |name: &str| agent.path(name);
    for (name, data) in [("a", "one "), ("b", "two "), ("c", "three")] {
        std::fs::write(part(name), data).unwrap();
    }
    std::fs::write(part("whole"), "old").unwrap();
    let ask = async |sources: &[String], destination: &str| {
        let body = json!({"source_paths": sources, "destination": destination, "username": "root"});
        agent.upload("/files/compose", &[("content-type", "application/json")], body.to_string()).await
    };
    let all = [part("a"), part("b"), part("c")];
    for (sources, destination, status) in [
        (&[][..], part("whole"), 400),
        (&all[..], String::new(), 400),
        (&[part("a"), part("whole")][..], part("whole"), 400),
        (&[part("a"), part("none")][..], part("whole"), 404),
        (&[part("a"), agent.path(".")][..], part("whole"), 400),
    ] {
        let (got, told) = ask(sources, &destination).await;
        assert_eq!((got, &told["code"]), (status, &status.into()), "{sources:?}: {told}");
    }
    assert_eq!(std::fs::read(part("whole")).unwrap(), b"old");
    let (status, told) = ask(&all, &part("whole")).await;
    assert_eq!((status, told), (200, json!({"name": "whole", "type": "file", "path": part("whole")})));
    assert_eq!(std::fs::read(part("whole")).unwrap(), b"one two three");
    assert!(
        !names(agent.dir.path()).iter().any(|name| all.contains(&part(name)) || name.starts_with(".atoll"))
    );
    let (status, _) = agent.upload("/files/compose", &[], "no json").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn uploads_look_to_watchers_like_any_other_write() {
    let agent = Sandbox::start();
    let dir = agent.path("dir");
    std::fs::create_dir(&dir).unwrap();
    let unary = async |method: &str, body: Value| {
        let path = format!("/filesystem.Filesystem/{method}");
        let (status, told) = agent.call(&path, "application/json", body.to_string().into()).await;
        (status, serde_json::from_slice::<Value>(&told).unwrap())
    };
    let (_, made) = unary("CreateWatcher", json!({"path": dir, "recursive": true})).await;
    let events = async || {
        let (_, told) = unary("GetWatcherEvents", made.clone()).await;
        let all = told["events"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().trim_start_matches("EVENT_TYPE_").to_owned();
        all.iter()
            .map(|event| format!("{} {}", text(&event["type"]), text(&event["name"])))
            .collect::<Vec<_>>()
    };
    let uri = format!("/files?path={dir}/f");
    assert_eq!(agent.upload(&uri, &[], "1").await.0, 200);
    assert_eq!(events().await, ["CREATE f", "CHMOD f", "WRITE f"], "at once, and nothing else");
    assert_eq!(agent.upload(&uri, &[], "2").await.0, 200);
    assert_eq!(events().await, ["WRITE f"]);
    std::fs::create_dir_all(format!("{dir}/new/sub")).unwrap();
    std::fs::write(format!("{dir}/new/sub/g"), "x").unwrap();
    let mut seen = events().await;
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["CREATE new", "CREATE new/sub", "CREATE new/sub/g", "WRITE new/sub/g"]);
    let (status, told) = unary("MakeDir", json!({"path": format!("{dir}/f")})).await;
    assert_eq!((status, &told["code"]), (400, &"invalid_argument".into()));
    let (status, told) = unary("MakeDir", json!({"path": format!("{dir}/new")})).await;
    assert_eq!((status, &told["code"]), (409, &"already_exists".into()));
}
