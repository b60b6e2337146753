//! Files, archives and forms over HTTP, end to end against the real agent.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_server::ServerConfig;
use common::{ADMIN, Running, agent::Agent, events, read, start_with, until};
use futures::StreamExt;
use reqwest::{
    Body, Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::MetadataExt, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

struct Bench {
    agent: Agent,
    server: Running,
    one: String,
}

async fn bench() -> Bench {
    let agent = Agent::start();
    let server = start_with(ServerConfig::default(), agent.driver()).await;
    let one = format!("/api/v1/sandboxes/{}", server.create().await);
    Bench { agent, server, one }
}

impl Bench {
    fn at(&self, rest: &str, path: &str) -> String {
        format!("{}{rest}?path={}", self.one, self.agent.path(path))
    }

    async fn put(&self, path: &str, body: impl Into<Body>) -> (u16, Value) {
        let call = self.server.call(Method::PUT, &self.at("/files", path)).body(body);
        read(call.send().await.unwrap()).await
    }

    async fn form(&self, form: Form) -> (u16, Value) {
        let call = self.server.call(Method::POST, &format!("{}/files", self.one)).multipart(form);
        read(call.send().await.unwrap()).await
    }

    fn file(&self, path: &str) -> Vec<u8> {
        fs::read(self.agent.path(path)).unwrap()
    }

    /// Names of what is in the agent's own directory, beside what the test began with.
    fn names(&self) -> Vec<String> {
        let mut names = names(self.agent.dir.path());
        names.retain(|name| name != "socket" && name != "config");
        names
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn hidden() -> Vec<String> {
    names(Path::new("/tmp")).into_iter().filter(|name| name.starts_with(".atoll-upload-")).collect()
}

#[tokio::test]
async fn files_go_in_and_come_out() {
    let bench = bench().await;
    let (status, written) = bench.put("a/b/c.txt", "hello").await;
    assert_eq!((status, &written["size"]), (200, &json!(5)), "{written}");
    assert_eq!(written["path"], bench.agent.path("a/b/c.txt"));
    assert_eq!(bench.file("a/b/c.txt"), b"hello");
    let response = bench.server.call(Method::GET, &bench.at("/files", "a/b/c.txt")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["content-length"].to_str().unwrap()),
        (200, "5")
    );
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    assert_eq!(response.text().await.unwrap(), "hello");
    assert_eq!(bench.put("empty", "").await.0, 200);
    assert_eq!(bench.server.get(&bench.at("/files", "empty")).await, (200, Value::String(String::new())));
    let (status, missing) = bench.server.get(&bench.at("/files", "nothing")).await;
    assert_eq!((status, missing["code"].as_str()), (404, Some("not_found")), "{missing}");
    let (status, refused) = bench.server.get(&format!("{}/files", bench.one)).await;
    assert_eq!((status, refused["field"].as_str()), (400, Some("path")));
    let (status, refused) =
        bench.server.get(&format!("{}&user=nobody-here", bench.at("/files", "empty"))).await;
    assert_eq!((status, refused["field"].as_str()), (400, Some("user")), "{refused}");
    assert_eq!(bench.server.get(&bench.at("/files", "a")).await.0, 400, "a directory is no file");
}

#[tokio::test]
async fn the_user_decides_what_may_be_read_and_owns_what_is_written() {
    let bench = bench().await;
    let dir = bench.agent.dir.path();
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(dir.join("secret"), "x").unwrap();
    fs::set_permissions(dir.join("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (status, denied) = bench.server.get(&format!("{}&user=nobody", bench.at("/files", "secret"))).await;
    assert_eq!((status, denied["code"].as_str()), (403, Some("permission_denied")), "{denied}");
    let call =
        bench.server.call(Method::PUT, &format!("{}&user=nobody", bench.at("/files", "theirs"))).body("y");
    assert_eq!(call.send().await.unwrap().status(), 200);
    assert_eq!(fs::metadata(dir.join("theirs")).unwrap().uid(), 65534);
}

#[tokio::test]
async fn one_range_is_served() {
    let bench = bench().await;
    bench.put("ten", "0123456789").await;
    for (range, status, body, says) in [
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=-2", 206, "89", Some("bytes 8-9/10")),
        ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
        ("bytes=0-1,4-5", 200, "0123456789", None),
    ] {
        let call = bench.server.call(Method::GET, &bench.at("/files", "ten")).header("range", range);
        let response = call.send().await.unwrap();
        let said = response.headers().get("content-range").map(|it| it.to_str().unwrap().to_owned());
        assert_eq!((response.status().as_u16(), said.as_deref()), (status, says));
        assert_eq!(response.text().await.unwrap(), body);
    }
    let call = bench.server.call(Method::GET, &bench.at("/files", "ten")).header("range", "bytes=10-");
    assert_eq!(call.send().await.unwrap().status(), 416);
}

#[tokio::test]
async fn a_large_file_streams_both_ways() {
    let bench = bench().await;
    let piece = bytes::Bytes::from((0..1 << 20).map(|n: u32| (n % 251) as u8).collect::<Vec<u8>>());
    let sent = piece.clone();
    let stream = futures::stream::iter((0..100).map(move |_| Ok::<_, std::io::Error>(sent.clone())));
    let (status, written) = bench.put("large", Body::wrap_stream(stream)).await;
    assert_eq!((status, &written["size"]), (200, &json!(100 << 20)));
    let response = bench.server.call(Method::GET, &bench.at("/files", "large")).send().await.unwrap();
    let mut offset = 0;
    let mut stream = response.bytes_stream();
    while let Some(part) = stream.next().await {
        for byte in part.unwrap() {
            assert_eq!(byte, piece[offset % piece.len()]);
            offset += 1;
        }
    }
    assert_eq!(offset, 100 << 20);
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing() {
    let bench = bench().await;
    for route in ["/files", "/archive"] {
        let mut stream = TcpStream::connect(bench.server.address).await.unwrap();
        let target = bench.at(route, "half");
        let head = format!(
            "PUT {target} HTTP/1.1\r\nhost: x\r\nx-api-key: {ADMIN}\r\ncontent-length: 9000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![0; 300_000]).await.unwrap();
        until(async || !bench.names().is_empty()).await;
        drop(stream);
        until(async || bench.names().is_empty()).await;
    }
    let boundary = "edge";
    let target = format!("{}/files", bench.one);
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: x\r\nx-api-key: {ADMIN}\r\ncontent-length: 9000000\r\n\
         content-type: multipart/form-data; boundary={boundary}\r\n\r\n\
         --{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n"
    );
    let before = hidden();
    let mut stream = TcpStream::connect(bench.server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; 2_000_000]).await.unwrap();
    until(async || names(Path::new("/tmp")).iter().any(|name| name.contains("atoll"))).await;
    // The file is complete, its path has not come yet.
    stream.write_all(format!("\r\n--{boundary}\r\n").as_bytes()).await.unwrap();
    until(async || hidden() != before).await;
    drop(stream);
    until(async || hidden() == before).await;
}

#[tokio::test]
async fn forms_are_taken_with_their_parts_in_any_order() {
    let bench = bench().await;
    let before = hidden();
    let small = || Part::bytes(b"small".to_vec()).file_name("main.py");
    let large = || Part::bytes(vec![7; 3_000_000]).file_name("large.bin");
    let path = |name: &str| bench.agent.path(name);
    for (form, name, size) in [
        (Form::new().part("file", small()).text("path", path("1.py")), "1.py", 5),
        (Form::new().text("path", path("2.py")).part("file", small()), "2.py", 5),
        (Form::new().part("file", large()).text("path", path("d/3.bin")), "d/3.bin", 3_000_000),
        (Form::new().text("path", path("4.bin")).part("file", large()), "4.bin", 3_000_000),
        (Form::new().text("path", path("dir/")).part("file", small()), "dir/main.py", 5),
        (Form::new().part("file", large()).text("path", path("dir/")), "dir/large.bin", 3_000_000),
    ] {
        let (status, written) = bench.form(form).await;
        assert_eq!((status, &written["size"]), (200, &json!(size)), "{name}: {written}");
        assert_eq!(written["path"], path(name));
        assert_eq!(bench.file(name).len(), size);
    }
    for (form, field) in [
        (Form::new().part("file", small()), "path"),
        (Form::new().part("file", large()), "path"),
        (Form::new().text("path", path("5")), "file"),
        (Form::new().text("path", path("6")).part("file", small()).part("file", small()), "file"),
        (Form::new().text("path", "x".repeat(10_000)).part("file", small()), "path"),
    ] {
        let (status, refused) = bench.form(form).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some(field)), "{refused}");
    }
    until(async || hidden() == before).await;
    let (status, refused) = bench.server.post(&format!("{}/files", bench.one), json!({})).await;
    assert_eq!((status, refused["field"].as_str()), (400, Some("body")));
}

#[tokio::test]
async fn entries_are_described_listed_made_moved_and_removed() {
    let bench = bench().await;
    bench.put("d/file", "12345").await;
    std::os::unix::fs::symlink("file", bench.agent.path("d/link")).unwrap();
    let (_, file) = bench.server.get(&bench.at("/files/stat", "d/file")).await;
    assert_eq!((&file["kind"], &file["size"], &file["owner"]), (&json!("file"), &json!(5), &json!("root")));
    assert_eq!((&file["mode"], file["modified_at"].is_string()), (&json!(0o644), true));
    let (_, link) = bench.server.get(&bench.at("/files/stat", "d/link")).await;
    assert_eq!(
        (&link["kind"], &link["symlink_target"]),
        (&json!("symlink"), &json!(bench.agent.path("d/file")))
    );
    let post = async |url: &str| read(bench.server.call(Method::POST, url).send().await.unwrap()).await;
    assert_eq!(post(&bench.at("/files/mkdir", "d/e/f")).await.0, 201);
    let (status, exists) = post(&bench.at("/files/mkdir", "d/e/f")).await;
    assert_eq!((status, exists["code"].as_str()), (409, Some("exists")));
    let list = async |depth: u32| {
        let (_, list) = bench.server.get(&format!("{}&depth={depth}", bench.at("/files/list", "d"))).await;
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(1).await, ["e", "file", "link"]);
    assert_eq!(list(2).await, ["e", "f", "file", "link"]);
    let ask = json!({"source": bench.agent.path("d/file"), "destination": bench.agent.path("new/file")});
    let (status, moved) = bench.server.post(&format!("{}/files/move", bench.one), ask.clone()).await;
    assert_eq!((status, &moved["path"]), (200, &json!(bench.agent.path("new/file"))));
    assert_eq!(bench.server.post(&format!("{}/files/move", bench.one), ask).await.0, 404);
    assert_eq!(bench.server.delete(&bench.at("/files", "d")).await.0, 204);
    assert_eq!(bench.server.delete(&bench.at("/files", "d")).await.0, 404);
    assert_eq!(bench.server.get(&bench.at("/files/list", "d")).await.0, 404);
}

#[tokio::test]
async fn directories_travel_as_archives() {
    let bench = bench().await;
    bench.put("from/a/b", "deep").await;
    bench.put("from/c", "flat").await;
    let response = bench.server.call(Method::GET, &bench.at("/archive", "from")).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-tar");
    let tar = response.bytes().await.unwrap();
    let call = bench.server.call(Method::PUT, &bench.at("/archive", "to")).body(tar);
    assert_eq!(read(call.send().await.unwrap()).await.0, 200);
    assert_eq!((bench.file("to/a/b"), bench.file("to/c")), (b"deep".to_vec(), b"flat".to_vec()));
    assert_eq!(bench.server.get(&bench.at("/archive", "nothing")).await.0, 404);
    let call = bench.server.call(Method::PUT, &bench.at("/archive", "bad")).body(vec![1; 4096]);
    assert_eq!(read(call.send().await.unwrap()).await.0, 400);
    assert!(!bench.names().contains(&"bad".to_owned()));
}

#[tokio::test]
async fn changes_are_told() {
    let bench = bench().await;
    let call = bench.server.call(Method::GET, &bench.at("/files/watch", ""));
    let mut response = call.header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(response.status(), 200);
    bench.put("seen", "x").await;
    let mut text = String::new();
    while !events(&text).iter().any(|(_, it)| it["name"] == "seen") {
        text += std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap();
    }
    assert_eq!(bench.server.get(&bench.at("/files/watch", "nothing")).await.0, 404);
}

#[tokio::test]
async fn a_refused_upload_is_answered_although_its_body_is_large() {
    let bench = bench().await;
    fs::write(bench.agent.path("file"), "").unwrap();
    let target = bench.at("/files", "file/below");
    let mut stream = TcpStream::connect(bench.server.address).await.unwrap();
    let head =
        format!("PUT {target} HTTP/1.1\r\nhost: x\r\nx-api-key: {ADMIN}\r\ncontent-length: 20000000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![0; 20_000_000]).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
}

#[tokio::test]
async fn an_upload_to_an_impossible_place_is_refused_with_the_reason() {
    let bench = bench().await;
    fs::write(bench.agent.path("file"), "").unwrap();
    let below = format!("{}: not a directory", bench.agent.path("file/below"));
    // The agent answers before it has read anything, at whatever moment of the upload.
    for size in [0, 1, 100_000, 3 << 20, 30 << 20].repeat(4) {
        let (status, refused) = bench.put("file/below", vec![7; size]).await;
        assert_eq!((status, refused["error"].as_str()), (400, Some(below.as_str())), "{size}: {refused}");
        let call = bench.server.call(Method::PUT, &format!("{}/files?path=/proc/x", bench.one));
        let (status, refused) = read(call.body(vec![7; size]).send().await.unwrap()).await;
        let expected = "/proc/x: no such file or directory";
        assert_eq!((status, refused["error"].as_str()), (404, Some(expected)), "{size}: {refused}");
    }
    until(async || bench.agent.open.load(std::sync::atomic::Ordering::SeqCst) == 0).await;
}
