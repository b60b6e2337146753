//! The data plane as clients of E2B use it: a sandbox of theirs, its agent and its ports, over the gateway. It speaks the
//! protocols by hand, and must not look at how anything is done.

use anyhow::{Context, Result, ensure};
use atoll_tests::{Options, Run, Server, server::wait_until, story};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{pin::Pin, process::ExitCode};

const AGENT: u16 = 49983;

fn main() -> ExitCode {
    story("envd", async |run: &mut Run| {
        let server = Server::start(Options::default()).await?;
        let world = World::new(&server)?;
        let sandbox = world.make(json!({})).await?;
        run.case("commands_by_host_name_and_by_headers", commands(&sandbox)).await;
        run.case("nobody_gets_in_without_a_token", walls(&world, &sandbox)).await;
        run.case("only_what_is_public_is_there", public(&sandbox)).await;
        run.case("files_in_every_form", files(&sandbox)).await;
        run.case("a_signature_opens_one_file", signatures(&sandbox)).await;
        run.case("a_process_goes_on_without_its_client", reconnects(&sandbox)).await;
        run.case("a_stream_outlives_a_pause", outlives_a_pause(&world)).await;
        run.case("a_stream_of_a_killed_sandbox_ends", ends_with_the_sandbox(&world)).await;
        run.case("what_rests_is_woken_or_not_there", rests(&world)).await;
        run.case("ports_that_are_not_public", traffic(&world)).await;
        run.case("an_open_agent_asks_for_nothing", open(&world)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        Ok(())
    })
}

/// A server as its clients reach it.
struct World {
    client: reqwest::Client,
    url: String,
    key: String,
}

/// A sandbox as its client knows it.
struct Box<'a> {
    world: &'a World,
    id: String,
    token: String,
    traffic: Option<String>,
}

impl World {
    fn new(server: &Server) -> Result<Self> {
        let client = reqwest::Client::builder().tls_certs_only([]).build()?;
        Ok(Self { client, url: server.url(), key: server.key()?.unwrap_or_default() })
    }

    async fn api(&self, method: Method, path: &str, body: Value) -> Result<(u16, Value)> {
        let request =
            self.client.request(method, format!("{}{path}", self.url)).header("x-api-key", &self.key);
        told(if body.is_null() { request } else { request.json(&body) }).await
    }

    async fn make(&self, mut ask: Value) -> Result<Box<'_>> {
        ask["templateID"] = json!("base");
        ask["timeout"] = json!(600);
        let (status, made) = self.api(Method::POST, "/sandboxes", ask).await?;
        ensure!(status == 201, "{status} {made}");
        let text = |name: &str| made[name].as_str().map(str::to_owned);
        let (id, token) = (text("sandboxID").context("no id")?, text("envdAccessToken").unwrap_or_default());
        Ok(Box { world: self, id, token, traffic: text("trafficAccessToken") })
    }
}

impl Box<'_> {
    fn request(&self, method: Method, port: u16, path: &str) -> RequestBuilder {
        let request = self.world.client.request(method, format!("{}{path}", self.world.url));
        request.header("host", format!("{port}-{}.localhost", self.id))
    }

    /// To its agent, without a token.
    fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, AGENT, path)
    }

    /// To its agent, as its client does it.
    fn agent(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.world.client.request(method, format!("{}{path}", self.world.url));
        let request = request.header("e2b-sandbox-id", &self.id).header("e2b-sandbox-port", AGENT);
        request.header("x-access-token", &self.token)
    }

    async fn unary(&self, method: &str, body: Value) -> Result<(u16, Value)> {
        told(self.agent(Method::POST, method).json(&body)).await
    }

    async fn start(&self, script: &str, more: Value) -> Result<Messages> {
        let mut ask = json!({"process": {"cmd": "/bin/bash", "args": ["-l", "-c", script]}, "stdin": false});
        more.as_object().into_iter().flatten().for_each(|(name, value)| ask[name] = value.clone());
        self.stream("/process.Process/Start", ask).await
    }

    async fn stream(&self, method: &str, ask: Value) -> Result<Messages> {
        let request = self.agent(Method::POST, method).body(envelope(&ask));
        let response = request.header("content-type", "application/connect+json").send().await?;
        ensure!(response.status() == 200, "{}", response.status());
        Ok(Messages::of(response))
    }

    async fn phase(&self, phase: &str) -> Result<()> {
        let path = format!("/api/v1/sandboxes/{}/{phase}", self.id);
        let (status, body) = self.world.api(Method::POST, &path, Value::Null).await?;
        ensure!(status < 300, "{status} {body}");
        Ok(())
    }

    fn signature(&self, path: &str, operation: &str, end: Option<i64>) -> String {
        let end = end.map(|end| format!(":{end}")).unwrap_or_default();
        let text = format!("{path}:{operation}::{}{end}", self.token);
        format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
    }
}

async fn told(request: RequestBuilder) -> Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

fn envelope(message: &Value) -> Vec<u8> {
    let text = message.to_string();
    let length = u32::try_from(text.len()).unwrap_or_default();
    [&[0][..], &length.to_be_bytes(), text.as_bytes()].concat()
}

/// The messages of a stream, as they come.
struct Messages {
    bytes: Pin<std::boxed::Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>>,
    have: Vec<u8>,
}

impl Messages {
    fn of(response: Response) -> Self {
        let bytes = response.bytes_stream().map_ok(|piece| piece.to_vec());
        Self { bytes: std::boxed::Box::pin(bytes), have: Vec::new() }
    }

    /// The next one, with its flags; nothing after the last.
    async fn next(&mut self) -> Result<Option<(u8, Value)>> {
        loop {
            if let Some((&[flags, length @ ..], rest)) = self.have.split_first_chunk::<5>() {
                let length = u32::from_be_bytes(length) as usize;
                if let Some(message) = rest.get(..length) {
                    let message = serde_json::from_slice(message)?;
                    self.have.drain(..5 + length);
                    return Ok(Some((flags, message)));
                }
            }
            match self.bytes.next().await {
                Some(piece) => self.have.extend(piece?),
                None => return Ok(None),
            }
        }
    }

    /// Reads until the output has a text in it; gives the process's number.
    async fn until(&mut self, wanted: &str) -> Result<u64> {
        let (mut output, mut pid) = (String::new(), 0);
        while !output.contains(wanted) {
            let (_, message) = self.next().await?.with_context(|| format!("no {wanted:?} in {output:?}"))?;
            let event = &message["event"];
            pid = event["start"]["pid"].as_u64().unwrap_or(pid);
            if let Some(data) = event["data"]["stdout"].as_str() {
                output += &String::from_utf8(STANDARD.decode(data)?)?;
            }
            ensure!(event["end"].is_null(), "it ended: {message}, {output:?}");
        }
        Ok(pid)
    }

    /// Reads to the end: what was printed, how the process ended, and how the stream did.
    async fn finish(mut self) -> Result<(String, Value, Value)> {
        let (mut output, mut end) = (String::new(), Value::Null);
        while let Some((flags, message)) = self.next().await? {
            if flags & 2 != 0 {
                return Ok((output, end, message));
            }
            if let Some(data) = message["event"]["data"]["stdout"].as_str() {
                output += &String::from_utf8(STANDARD.decode(data)?)?;
            }
            if !message["event"]["end"].is_null() {
                end = message["event"]["end"].clone();
            }
        }
        anyhow::bail!("the stream broke off after {output:?}")
    }
}

async fn commands(sandbox: &Box<'_>) -> Result<()> {
    let script = "echo $(id -un) $PWD $E2B_SANDBOX $MINE; exit 3";
    let run = sandbox.start(
        script,
        json!({"process": {
            "cmd": "/bin/bash", "args": ["-c", script], "envs": {"MINE": "x"}
        }}),
    );
    let (output, end, last) = run.await?.finish().await?;
    ensure!(output == "user /home/user true x\n", "{output:?}");
    ensure!(end["exitCode"] == 3 && end["status"] == "exit status 3" && last == json!({}), "{end} {last}");
    let ask = json!({"process": {"cmd": "/usr/bin/id", "args": ["-un"]}});
    let root = sandbox.bare(Method::POST, "/process.Process/Start").body(envelope(&ask));
    let root =
        root.header("content-type", "application/connect+json").header("x-access-token", &sandbox.token);
    let response = root.header("authorization", "Basic cm9vdDo=").send().await?;
    let (output, _, _) = Messages::of(response).finish().await?;
    ensure!(output == "root\n", "{output:?}");
    let (status, told) = told(sandbox.bare(Method::GET, "/health")).await?;
    ensure!(status == 204, "{status} {told}");
    Ok(())
}

async fn walls(world: &World, sandbox: &Box<'_>) -> Result<()> {
    let list = |sandbox: &Box<'_>| sandbox.bare(Method::POST, "/process.Process/List").json(&json!({}));
    let other = world.make(json!({})).await?;
    for (request, status) in [
        (list(sandbox), 401),
        (list(sandbox).header("x-access-token", "wrong"), 401),
        (list(sandbox).header("x-access-token", &other.token), 401),
        (list(sandbox).header("x-access-token", &sandbox.token), 200),
        (list(sandbox).header("x-api-key", &world.key), 200),
    ] {
        let (had, told) = told(request).await?;
        ensure!(had == status, "{had} {told} instead of {status}");
    }
    let (status, made) =
        world.api(Method::POST, "/api/v1/keys", json!({"name": "b", "tenant": "other"})).await?;
    ensure!(status == 201, "{status} {made}");
    let stranger = made["secret"].as_str().or(made["key"].as_str()).context("no key")?;
    let nobody = Box { world, id: "iaaaaaaaaaaaaaaaaaaa".into(), token: String::new(), traffic: None };
    let (real, none) = (
        told(list(sandbox).header("x-api-key", stranger)).await?,
        told(list(&nobody).header("x-api-key", stranger)).await?,
    );
    ensure!(real.0 == 502 && none.0 == 502 && real.1["message"] == none.1["message"], "{real:?} {none:?}");
    let (_, gone) = world.api(Method::DELETE, &format!("/sandboxes/{}", other.id), Value::Null).await?;
    ensure!(gone.is_null() || gone == "", "{gone}");
    wait_until("its client is told that it is gone", async || {
        let (status, told) = other.unary("/process.Process/List", json!({})).await?;
        let expected = json!({"sandboxId": other.id, "message": "The sandbox was not found", "code": 502});
        Ok((status, told) == (502, expected))
    })
    .await
}

async fn public(sandbox: &Box<'_>) -> Result<()> {
    for (method, path) in [
        (Method::POST, "/init"),
        (Method::GET, "/dirs?path=/etc"),
        (Method::GET, "/atoll/port/80"),
        (Method::POST, "/atoll.agent.v1.Agent/Freeze"),
        (Method::POST, "/process.Process/../atoll.agent.v1.Agent/Freeze"),
    ] {
        let (status, told) = told(sandbox.agent(method, path)).await?;
        ensure!(status == 404, "{path}: {status} {told}");
    }
    let (status, metrics) = told(sandbox.agent(Method::GET, "/metrics")).await?;
    ensure!(status == 200 && metrics["mem_total"].as_u64() > Some(0), "{status} {metrics}");
    let (status, envs) = told(sandbox.agent(Method::GET, "/envs")).await?;
    ensure!(status == 200 && envs["E2B_SANDBOX"] == "true", "{status} {envs}");
    let preflight =
        sandbox.bare(Method::OPTIONS, "/process.Process/Start").header("origin", "https://a.example");
    let answer = preflight.header("access-control-request-method", "POST").send().await?;
    ensure!(answer.status() == 204 && answer.headers()["access-control-allow-origin"] == "*", "{answer:?}");
    Ok(())
}

async fn files(sandbox: &Box<'_>) -> Result<()> {
    let post = |query: &str| sandbox.agent(Method::POST, &format!("/files{query}"));
    let pieces = futures::stream::iter((0..64_u8).map(|n| Ok::<_, std::io::Error>(vec![n; 64 << 10])));
    let chunked = post("?path=big").header("content-type", "application/octet-stream");
    let (status, written) = told(chunked.body(reqwest::Body::wrap_stream(pieces))).await?;
    ensure!(status == 200 && written[0]["path"] == "/home/user/big", "{status} {written}");
    let form = "--B\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a/b.txt\"\r\n\r\nhello\r\n--B--\r\n";
    let form = post("").header("content-type", "multipart/form-data; boundary=B").body(form);
    let (status, written) = told(form.header("x-metadata-author", "me")).await?;
    ensure!(status == 200 && written[0]["path"] == "/home/user/a/b.txt", "{status} {written}");
    let (_, stat) = sandbox.unary("/filesystem.Filesystem/Stat", json!({"path": "a/b.txt"})).await?;
    let entry = &stat["entry"];
    ensure!(
        entry["owner"] == "user" && entry["size"] == "5" && entry["metadata"]["author"] == "me",
        "{stat}"
    );
    ensure!(entry["permissions"] == "-rw-r--r--" && entry["type"] == "FILE_TYPE_FILE", "{stat}");
    let part = sandbox.agent(Method::GET, "/files?path=big").header("range", "bytes=65535-65536");
    let part = part.send().await?;
    ensure!(part.status() == 206 && part.bytes().await?[..] == [0, 1], "the part was another");
    let (status, told) = sandbox.unary("/filesystem.Filesystem/Stat", json!({"path": "none"})).await?;
    ensure!((status, &told["code"]) == (404, &"not_found".into()), "{status} {told}");
    Ok(())
}

async fn signatures(sandbox: &Box<'_>) -> Result<()> {
    let address = |path: &str, signature: String| {
        let signature = signature.replace('+', "%2B").replace('/', "%2F");
        format!("/files?path={path}&signature={signature}")
    };
    let put = sandbox.bare(Method::POST, &address("/tmp/s", sandbox.signature("/tmp/s", "write", None)));
    let (status, written) =
        told(put.header("content-type", "application/octet-stream").body("signed")).await?;
    ensure!(status == 200, "{status} {written}");
    let get = |path: &'static str, signature: String, end: Option<i64>| {
        let end = end.map(|end| format!("&signature_expiration={end}")).unwrap_or_default();
        told(sandbox.bare(Method::GET, &format!("{}{end}", address(path, signature))))
    };
    let reads = |path: &str, end| sandbox.signature(path, "read", end);
    let future = 4_000_000_000;
    ensure!(get("/tmp/s", reads("/tmp/s", None), None).await? == (200, "signed".into()), "not the file");
    ensure!(get("/tmp/s", reads("/tmp/s", Some(future)), Some(future)).await?.0 == 200, "not in time");
    for (answer, message) in [
        (get("/etc/passwd", reads("/tmp/s", None), None).await?, "invalid signature"),
        (get("/tmp/s", reads("/tmp/s", Some(1)), Some(future)).await?, "invalid signature"),
        (get("/tmp/s", reads("/tmp/s", Some(1)), Some(1)).await?, "signature is already expired"),
    ] {
        ensure!(answer == (401, json!({"code": 401, "message": message})), "{answer:?}");
    }
    Ok(())
}

async fn reconnects(sandbox: &Box<'_>) -> Result<()> {
    let mut stream =
        sandbox.start("echo ready; read line; echo \"<$line>\"", json!({"stdin": true, "tag": "t"})).await?;
    let pid = stream.until("ready").await?;
    drop(stream);
    for selector in [json!({"pid": pid}), json!({"tag": "t"})] {
        let mut again = sandbox.stream("/process.Process/Connect", json!({"process": selector})).await?;
        let first = again.next().await?.context("nothing came")?;
        ensure!(first.1["event"]["start"]["pid"] == pid, "{first:?}");
    }
    let again = sandbox.stream("/process.Process/Connect", json!({"process": {"pid": pid}})).await?;
    let input = json!({"process": {"pid": pid}, "input": {"stdin": STANDARD.encode("typed\n")}});
    let (status, told) = sandbox.unary("/process.Process/SendInput", input).await?;
    ensure!(status == 200, "{status} {told}");
    let (output, end, _) = again.finish().await?;
    ensure!(output == "<typed>\n" && end["exitCode"].as_i64().unwrap_or(0) == 0, "{output:?} {end}");
    Ok(())
}

async fn outlives_a_pause(world: &World) -> Result<()> {
    let sandbox = world.make(json!({})).await?;
    let script = "echo first; until [ -e /tmp/go ]; do sleep 0.05; done; echo last";
    let mut stream = sandbox.start(script, json!({})).await?;
    stream.until("first").await?;
    sandbox.phase("pause").await?;
    let (status, told) = sandbox.unary("/process.Process/List", json!({})).await?;
    ensure!(status == 502, "it is paused and not to be woken: {status} {told}");
    sandbox.phase("resume").await?;
    let (status, told) = sandbox.unary("/filesystem.Filesystem/MakeDir", json!({"path": "/tmp/go"})).await?;
    ensure!(status == 200, "{status} {told}");
    let (output, end, last) = stream.finish().await?;
    ensure!(
        output == "last\n" && end["status"] == "exit status 0" && last == json!({}),
        "{output} {end} {last}"
    );
    Ok(())
}

async fn ends_with_the_sandbox(world: &World) -> Result<()> {
    let sandbox = world.make(json!({})).await?;
    let mut stream = sandbox.start("echo first; sleep 600", json!({})).await?;
    stream.until("first").await?;
    let (status, told) =
        world.api(Method::DELETE, &format!("/sandboxes/{}", sandbox.id), Value::Null).await?;
    ensure!(status == 204, "{status} {told}");
    let (_, _, last) = stream.finish().await?;
    ensure!(last["error"]["code"] == "unavailable", "{last}");
    Ok(())
}

async fn rests(world: &World) -> Result<()> {
    let stays = world.make(json!({"autoPause": true})).await?;
    let wakes = world.make(json!({"autoPause": true, "autoResume": {"enabled": true}})).await?;
    for sandbox in [&stays, &wakes] {
        sandbox.phase("pause").await?;
    }
    let gone = json!({"sandboxId": stays.id, "message": "The sandbox was not found", "code": 502});
    let health = told(stays.bare(Method::GET, "/health")).await?;
    ensure!(health == (502, gone.clone()), "{health:?}");
    let port = told(stays.request(Method::GET, 8000, "/").header("e2b-sandbox-id", &stays.id)).await?;
    ensure!(port == (502, gone), "{port:?}");
    let (output, _, _) = wakes.start("echo awake", json!({})).await?.finish().await?;
    ensure!(output == "awake\n", "{output:?}");
    Ok(())
}

async fn traffic(world: &World) -> Result<()> {
    let network = json!({"allowPublicTraffic": false, "maskRequestHost": "inside.example:${PORT}"});
    let sandbox = world.make(json!({"network": network})).await?;
    let listen = "from http.server import *\n\
        class H(BaseHTTPRequestHandler):\n\
        \x20def do_GET(s): s.send_response(200); s.end_headers(); s.wfile.write(str(s.headers).encode())\n\
        HTTPServer(('', 8000), H).serve_forever()";
    let ask = json!({"process": {"cmd": "/usr/bin/python3", "args": ["-c", listen]}});
    let _listening = sandbox.stream("/process.Process/Start", ask).await?;
    let token = sandbox.traffic.clone().context("no token for its ports")?;
    let get = || sandbox.request(Method::GET, 8000, "/");
    let seen = std::cell::RefCell::new(String::new());
    wait_until("it listens", async || {
        let (status, told) = told(get().header("e2b-traffic-access-token", &token)).await?;
        *seen.borrow_mut() = told.to_string();
        Ok(status == 200)
    })
    .await?;
    let seen = seen.into_inner().to_lowercase();
    ensure!(seen.contains("host: inside.example:8000") && !seen.contains(&token), "{seen}");
    for request in [get(), get().header("e2b-traffic-access-token", &sandbox.token)] {
        let (status, told) = told(request).await?;
        ensure!(status == 403, "{status} {told}");
    }
    let closed = sandbox.request(Method::GET, 81, "/").header("e2b-traffic-access-token", &token);
    let (status, told) = told(closed).await?;
    ensure!(
        status == 502 && told["message"] == "The sandbox is running but port is not open",
        "{status} {told}"
    );
    ensure!(told["port"] == 81 && told["sandboxId"] == sandbox.id, "{told}");
    Ok(())
}

async fn open(world: &World) -> Result<()> {
    let sandbox = world.make(json!({"secure": false})).await?;
    ensure!(sandbox.token.is_empty(), "it has a token");
    let list = sandbox.bare(Method::POST, "/process.Process/List").json(&json!({}));
    let (status, told) = told(list).await?;
    ensure!(status == 200, "{status} {told}");
    Ok(())
}
