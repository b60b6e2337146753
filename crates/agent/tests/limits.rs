//! The agent when something has run out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use atoll_proto::agent::v1::*;
use connectrpc::ErrorCode;
use support::*;

/// A control group of the test's own.
struct Group(PathBuf);

impl Group {
    /// Nothing where there is no such controller, which the test then says.
    fn new(name: &str) -> Option<Self> {
        let parents = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        parents.iter().find_map(|parent| {
            let group = Self(Path::new(parent).join(format!("atoll-test-{name}-{}", std::process::id())));
            std::fs::create_dir(&group.0).ok()?;
            group.0.join("pids.max").exists().then_some(group)
        })
    }

    /// An agent that lives in the group with everything it starts.
    fn agent(&self) -> Sandbox {
        let members = self.0.join("cgroup.procs");
        Sandbox::spawn(&config(), move |command| {
            // SAFETY: writes one file between fork and exec, where no lock of another thread is needed.
            unsafe { command.pre_exec(move || std::fs::write(&members, "0")) };
        })
    }

    fn set(&self, file: &str, value: &str) {
        std::fs::write(self.0.join(file), value).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[tokio::test]
async fn without_free_processes_the_agent_answers_and_serves_files() {
    let Some(group) = Group::new("pids") else {
        println!("skipped: there is no pids controller to make a group in");
        return;
    };
    group.set("pids.max", "12");
    let agent = group.agent();
    let mut streams = Vec::new();
    let error = loop {
        let mut stream = agent.begin(argv(&["sleep", "60"])).await;
        match next(&mut stream).await {
            Ok(_) => streams.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::ResourceExhausted);
    let said = error.message.unwrap_or_default();
    assert_eq!(said, "cannot start a process: the sandbox has reached its limit of processes");
    assert!(streams.len() > 3, "{}", streams.len());

    let file = agent.path("file");
    assert_eq!(agent.post(&format!("/files?path={file}"), "content").await.0, 200);
    assert_eq!(agent.get(&format!("/files?path={file}")).await, (200, "content".into()));
    assert_eq!(agent.get("/health").await.0, 204);
    assert!(agent.agent().await.metrics(MetricsRequest::default()).await.is_ok());

    drop(streams);
    eventually("there is room again", async || agent.run(argv(&["echo", "fine"])).await.is_ok()).await;
    drop(agent);
    drop(group);
}

#[tokio::test]
async fn a_full_disk_is_told_and_cleared() {
    let agent = Sandbox::start();
    let disk = agent.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = agent.sh(&format!("mount -t tmpfs -o size=1m tmpfs {disk}")).await;
    if mounted.exit.code != 0 {
        println!("skipped: no file system can be mounted here");
        return;
    }
    let (status, body) = agent.post(&format!("/files?path={disk}/big"), vec![1; 3 << 20]).await;
    let names = names(&disk);
    let (small, _) = agent.post(&format!("/files?path={disk}/small"), vec![1; 1000]).await;
    agent.sh(&format!("umount {disk}")).await;
    assert_eq!(status, 507, "{body:?}");
    assert!(String::from_utf8_lossy(&body).contains("no space left"), "{body:?}");
    assert!(names.is_empty(), "{names:?}");
    assert_eq!(small, 200);
}

#[tokio::test]
async fn a_memory_hog_is_killed_alone_and_reported() {
    let group = Path::new("/sys/fs/cgroup/memory").join(format!("atoll-test-memory-{}", std::process::id()));
    if std::fs::create_dir(&group).is_err()
        || std::fs::write(group.join("memory.limit_in_bytes"), "64M").is_err()
    {
        println!("skipped: there is no memory controller to make a group in");
        return;
    }
    let group = Group(group);
    let agent = group.agent();
    let outcome = agent.sh("tail /dev/zero; exit $?").await;
    assert_eq!(outcome.exit.code, 137, "{outcome:?}");
    assert!(outcome.exit.oom_killed, "{outcome:?}");
    assert_eq!(agent.sh("echo fine").await.text(), "fine\n");
    assert!(!agent.sh("kill -9 $$").await.exit.oom_killed);
    drop(agent);
    drop(group);
}
