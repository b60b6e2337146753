//! Other OCI runtimes as a template's `runtime`: each that is installed runs the main job; the others are skipped.

use anyhow::{Result, ensure};
use atoll_proto::api::{CreateSandbox, TemplateSpec};
use atoll_tests::{Options, Run, Server, Skip, story};
use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    story("runtimes", async |run: &mut Run| {
        let server = Server::start(Options::default()).await?;
        for runtime in ["runc", "runsc", "kata-runtime"] {
            run.case(runtime, main_job(&server, runtime)).await;
        }
        run.case("a_runtime_that_is_not_there", not_there(&server)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        Ok(())
    })
}

fn installed(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).exists())
}

fn template(runtime: &str) -> TemplateSpec {
    TemplateSpec { image: "base".into(), runtime: Some(runtime.to_owned()), ..TemplateSpec::default() }
}

async fn main_job(server: &Server, runtime: &str) -> Result<()> {
    if !installed(runtime) {
        return Err(Skip(format!("{runtime} is not installed")).into());
    }
    let client = server.client()?;
    client.put_template(runtime, &template(runtime)).await?;
    let ask = CreateSandbox { template: Some(runtime.to_owned()), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    ensure!(sandbox.runtime.as_deref() == Some(runtime), "{sandbox:?}");
    ensure!(server.output(&sandbox.id, &["python3", "-c", "print('hello')"]).await? == "hello");
    let files = client.sandbox(&sandbox.id).files();
    files.upload("/tmp/file", "content").await?;
    ensure!(server.output(&sandbox.id, &["cat", "/tmp/file"]).await? == "content");
    let failed = server.exec(&sandbox.id, &["sh", "-c", "exit 9"]).await?;
    ensure!(failed.exit.exit_code == 9, "{failed:?}");
    server.delete(&sandbox.id).await?;
    Ok(client.remove_template(runtime).await?)
}

async fn not_there(server: &Server) -> Result<()> {
    let client = server.client()?;
    let ask = CreateSandbox { template: Some("nowhere".into()), ..CreateSandbox::default() };
    let outcome = match client.put_template("nowhere", &template("no-such-runtime")).await {
        Ok(_) => client.sandboxes().create(&ask).await.map(drop),
        Err(error) => Err(error),
    };
    let told = outcome.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(told.contains("no-such-runtime"), "{told:?}");
    let _ = client.remove_template("nowhere").await;
    server.clear().await
}
