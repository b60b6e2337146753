//! Commands through the native service, against the real agent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::HashMap;

use atoll_proto::agent::v1::__buffa::oneof::run_event::Event;
use atoll_proto::agent::v1::__buffa::oneof::run_request::Message;
use atoll_proto::agent::v1::*;
use atoll_proto::init::AgentConfig;
use connectrpc::ErrorCode;
use support::*;

#[tokio::test]
async fn streams_are_separate_and_the_exit_code_is_the_programs() {
    let agent = Sandbox::start();
    let outcome = agent.sh("echo out; echo err >&2; exit 7").await;
    assert_eq!((outcome.stdout.as_slice(), outcome.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!((outcome.exit.code, outcome.exit.signal), (7, 0));
}

#[tokio::test]
async fn a_command_without_input_reads_nothing() {
    let agent = Sandbox::start();
    assert_eq!(agent.sh("cat; echo done").await.text(), "done\n");
}

#[tokio::test]
async fn input_arrives_and_ends() {
    let agent = Sandbox::start();
    let mut stream = agent.begin(Start { stdin: true, ..argv(&["cat"]) }).await;
    stream.send(message(Message::Stdin(b"one ".to_vec()))).await.unwrap();
    stream.send(message(Message::Stdin(b"two".to_vec()))).await.unwrap();
    stream.send(message(CloseStdin::default())).await.unwrap();
    assert_eq!(finish(&mut stream, Outcome::default()).await.unwrap().text(), "one two");

    let mut stream = agent.begin(Start { stdin: true, ..argv(&["cat"]) }).await;
    stream.send(message(Message::Stdin(b"end of messages".to_vec()))).await.unwrap();
    stream.close_send();
    assert_eq!(finish(&mut stream, Outcome::default()).await.unwrap().text(), "end of messages");
}

#[tokio::test]
async fn megabytes_of_binary_output_and_input_are_intact() {
    let agent = Sandbox::start();
    let mut stream = agent.begin(Start { stdin: true, ..argv(&["cat"]) }).await;
    let data: Vec<u8> =
        (0..10_u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let send = async {
        let mut outcome = Outcome::default();
        for chunk in data.chunks(256 << 10) {
            stream.send(message(Message::Stdin(chunk.to_vec()))).await.unwrap();
            while outcome.stdout.len() < chunk.len() {
                match next(&mut stream).await.unwrap().unwrap().event {
                    Some(Event::Stdout(data)) => outcome.stdout.extend(data),
                    Some(Event::Started(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(outcome.stdout, chunk);
            outcome.stdout.clear();
        }
        stream.close_send();
        finish(&mut stream, Outcome::default()).await.unwrap()
    };
    assert_eq!(send.await.exit.code, 0);

    let outcome =
        agent.sh("head -c 10485760 /dev/urandom > file; sha256sum < file >&2; cat file; rm file").await;
    assert_eq!(outcome.stdout.len(), 10 << 20);
    std::fs::write(agent.path("copy"), &outcome.stdout).unwrap();
    let again = agent.sh(&format!("sha256sum < {}", agent.path("copy"))).await;
    assert_eq!(again.stdout, outcome.stderr);
}

#[tokio::test]
async fn environment_directory_and_user_are_as_asked() {
    let agent = Sandbox::start();
    let env = HashMap::from([("MINE".to_owned(), "a b".to_owned())]);
    let outcome =
        agent.run(Start { env: env.into_iter().collect(), cwd: "/usr".into(), ..argv(&["env"]) }).await;
    let outcome = outcome.unwrap();
    let mut lines: Vec<_> = outcome.text().lines().filter(|line| !line.starts_with("PATH=")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["FROM_SANDBOX=yes", "HOME=/root", "LOGNAME=root", "MINE=a b", "USER=root"]);
    let start = Start { cwd: "/usr".into(), user: "65534:7".into(), ..sh("pwd; id -u; id -g; id -G; umask") };
    assert_eq!(agent.run(start).await.unwrap().text(), "/usr\n65534\n7\n7\n0022\n");
}

#[tokio::test]
async fn commands_inherit_nothing_of_the_agent() {
    let agent = Sandbox::start();
    let outcome = agent
        .sh("ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; cat /proc/self/oom_score_adj")
        .await;
    let mut lines = outcome.text().lines();
    // The fourth is the directory that ls reads.
    let fds: Vec<_> = lines.by_ref().take(4).collect();
    assert_eq!(fds, ["0", "1", "2", "3"]);
    let rest: Vec<_> = lines.collect();
    assert_eq!(rest, ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "500"]);
}

#[tokio::test]
async fn without_sudo_no_privileges_are_gained() {
    let agent = Sandbox::with(&AgentConfig { allow_sudo: false, ..config() });
    assert_eq!(agent.sh("grep NoNewPrivs /proc/self/status").await.text(), "NoNewPrivs:\t1\n");
}

async fn fails(agent: &Sandbox, start: Start) -> (ErrorCode, String) {
    let error = agent.run(start).await.unwrap_err();
    (error.code, error.message.unwrap_or_default())
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let agent = Sandbox::start();
    let missing = fails(&agent, argv(&["no-such-command"])).await;
    assert_eq!(missing, (ErrorCode::NotFound, "command not found: no-such-command".into()));
    let directory = fails(&agent, Start { cwd: "/no/such".into(), ..sh("true") }).await;
    assert_eq!(directory, (ErrorCode::InvalidArgument, "cwd '/no/such' does not exist".into()));
    let user = fails(&agent, Start { user: "nobody-here".into(), ..sh("true") }).await;
    assert_eq!(user, (ErrorCode::Unauthenticated, "invalid username: 'nobody-here'".into()));
    let long = fails(&agent, argv(&["echo", &"x".repeat(10 << 20)])).await;
    assert_eq!(long, (ErrorCode::InvalidArgument, "the command line and environment are too long".into()));
    assert_eq!(fails(&agent, argv(&["/etc/passwd"])).await.0, ErrorCode::PermissionDenied);
    assert_eq!(fails(&agent, argv(&[])).await.0, ErrorCode::InvalidArgument);
    assert_eq!(fails(&agent, argv(&["a\0b"])).await.0, ErrorCode::InvalidArgument);
    assert!(
        agent
            .exec()
            .await
            .list(ListCommandsRequest::default())
            .await
            .unwrap()
            .into_owned()
            .commands
            .is_empty()
    );
    assert_eq!(agent.sh("echo fine").await.text(), "fine\n");
}

#[tokio::test]
async fn a_timeout_kills_the_whole_group_though_it_ignores_signals() {
    let agent = Sandbox::start();
    let script = "trap '' TERM INT HUP; setsid sh -c 'trap \"\" TERM; echo $$; sleep 60' & \
                  sh -c 'trap \"\" TERM; echo $$; sleep 60' & wait";
    for grace in [0, 100] {
        let start = Start { timeout_ms: 500, kill_grace_ms: grace, ..sh(script) };
        let outcome = agent.run(start).await.unwrap();
        assert!(outcome.exit.timed_out && outcome.exit.signal == libc::SIGKILL, "{outcome:?}");
        // The one in a session of its own has left the command.
        let pids: Vec<u32> = outcome.text().lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(pids.len(), 2);
        let group = agent.sh(&format!("ps -o pid= -g {}", outcome.pid)).await;
        assert_eq!(group.text(), "");
        agent.sh(&format!("kill -9 {} {}", pids[0], pids[1])).await;
    }
}

#[tokio::test]
async fn a_polite_command_ends_at_its_timeout_by_itself() {
    let agent = Sandbox::start();
    let start = Start { timeout_ms: 300, kill_grace_ms: 60_000, ..sh("trap 'exit 3' TERM; sleep 60 & wait") };
    let outcome = agent.run(start).await.unwrap();
    assert!(outcome.exit.timed_out && outcome.exit.code == 3, "{outcome:?}");
}

#[tokio::test]
async fn signals_reach_the_group() {
    let agent = Sandbox::start();
    let mut stream = agent.begin(sh("trap 'echo got; exit 4' USR1; echo ready; sleep 60 & wait")).await;
    let mut outcome = Outcome::default();
    while outcome.stdout != b"ready\n" {
        if let Some(Event::Stdout(data)) = next(&mut stream).await.unwrap().unwrap().event {
            outcome.stdout.extend(data);
        }
    }
    stream.send(message(Message::Signal(libc::SIGUSR1))).await.unwrap();
    let outcome = finish(&mut stream, outcome).await.unwrap();
    assert_eq!(outcome.text(), "ready\ngot\n");
    // The shell was told, and its child of the same group has died of the signal.
    assert_eq!(outcome.exit.code, 4);
}

#[tokio::test]
async fn a_killed_command_counts_as_a_shell_counts() {
    let agent = Sandbox::start();
    let outcome = agent.sh("kill -9 $$").await;
    assert_eq!((outcome.exit.code, outcome.exit.signal), (137, libc::SIGKILL));
    assert!(!outcome.exit.timed_out);
}

#[tokio::test]
async fn a_terminal_is_one() {
    let agent = Sandbox::start();
    let size = Size { cols: 101, rows: 33, ..Default::default() };
    let script = "tty; stty size; echo $TERM; read line; stty size; echo \"<$line>\"; ps -o tpgid= -p $$";
    let mut stream = agent.begin(Start { tty: size.into(), ..argv(&["bash", "-c", script]) }).await;
    let mut seen = Outcome::default();
    while !String::from_utf8_lossy(&seen.tty).contains("xterm") {
        match next(&mut stream).await.unwrap().unwrap().event {
            Some(Event::Tty(data)) => seen.tty.extend(data),
            Some(Event::Started(started)) => seen.pid = started.pid,
            other => panic!("{other:?}"),
        }
    }
    stream.send(message(Size { cols: 50, rows: 20, ..Default::default() })).await.unwrap();
    stream.send(message(Message::Stdin(b"typed\n".to_vec()))).await.unwrap();
    let outcome = finish(&mut stream, seen).await.unwrap();
    let text = String::from_utf8(outcome.tty).unwrap().replace('\r', "");
    assert!(text.starts_with("/dev/pts/"), "{text}");
    assert!(text.contains("33 101\nxterm-256color\n"), "{text}");
    assert!(text.contains("20 50\n<typed>\n"), "{text}");
    assert!(text.trim_end().ends_with(&outcome.pid.to_string()), "{text}");
    assert_eq!(outcome.exit.code, 0);
}

#[tokio::test]
async fn a_lost_client_ends_its_command_with_everything_in_it() {
    let agent = Sandbox::start();
    let mut stream = agent.begin(sh("sleep 61 & echo $!; wait")).await;
    let (mut pid, mut child) = (0, None);
    while child.is_none() {
        match next(&mut stream).await.unwrap().unwrap().event {
            Some(Event::Started(started)) => pid = started.pid,
            Some(Event::Stdout(data)) => child = String::from_utf8(data).unwrap().trim().parse().ok(),
            other => panic!("{other:?}"),
        }
    }
    assert!(lives(pid));
    drop(stream);
    let child = child.unwrap();
    eventually("both are gone", async || !lives(pid) && !lives(child)).await;
}

#[tokio::test]
async fn a_detached_command_outlives_its_client_and_is_followed_again() {
    let agent = Sandbox::start();
    let release = agent.path("release");
    let script = format!("echo one; while ! test -e {release}; do sleep 0.02; done; echo two; exit 5");
    let mut stream = agent.begin(Start { detached: true, tag: "job".into(), ..sh(&script) }).await;
    let (mut id, mut sequence) = (0, 0);
    while sequence == 0 {
        let event = next(&mut stream).await.unwrap().unwrap();
        sequence = event.sequence;
        if let Some(Event::Started(started)) = event.event {
            id = started.id;
        }
    }
    drop(stream);
    std::fs::write(&release, "").unwrap();
    for after in [sequence, 0, sequence] {
        let mut stream = agent.exec().await.run().await.unwrap();
        let attach = Attach { id, after_sequence: after, ..Default::default() };
        stream.send(message(attach)).await.unwrap();
        let outcome = finish(&mut stream, Outcome::default()).await.unwrap();
        assert_eq!(outcome.text(), if after == 0 { "one\ntwo\n" } else { "two\n" });
        assert_eq!(outcome.exit.code, 5);
    }
    let commands =
        agent.exec().await.list(ListCommandsRequest::default()).await.unwrap().into_owned().commands;
    assert_eq!(
        commands.iter().map(|command| (command.id, command.tag.as_str())).collect::<Vec<_>>(),
        [(id, "job")]
    );
    let mut stream = agent.exec().await.run().await.unwrap();
    stream.send(message(Attach { id: 999, ..Default::default() })).await.unwrap();
    assert_eq!(finish(&mut stream, Outcome::default()).await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn what_nobody_read_leaves_a_gap() {
    let agent = Sandbox::start();
    let mut stream =
        agent.begin(Start { detached: true, ..sh("sleep 0.3; head -c 5000000 /dev/zero; echo end") }).await;
    let Some(Event::Started(started)) = next(&mut stream).await.unwrap().unwrap().event else {
        panic!("no start")
    };
    drop(stream);
    let exec = agent.exec().await;
    eventually("it has ended", async || {
        let list = exec.list(ListCommandsRequest::default()).await.unwrap().into_owned();
        list.commands.iter().any(|command| command.id == started.id && command.exit.is_set())
    })
    .await;
    let mut stream = exec.run().await.unwrap();
    stream.send(message(Attach { id: started.id, ..Default::default() })).await.unwrap();
    let (mut gap, mut last, mut bytes) = (0, 0, 0);
    while let Some(event) = next(&mut stream).await.unwrap() {
        match event.event {
            Some(Event::Gap(pieces)) => (gap, last) = (pieces, event.sequence),
            Some(Event::Stdout(data)) => {
                last += 1;
                assert_eq!(event.sequence, last);
                bytes += data.len();
            }
            _ => {}
        }
    }
    assert!(gap > 0 && bytes > 500_000 && bytes <= 1 << 20, "{gap} {bytes}");
}

#[tokio::test]
async fn a_background_child_does_not_hold_the_command() {
    let agent = Sandbox::start();
    let outcome = agent.sh("sleep 60 & echo $!").await;
    let pid: u32 = outcome.text().trim().parse().unwrap();
    assert!(lives(pid));
    let outcome = agent.sh("yes & echo $! >&2").await;
    assert_eq!(outcome.exit.code, 0);
    let busy: u32 = std::str::from_utf8(&outcome.stderr).unwrap().trim().parse().unwrap();
    assert!(lives(busy), "it goes on writing, into nothing");
    agent.sh(&format!("kill -9 {pid} {busy}")).await;
    eventually("orphans are reaped", async || {
        ![pid, busy].iter().any(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists())
    })
    .await;
}

#[tokio::test]
async fn many_commands_at_once_keep_their_exit_codes() {
    let agent = Sandbox::start();
    let runs = (0..40).map(|code| {
        let agent = &agent;
        async move { (code, agent.sh(&format!("echo {code}; exit {code}")).await) }
    });
    for (code, outcome) in futures::future::join_all(runs).await {
        assert_eq!((outcome.exit.code, outcome.text()), (code, format!("{code}\n").as_str()));
    }
}
