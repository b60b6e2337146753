//! Many at once: 500 creations asked for in the same moment on a small machine all succeed, or are refused with a reason
//! and a time to come back; and everything goes again.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::CreateSandbox;
use atoll_tests::{Options, Run, Server, http::Answer, story};
use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::json;
use std::{collections::BTreeSet, process::ExitCode, time::Duration};

const MANY: usize = 500;

fn main() -> ExitCode {
    story("many", async |run: &mut Run| {
        let server = Server::start(Options::default()).await?;
        let patience = Duration::from_secs(600);
        run.patient_case("creations_at_once", patience, creations_at_once(&server)).await;
        run.patient_case("a_sandbox_used_by_many_at_once", patience, used_by_many(&server)).await;
        run.patient_case("nothing_is_left_behind", patience, server.close()).await;
        Ok(())
    })
}

async fn creations_at_once(server: &Server) -> Result<()> {
    let http = server.http()?;
    let ask = async |_| {
        loop {
            let request = http.request(Method::POST, "/api/v1/sandboxes").json(&json!({"image": "base"}));
            let response = request.send().await?;
            let wait = response.headers().get("Retry-After").and_then(|v| v.to_str().ok()?.parse().ok());
            match (response.status().as_u16(), wait) {
                (429 | 503, Some(seconds)) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                _ => return Answer::of(response).await?.expect(201),
            }
        }
    };
    let made: Vec<Result<_>> = futures::future::join_all((0..MANY).map(ask)).await;
    let made = made.into_iter().collect::<Result<Vec<_>>>()?;
    let ids: BTreeSet<_> =
        made.iter().filter_map(|sandbox| sandbox["id"].as_str().map(str::to_owned)).collect();
    ensure!(ids.len() == MANY, "{} different ids", ids.len());
    let answered = stream::iter(&ids).map(|id| server.output(id, &["hostname"])).buffer_unordered(16);
    let names: Vec<_> = answered.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(names.len() == MANY);
    ensure!(server.list().await?.len() == MANY);
    server.clear().await
}

async fn used_by_many(server: &Server) -> Result<()> {
    let sandbox = server.create_with(CreateSandbox::default()).await?;
    let numbers = stream::iter(0..MANY).map(async |number| {
        let told = server.output(&sandbox.id, &["echo", &number.to_string()]).await?;
        ensure!(told == number.to_string(), "{told} instead of {number}");
        Ok(())
    });
    let outcomes: Vec<Result<()>> = numbers.buffer_unordered(100).collect().await;
    outcomes.into_iter().collect::<Result<()>>().context("one of many commands")?;
    server.delete(&sandbox.id).await
}
