//! The command line as people and scripts meet it: what it prints, where, and with which exit code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that cannot go on has failed the test"
)]
mod fake;

use fake::{Fake, id};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Child, Command, Output, Stdio},
};

/// The program, with nothing of this machine's configuration.
fn atoll(fake: &Fake, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    command
        .env_clear()
        .env("ATOLL_URL", &fake.url)
        .env("PATH", "/usr/bin:/bin")
        .env("XDG_CONFIG_HOME", "/nowhere");
    command.args(line).stdin(Stdio::null());
    command
}

fn run(fake: &Fake, line: &[&str]) -> Output {
    atoll(fake, line).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn lists_are_tables_json_or_names_and_go_over_all_pages() {
    let fake = Fake::start(3);
    let table = run(&fake, &["ls"]);
    let lines: Vec<&str> = text(&table.stdout).lines().collect();
    assert!(lines[0].starts_with("ID ") && lines.len() == 4, "{lines:?}");
    assert!(
        lines[1].contains(&id(1)) && lines[1].contains("running") && lines[1].ends_with("team=blue"),
        "{lines:?}"
    );
    assert!(!table.stdout.contains(&0x1b), "colours in a pipe");
    let names = format!("{}\n{}\n{}\n", id(1), id(2), id(3));
    assert_eq!(text(&run(&fake, &["ls", "-q"]).stdout), names);
    assert_eq!(text(&run(&fake, &["-o", "name", "ls"]).stdout), names);
    let json: serde_json::Value = serde_json::from_slice(&run(&fake, &["ls", "-o", "json"]).stdout).unwrap();
    assert_eq!(json.as_array().map(Vec::len), Some(3));
    run(&fake, &["ls", "-a", "-l", "team=blue"]);
    let last = fake.seen(|seen| seen.requests.last().cloned().unwrap());
    assert!(last.contains("label=team%3Dblue") && !last.contains("phase"), "{last}");
}

#[test]
fn a_sandbox_may_be_named_by_the_beginning_of_its_id() {
    let fake = Fake::start(12);
    let found = run(&fake, &["get", "i0000000000000000012"]);
    assert!(text(&found.stdout).starts_with("id         i0000000000000000012\n"), "{found:?}");
    assert_eq!(text(&run(&fake, &["get", "i00000000000000000012", "-o", "name"]).stdout), "");
    assert_eq!(text(&run(&fake, &["get", "i000000000000000001", "-o", "name"]).stderr).lines().count(), 1);
    assert_eq!(text(&run(&fake, &["get", "i000000000000000000", "-o", "name"]).stdout), "");
    let unknown = run(&fake, &["get", "i9"]);
    assert_eq!((code(&unknown), text(&unknown.stderr).lines().count()), (1, 1));
    assert!(text(&unknown.stderr).contains("begins with i9"));
    let none = run(&fake, &["get", "Nonsense/.."]);
    assert!(text(&none.stderr).contains("no id of a sandbox"), "{none:?}");
}

#[test]
fn a_created_sandboxs_id_is_all_that_is_printed() {
    let fake = Fake::start(0);
    let line =
        ["create", "python:3.11-slim", "--ttl", "2h", "-e", "A=b", "-l", "k=v", "--network", "restricted"];
    let made = run(&fake, &[&line[..], &["--allow", "203.0.113.0/24", "--", "sleep", "9"]].concat());
    assert_eq!(
        (code(&made), text(&made.stdout), text(&made.stderr)),
        (0, format!("{}\n", id(901)).as_str(), "")
    );
    let request = fake.seen(|seen| seen.created.remove(0));
    assert_eq!((request.image.as_deref(), request.ttl), (Some("python:3.11-slim"), Some(Some(7200))));
    assert_eq!(request.start_command, Some(vec!["sleep".into(), "9".into()]));
    assert_eq!(request.network.unwrap().allow, ["203.0.113.0/24"]);
    fake.seen(|seen| seen.refuse_creation = true);
    let refused = run(&fake, &["create", "nope"]);
    assert_eq!((code(&refused), text(&refused.stderr)), (1, "atoll: image nope cannot be found\n"));
}

#[test]
fn the_exit_code_of_run_is_the_programs_and_nothing_is_left() {
    let fake = Fake::start(0);
    let done = run(&fake, &["run", "base", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((code(&done), text(&done.stdout), text(&done.stderr)), (7, "out\n", "err\n"));
    assert_eq!(fake.seen(|seen| seen.deleted.clone()), [id(901)]);
    let killed = run(&fake, &["run", "base", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(code(&killed), 137);
    let missing = run(&fake, &["run", "base", "--", "/no/such/program"]);
    assert_eq!((code(&missing), text(&missing.stderr).lines().count()), (127, 1));
    assert_eq!(fake.seen(|seen| seen.deleted.len()), 3);
    let kept = run(&fake, &["run", "--keep", "base", "--", "true"]);
    assert!(code(&kept) == 0 && text(&kept.stderr).contains(&id(904)));
    assert_eq!(fake.seen(|seen| seen.deleted.len()), 3);
}

#[test]
fn atolls_own_failures_are_125_where_the_code_is_the_programs() {
    let fake = Fake::start(0);
    assert_eq!(code(&run(&fake, &["run", "base"])), 125);
    assert_eq!(code(&run(&fake, &["run", "--nonsense"])), 125);
    assert_eq!(code(&run(&fake, &["exec", "i9", "--", "true"])), 125);
    assert_eq!(code(&run(&fake, &["ls", "--nonsense"])), 2);
    fake.seen(|seen| seen.refuse_creation = true);
    assert_eq!(code(&run(&fake, &["run", "nope", "--", "true"])), 125);
    assert!(fake.seen(|seen| seen.deleted.is_empty()));
}

#[test]
fn json_of_a_command_holds_everything_and_the_code_stays_the_programs() {
    let fake = Fake::start(1);
    let done = run(&fake, &["exec", &id(1), "-o", "json", "--", "sh", "-c", "echo out; exit 3"]);
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (code(&done), json["exit_code"].as_i64(), json["stdout"].as_str()),
        (3, Some(3), Some("out\n"))
    );
    assert_eq!(json["sandbox"], id(1));
}

#[test]
fn bytes_go_through_untouched_while_both_sides_are_full() {
    let fake = Fake::start(1);
    // Every byte value, and more than all buffers on the way hold together.
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut child = atoll(&fake, &["exec", &id(1), "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || stdin.write_all(&copy));
    let mut received = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writing.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(received == sent, "{} bytes came back of {}", received.len(), sent.len());
}

#[test]
fn a_command_that_does_not_read_its_input_can_be_interrupted() {
    let fake = Fake::start(1);
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = atoll(&fake, &["exec", &id(1), "--", "sh", "-c", script])
        .stdin(fs::File::open("/dev/zero").unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(lines.next().unwrap().unwrap(), "caught");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn the_second_interrupt_lets_go_and_cleans_up() {
    let fake = Fake::start(0);
    let script = "trap 'echo stubborn' INT; echo ready; while :; do sleep 0.05; done";
    let mut child =
        atoll(&fake, &["run", "base", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(lines.next().unwrap().unwrap(), "stubborn");
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fake.seen(|seen| seen.deleted.clone()), [id(901)]);
}

#[test]
fn an_interrupted_creation_is_undone() {
    let fake = Fake::start(0);
    fake.seen(|seen| seen.hang_creation = true);
    let child = atoll(&fake, &["run", "base", "--", "true"]).stderr(Stdio::piped()).spawn().unwrap();
    while fake.seen(|seen| seen.created.is_empty()) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    signal(&child, rustix::process::Signal::INT);
    let done = child.wait_with_output().unwrap();
    assert_eq!((code(&done), text(&done.stderr)), (130, ""));
    assert_eq!(fake.seen(|seen| seen.deleted.clone()), [id(901)]);
}

#[test]
fn a_reader_that_goes_ends_the_command_quietly() {
    let fake = Fake::start(1);
    let mut child = atoll(&fake, &["exec", &id(1), "--", "yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 2];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!((code(&done), text(&done.stderr)), (141, ""));
}

#[test]
fn files_and_folders_are_copied_both_ways() {
    let fake = Fake::start(1);
    let here = tempfile::tempdir().unwrap();
    let path = |name: &str| here.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(here.path().join("tree/deep")).unwrap();
    fs::write(here.path().join("tree/deep/file"), b"\0\xff").unwrap();
    fs::write(here.path().join("tree/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(here.path().join("tree/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("deep/file", here.path().join("tree/link")).unwrap();
    fs::create_dir_all(fake.root.join("tmp")).unwrap();
    let inside = |path: &str| format!("{}:{path}", id(1));
    let copy = |from: &str, to: &str| {
        let done = run(&fake, &["cp", from, to]);
        assert_eq!((code(&done), text(&done.stdout), text(&done.stderr)), (0, "", ""), "{from} {to}");
    };
    copy(&path("tree/deep/file"), &inside("/tmp"));
    assert_eq!(fs::read(fake.root.join("tmp/file")).unwrap(), b"\0\xff");
    copy(&path("tree"), &inside("/tmp"));
    copy(&path("tree"), &inside("/tmp/other"));
    copy(&path("tree/."), &inside("/tmp/content"));
    for place in ["tree", "other", "content"] {
        let place = fake.root.join("tmp").join(place);
        assert_eq!(fs::read(place.join("deep/file")).unwrap(), b"\0\xff");
        assert_eq!(fs::read_link(place.join("link")).unwrap(), std::path::Path::new("deep/file"));
        assert_eq!(fs::metadata(place.join("tool")).unwrap().permissions().mode() & 0o777, 0o755);
    }
    copy(&inside("/tmp/tree"), &path("back"));
    assert_eq!(fs::read(here.path().join("back/deep/file")).unwrap(), b"\0\xff");
    copy(&inside("/tmp/tree/tool"), &path("back/"));
    assert_eq!(fs::metadata(here.path().join("back/tool")).unwrap().permissions().mode() & 0o777, 0o755);
    copy(&path("tree/tool"), &inside("/tmp/program"));
    assert_eq!(fs::metadata(fake.root.join("tmp/program")).unwrap().permissions().mode() & 0o777, 0o755);
    copy(&inside("/tmp/file"), "/dev/null");
    let printed = run(&fake, &["cp", &inside("/tmp/file"), "/dev/stdout"]);
    assert_eq!(printed.stdout, b"\0\xff");
    copy(&inside("/tmp/program"), &path("tree/link"));
    assert!(fs::read_link(path("tree/link")).is_ok(), "a link was replaced by what was copied to it");
}

#[test]
fn copies_that_make_no_sense_are_refused_and_leave_nothing() {
    let fake = Fake::start(1);
    let here = tempfile::tempdir().unwrap();
    let target = here.path().join("x").to_str().unwrap().to_owned();
    for line in [["cp", "a", "b"], ["cp", "i1:/a", "i2:/b"]] {
        let refused = run(&fake, &line);
        assert!(code(&refused) == 1 && text(&refused.stderr).contains("SANDBOX:PATH"), "{refused:?}");
    }
    let missing = run(&fake, &["cp", &format!("{}:/none", id(1)), &target]);
    assert_eq!((code(&missing), text(&missing.stderr)), (1, "atoll: it is not there\n"));
    let missing = run(&fake, &["cp", "/no/such/file", &format!("{}:/x", id(1))]);
    assert!(text(&missing.stderr).contains("/no/such/file"), "{missing:?}");
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0);
}

#[test]
fn logs_are_printed_whole_by_lines_and_followed() {
    let fake = Fake::start(1);
    assert_eq!(text(&run(&fake, &["logs", &id(1)]).stdout), "one\ntwo\nthree\n");
    assert_eq!(text(&run(&fake, &["logs", &id(1), "-n", "2"]).stdout), "two\nthree\n");
    assert_eq!(text(&run(&fake, &["logs", "-f", "--tail", "1", &id(1)]).stdout), "three\n");
}

#[test]
fn everything_is_removed_only_when_that_was_meant() {
    let fake = Fake::start(3);
    let refused = run(&fake, &["rm", "--all"]);
    assert!(code(&refused) == 1 && text(&refused.stderr).contains("-f is needed"), "{refused:?}");
    let mixed = run(&fake, &["rm", &id(1), &id(77)]);
    assert_eq!((code(&mixed), text(&mixed.stdout)), (1, format!("{}\n", id(1)).as_str()));
    assert_eq!(text(&mixed.stderr).lines().count(), 1);
    assert_eq!(code(&run(&fake, &["rm", "-f", &id(77)])), 0);
    let all = run(&fake, &["rm", "--all", "-f", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&all.stdout).unwrap();
    assert_eq!((code(&all), json[1]["id"].as_str()), (0, Some(id(3).as_str())));
}

#[test]
fn a_missing_server_and_a_missing_key_say_what_to_do() {
    let fake = Fake::start(0);
    let nobody = run(&fake, &["--url", "http://127.0.0.1:9", "ls"]);
    assert!(code(&nobody) == 1 && text(&nobody.stderr).contains("atoll serve"), "{nobody:?}");
    assert_eq!(text(&nobody.stderr).lines().count(), 1);
    let refused = run(&fake, &["--api-key", "wrong", "ls"]);
    assert!(code(&refused) == 1 && text(&refused.stderr).contains("ATOLL_API_KEY"), "{refused:?}");
    let wrong = run(&fake, &["--url", "nonsense", "ls"]);
    assert!(text(&wrong.stderr).contains("http://127.0.0.1:8080"), "{wrong:?}");
}

#[test]
fn the_configuration_file_goes_behind_the_environment() {
    let fake = Fake::start(0);
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("atoll")).unwrap();
    let file = home.path().join("atoll/config.toml");
    fs::write(&file, format!("url = \"{}\"\napi_key = \"filed\"\n", fake.url)).unwrap();
    let mut command = atoll(&fake, &["ls"]);
    command.env_remove("ATOLL_URL").env("XDG_CONFIG_HOME", home.path());
    assert!(command.status().unwrap().success());
    assert!(command.env("ATOLL_API_KEY", "given").status().unwrap().success());
    assert_eq!(fake.seen(|seen| seen.keys.clone()), [Some("filed".into()), Some("given".into())]);
    fs::write(&file, "urll = 1").unwrap();
    let wrong = command.output().unwrap();
    assert!(text(&wrong.stderr).contains("config.toml") && text(&wrong.stderr).contains("urll"), "{wrong:?}");
}

#[test]
fn a_terminal_is_raw_for_the_command_and_as_it_was_afterwards() {
    use rustix::{
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
        termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
    };
    let fake = Fake::start(1);
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = fs::File::options().read(true).write(true).open(name).unwrap();
    let size = |cols, rows| Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&slave, size(101, 33)).unwrap();
    let end = || Stdio::from(slave.try_clone().unwrap());
    let line = ["exec", "-t", &id(1), "--", "sh", "-c", "echo ready; cat; exit 5"];
    let mut child =
        atoll(&fake, &line).stdin(end()).stdout(end()).stderr(end()).process_group(0).spawn().unwrap();
    let mut typed = fs::File::from(master);
    let mut seen = String::new();
    let mut read_until = |what: &str| {
        let mut piece = [0; 256];
        while !seen.contains(what) {
            let count = typed.read(&mut piece).unwrap();
            seen.push_str(text(&piece[..count]));
        }
    };
    read_until("ready");
    let canonical = || tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ICANON);
    assert!(!canonical(), "keys are not passed on as they are typed");
    tcsetwinsize(&slave, size(77, 22)).unwrap();
    signal(&child, rustix::process::Signal::WINCH);
    while fake.seen(|seen| seen.resizes.is_empty()) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // A first signal ends the command behind the terminal too.
    signal(&child, rustix::process::Signal::TERM);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
    assert!(canonical(), "the terminal was left raw");
    let start = fake.seen(|seen| seen.starts.remove(0));
    assert_eq!((start.tty, start.cols, start.rows), (true, Some(101), Some(33)));
    assert_eq!(fake.seen(|seen| seen.resizes.clone()), [(77, 22)]);
}

#[test]
fn a_server_refuses_other_machines_without_tls_and_a_second_reader_of_its_port() {
    let fake = Fake::start(0);
    let refused = run(&fake, &["serve", "--listen", "0.0.0.0:0"]);
    assert!(code(&refused) == 1 && text(&refused.stderr).contains("--tls-cert"), "{refused:?}");
    let address = fake.url.trim_start_matches("http://");
    let taken = run(&fake, &["serve", "--listen", address, "--data", "/nowhere/at/all"]);
    assert!(code(&taken) == 1 && text(&taken.stderr).contains("--listen"), "{taken:?}");
}

#[test]
fn scripts_and_the_description_are_made_without_a_server() {
    let fake = Fake::start(0);
    let script = run(&fake, &["completions", "bash"]);
    assert!(code(&script) == 0 && text(&script.stdout).contains("_atoll"));
    let described: serde_json::Value = serde_json::from_slice(&run(&fake, &["openapi"]).stdout).unwrap();
    assert!(described["paths"]["/api/v1/sandboxes"].is_object());
    assert_eq!(code(&run(&fake, &["--version"])), 0);
    assert_eq!(code(&run(&fake, &["--help"])), 0);
    assert!(fake.seen(|seen| seen.requests.is_empty()));
}

#[test]
fn what_cannot_be_undone_waits_for_nobody_who_is_not_there() {
    let fake = Fake::start(2);
    let kept = tempfile::tempdir().unwrap();
    let data = kept.path().to_str().unwrap();
    for line in [vec!["destroy", "--data", data], vec!["rm", "--all"]] {
        let refused = run(&fake, &line);
        assert_eq!(code(&refused), 1);
        assert!(text(&refused.stderr).ends_with("-f is needed when not on a terminal\n"), "{refused:?}");
    }
    // A terminal to read from, and nobody who sees the question.
    let line = format!("{} destroy --data {data} 2>{data}/said", env!("CARGO_BIN_EXE_atoll"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::null());
    assert_eq!(command.status().unwrap().code(), Some(1));
    assert!(fs::read_to_string(kept.path().join("said")).unwrap().contains("-f is needed"));
}
