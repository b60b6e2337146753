//! Users and what is theirs: volumes that outlive sandboxes, and one sandbox for each user. With our own launcher, with
//! OCI runtimes, and where there is no btrfs.

mod per_user;
mod volumes;

use anyhow::Result;
use atoll_tests::{Options, Run, Server, built_runtimes, story};
use std::process::ExitCode;

fn main() -> ExitCode {
    story("users", async |run: &mut Run| {
        let args = vec!["--runtime-dir".to_owned(), built_runtimes().display().to_string()];
        let mut server = Server::start(Options { args, ..Options::default() }).await?;
        if server.cluster().is_some() {
            volumes::on_cluster(run, &mut server).await;
            run.case("nothing_is_left_behind", server.close()).await;
            return per_user::all(run).await;
        }
        volumes::all(run, &mut server, "").await;
        for runtime in ["runc", "youki", "runsc"] {
            volumes::under(run, &server, runtime).await;
        }
        run.case("nothing_is_left_behind", server.close()).await;
        per_user::all(run).await?;
        without_btrfs(run).await
    })
}

async fn without_btrfs(run: &mut Run) -> Result<()> {
    let mut server = Server::start(Options::without_btrfs()).await?;
    volumes::all(run, &mut server, "without_btrfs_").await;
    run.case("without_btrfs_nothing_is_left_behind", server.close()).await;
    Ok(())
}
