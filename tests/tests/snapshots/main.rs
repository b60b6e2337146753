//! Snapshots and forks: what is in them and what is not, whose they are, how much they may hold, and that neither a killed
//! server nor a full disk leaves anything half made. On both storages.

mod disks;
mod killed;

use anyhow::{Context, Result, ensure};
use atoll_client::{ListSnapshots, Sandbox as Handle};
use atoll_proto::api::{
    CreateKey, CreateSandbox, Fork, ForkSandbox, Phase, Role, Sandbox, Snapshot, TemplateSpec, Volume,
};
use atoll_tests::{Options, Run, Server, host, http::Http, server::wait_until, story};
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::{collections::BTreeSet, process::ExitCode, time::Duration};

fn main() -> ExitCode {
    story("snapshots", async |run: &mut Run| {
        let mut server = Server::start(Options::default()).await?;
        server.needs_one_machine("there are no snapshots")?;
        on(run, &mut server, "").await;
        run.case("copies_are_counted_apart", disks::counted(&server)).await;
        run.case("other_runtimes_have_them_too", runtimes(&server)).await;
        run.case("nothing_is_left_behind", given_up(server)).await;
        run.patient_case("a_full_disk", Duration::from_secs(600), disks::full_disk()).await;
        let mut server = Server::start(Options::without_btrfs()).await?;
        on(run, &mut server, "without_btrfs_").await;
        run.case("without_btrfs_a_larger_or_smaller_disk", disks::resized(&server)).await;
        run.case("without_btrfs_a_disk_without_room", disks::no_room(&server)).await;
        run.case("without_btrfs_nothing_is_left_behind", given_up(server)).await;
        Ok(())
    })
}

/// What is the same on both storages.
async fn on(run: &mut Run, server: &mut Server, with: &str) {
    let name = |case: &str| format!("{with}{case}");
    let patience = Duration::from_secs(600);
    run.case(&name("everything_of_the_files_is_kept"), contents(server)).await;
    run.case(&name("a_running_one_goes_on"), goes_on(server)).await;
    run.case(&name("paused_and_stopped_ones_too_and_no_others"), phases(server)).await;
    run.case(&name("copies_are_apart_and_outlive_it"), apart(server)).await;
    run.case(&name("how_it_runs_is_inherited"), inherited(server)).await;
    run.case(&name("lists_names_and_pages"), lists(server)).await;
    run.case(&name("one_tenants_are_not_anothers"), tenants(server)).await;
    run.case(&name("what_cannot_be_is_refused"), refused(server)).await;
    run.case(&name("volumes_are_not_in_it"), volumes(server)).await;
    run.case(&name("forks"), forks(server)).await;
    run.case(&name("forks_of_forks"), forks_of_forks(server)).await;
    run.case(&name("the_limit_holds_in_a_fork"), limit(server)).await;
    run.case(&name("the_image_below_stays"), image_stays(server)).await;
    run.case(&name("the_command_line"), command_line(server)).await;
    run.patient_case(&name("killed_in_the_middle"), patience, killed::killed(server)).await;
    run.case(&name("no_snapshot_is_left"), nothing_kept(server)).await;
}

async fn of(server: &Server, snapshot: &Snapshot) -> Result<Sandbox> {
    let image = Some(snapshot.reference.clone());
    server.create_with(CreateSandbox { image, ..CreateSandbox::default() }).await
}

async fn shell(server: &Server, id: &str, line: &str) -> Result<String> {
    let done = server.root_shell(id, line).await?;
    ensure!(done.exit.exit_code == 0, "{line}: {done:?}");
    Ok(done.stdout)
}

fn handle(server: &Server, sandbox: &Sandbox) -> Result<Handle> {
    Ok(server.client()?.sandbox(&sandbox.id))
}

async fn all(server: &Server) -> Result<Vec<Snapshot>> {
    Ok(server.client()?.snapshots(ListSnapshots::default()).try_collect().await?)
}

async fn remove(server: &Server, snapshot: &Snapshot) -> Result<()> {
    Ok(server.client()?.remove_snapshot(&snapshot.id).await?)
}

/// What the data directory has of snapshots, and which of sandboxes.
fn on_disk(server: &Server, what: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(server.data().join(what)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn sandboxes(forks: Vec<Fork>) -> Result<Vec<Sandbox>> {
    let made = |fork| match fork {
        Fork::Sandbox(sandbox) => Ok(*sandbox),
        Fork::Error(error) => anyhow::bail!("a fork failed: {error:?}"),
    };
    forks.into_iter().map(made).collect()
}

async fn fork(server: &Server, source: &Sandbox, count: i64) -> Result<Vec<Sandbox>> {
    let ask = ForkSandbox { count: Some(count), ..ForkSandbox::default() };
    sandboxes(handle(server, source)?.fork(&ask).await?)
}

/// Written and replaced files, deletions of the image's, owners, links of both kinds, holes, attributes, sockets, times.
const WRITE: &str = "set -e; cd /home/user; echo mine >note; chown user:user note; chmod 640 note; ln note hard; \
    ln -s /etc/hostname soft; truncate -s 100M hole; printf end >>hole; mkfifo pipe; rm -r /usr/share/doc /etc/issue; \
    mv /etc/passwd /etc/passwd- && cp -a /etc/passwd- /etc/passwd; echo changed >>/etc/bash.bashrc; \
    rm -r /var/log && mkdir /var/log && touch /var/log/new; touch -d @1000000000 old; \
    python3 -c \"import os,socket;os.setxattr('note','user.colour',b'blue');socket.socket(1).bind('sock')\"; \
    cp /bin/true setuid && chmod 4755 setuid; mkdir -m 1777 sticky; seq 200000 >numbers";
const READ: &str = "cd /home/user; cat note; stat -c '%U:%G %a %h %i' note hard; readlink soft; stat -c '%s %b' hole; \
    tail -c 3 hole; stat -c '%F' pipe sock; ls -d /usr/share/doc /etc/issue 2>&1; ls -A /var/log; stat -c '%U %Y' old; \
    python3 -c \"import os;print(os.getxattr('note','user.colour'))\"; stat -c '%U %a' setuid sticky; \
    md5sum numbers /etc/bash.bashrc; stat -c '%U %a' / /etc /home/user /tmp /usr /root; find / -xdev -nouser | head";

/// Inodes may differ; two names of one file have one.
fn without_inodes(text: &str) -> Result<String> {
    let mut inodes = BTreeSet::new();
    let line = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
        [owner, mode, links, inode] if owner == "user:user" => {
            inodes.insert(inode.to_owned());
            format!("{owner} {mode} {links}")
        }
        _ => line.to_owned(),
    };
    let text: Vec<String> = text.lines().map(line).collect();
    ensure!(inodes.len() == 1, "the two names are of {} files: {text:?}", inodes.len());
    Ok(text.join("\n"))
}

async fn contents(server: &Server) -> Result<()> {
    let source = server.create().await?;
    shell(server, &source.id, WRITE).await?;
    let expected = without_inodes(&server.root_shell(&source.id, READ).await?.stdout)?;
    let taken = handle(server, &source)?.snapshot(None).await?;
    ensure!(taken.sandbox == source.id && taken.image == "base", "{taken:?}");
    let size = taken.size.context("not counted")?;
    ensure!((1 << 20..64 << 20).contains(&size), "{size} bytes");
    server.delete(&source.id).await?;
    for _ in 0..2 {
        let copy = of(server, &taken).await?;
        let found = without_inodes(&server.root_shell(&copy.id, READ).await?.stdout)?;
        ensure!(found == expected, "{found}\n instead of\n{expected}");
        ensure!(shell(server, &copy.id, "cat /etc/hostname").await?.trim() == copy.id);
        ensure!(server.output(&copy.id, &["sudo", "id", "-u"]).await? == "0");
        // Everything can be changed once more.
        let again = "set -e; rm -r /usr/lib/python3/dist-packages /var/log; mkdir -p /var/log /usr/share/doc/x; rm /home/user/note; \
                     mv /home/user/sticky /srv/moved; chown user /srv/moved; echo y >>/etc/bash.bashrc; rm -rf /opt; sync";
        shell(server, &copy.id, again).await?;
        server.delete(&copy.id).await?;
    }
    remove(server, &taken).await
}

async fn goes_on(server: &Server) -> Result<()> {
    let source = server.create().await?;
    let line = "i=0; while :; do i=$((i+1)); echo $i >/home/user/count.new; mv /home/user/count.new /home/user/count; done";
    server.cli()?.output(&["exec", "-d", &source.id, "--", "sh", "-c", line]).await?;
    let count = async |id: &str| {
        Ok::<_, anyhow::Error>(server.output(id, &["cat", "/home/user/count"]).await?.parse::<u64>()?)
    };
    wait_until("it counts", async || Ok(count(&source.id).await? > 10)).await?;
    let before = count(&source.id).await?;
    let taken = handle(server, &source)?.snapshot(None).await?;
    let after = count(&source.id).await?;
    wait_until("it counts on", async || Ok(count(&source.id).await? > after)).await?;
    let copy = of(server, &taken).await?;
    let there = count(&copy.id).await?;
    ensure!((before..=after).contains(&there), "{there} is not between {before} and {after}");
    ensure!(count(&copy.id).await? == there, "a process of the source runs in the copy");
    server.delete(&copy.id).await?;
    server.delete(&source.id).await?;
    remove(server, &taken).await
}

async fn phases(server: &Server) -> Result<()> {
    let source = server.create().await?;
    let it = handle(server, &source)?;
    for phase in [Phase::Paused, Phase::Stopped] {
        server.output(&source.id, &["sh", "-c", &format!("echo {phase:?} >/home/user/phase")]).await?;
        let resting = if phase == Phase::Paused { it.pause().await? } else { it.stop().await? };
        ensure!(resting.phase == phase, "{:?}", resting.phase);
        let taken = it.snapshot(None).await?;
        ensure!(it.get().await?.phase == phase, "it was moved");
        let copy = of(server, &taken).await?;
        ensure!(server.output(&copy.id, &["cat", "/home/user/phase"]).await? == format!("{phase:?}"));
        server.delete(&copy.id).await?;
        remove(server, &taken).await?;
        if phase == Phase::Paused {
            it.resume().await?
        } else {
            it.start().await?
        };
    }
    ensure!(server.output(&source.id, &["cat", "/home/user/phase"]).await? == "Stopped");
    for pid in server.processes(&source.id)? {
        host::signal(pid, rustix::process::Signal::KILL)?;
    }
    wait_until("it has failed", async || Ok(it.get().await?.phase == Phase::Failed)).await?;
    let refused = it.snapshot(None).await.err().context("one that failed was snapshotted")?;
    ensure!(refused.status() == Some(409), "{refused:?}");
    server.delete(&source.id).await
}

async fn apart(server: &Server) -> Result<()> {
    let source = server.create().await?;
    shell(server, &source.id, "echo one >/srv/note; seq 1000 >/srv/numbers").await?;
    let taken = handle(server, &source)?.snapshot(None).await?;
    let (first, second) = (of(server, &taken).await?, of(server, &taken).await?);
    shell(server, &first.id, "echo two >/srv/note; rm /srv/numbers").await?;
    shell(server, &source.id, "rm -r /srv").await?;
    for id in [&second.id, &of(server, &taken).await?.id] {
        ensure!(
            shell(server, id, "cat /srv/note; wc -l </srv/numbers").await? == "one\n1000\n",
            "another's change"
        );
    }
    remove(server, &taken).await?;
    ensure!(on_disk(server, "disk/snapshots").is_empty() && on_disk(server, "snapshots").is_empty());
    server.delete(&source.id).await?;
    let it = handle(server, &first)?;
    it.stop().await?;
    it.start().await?;
    ensure!(shell(server, &first.id, "cat /srv/note; ls /srv").await? == "two\nnote\n");
    server.clear().await
}

async fn inherited(server: &Server) -> Result<()> {
    let start = ["sh", "-c", "echo started >>/home/user/starts; exec sleep 1000"].map(str::to_owned).to_vec();
    let ask = CreateSandbox {
        env: [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())].into(),
        workdir: Some("/srv".into()),
        user: Some("root".into()),
        start_command: Some(start),
        ..CreateSandbox::default()
    };
    let source = server.create_with(ask).await?;
    let starts = async |id: &str| {
        Ok::<_, anyhow::Error>(shell(server, id, "cat /home/user/starts 2>&1").await?.lines().count())
    };
    wait_until("it has started", async || Ok(starts(&source.id).await? == 1)).await?;
    let taken = handle(server, &source)?.snapshot(None).await?;
    let ask = CreateSandbox {
        image: Some(taken.reference.clone()),
        env: [("B".to_owned(), "3".to_owned())].into(),
        ..CreateSandbox::default()
    };
    let copy = server.create_with(ask).await?;
    remove(server, &taken).await?;
    let line = "echo $A $B $PWD $(id -un)";
    let found = server.output(&copy.id, &["sh", "-c", line]).await?;
    ensure!(found == "1 3 /srv root", "{found}");
    wait_until("it has started too", async || Ok(starts(&copy.id).await? == 2)).await?;
    let it = handle(server, &copy)?;
    it.stop().await?;
    it.start().await?;
    wait_until("it has started again", async || Ok(starts(&copy.id).await? == 3)).await?;
    ensure!(server.output(&copy.id, &["sh", "-c", line]).await? == found);
    server.clear().await
}

async fn lists(server: &Server) -> Result<()> {
    let (one, two) = (server.create().await?, server.create().await?);
    let mut taken = Vec::new();
    for (source, name) in [(&one, Some("tools:v1")), (&one, Some("tools:v2")), (&two, None)] {
        taken.push(handle(server, source)?.snapshot(name).await?);
    }
    let client = server.client()?;
    let found = async |query: ListSnapshots| {
        let all: Vec<Snapshot> = client.snapshots(query).try_collect().await?;
        Ok::<_, anyhow::Error>(all.into_iter().map(|it| it.id).collect::<Vec<_>>())
    };
    let any = ListSnapshots::default;
    let ids = |numbers: &[usize]| numbers.iter().map(|n| taken[*n].id.clone()).collect::<Vec<_>>();
    ensure!(found(any()).await? == ids(&[2, 1, 0]), "newest first");
    ensure!(found(ListSnapshots { page_size: Some(1), ..any() }).await? == ids(&[2, 1, 0]), "page by page");
    ensure!(found(ListSnapshots { sandbox: Some(one.id.clone()), ..any() }).await? == ids(&[1, 0]));
    ensure!(found(ListSnapshots { name: Some("tools".into()), ..any() }).await? == ids(&[1, 0]));
    ensure!(found(ListSnapshots { name: Some("tools:v1".into()), ..any() }).await? == ids(&[0]));
    ensure!(found(ListSnapshots { name: Some("tool".into()), ..any() }).await?.is_empty());
    ensure!(client.snapshot(&taken[0].id).await? == taken[0]);
    for it in &taken {
        remove(server, it).await?;
    }
    let gone = client.snapshot(&taken[0].id).await.err().context("it is still there")?;
    ensure!(gone.is_not_found() && found(any()).await?.is_empty());
    server.clear().await
}

async fn other_tenant(server: &Server) -> Result<Http> {
    let ask = CreateKey { name: "other".into(), tenant: Some("other".into()), role: Some(Role::Member) };
    let secret = server.client()?.create_key(&ask).await?.secret.context("no secret")?;
    Ok(server.http()?.with_key(Some(&secret)))
}

/// To others, what is there and what is not look the same.
async fn tenants(server: &Server) -> Result<()> {
    let source = server.create().await?;
    let taken = handle(server, &source)?.snapshot(Some("mine")).await?;
    let theirs = other_tenant(server).await?;
    let nobodys = format!("s{}", "x".repeat(19));
    let told = |answer: &Value| answer.to_string().replace(&taken.id, &nobodys);
    let same = |one: &Value, other: &Value| told(one) == told(other);
    for path in ["/api/v1/snapshots/", "/templates/"] {
        let one = theirs.delete(&format!("{path}{}", taken.id)).await?.expect(404)?;
        ensure!(same(&one, &theirs.delete(&format!("{path}{nobodys}")).await?.expect(404)?), "{one}");
    }
    let one = theirs.get(&format!("/api/v1/snapshots/{}", taken.id)).await?.expect(404)?;
    ensure!(same(&one, &theirs.get(&format!("/api/v1/snapshots/{nobodys}")).await?.expect(404)?), "{one}");
    let ask = |id: &str| json!({"image": format!("snapshot:{id}")});
    let one = theirs.post("/api/v1/sandboxes", ask(&taken.id)).await?.expect(400)?;
    ensure!(one["code"] == "snapshot_not_found", "{one}");
    ensure!(same(&one, &theirs.post("/api/v1/sandboxes", ask(&nobodys)).await?.expect(400)?), "{one}");
    for named in [taken.id.as_str(), "mine"] {
        theirs.post("/sandboxes", json!({"templateID": named})).await?.expect(404)?;
    }
    ensure!(theirs.get("/api/v1/snapshots").await?.expect(200)?["items"] == json!([]));
    ensure!(theirs.get("/snapshots").await?.expect(200)? == json!([]));
    theirs.post(&format!("/api/v1/sandboxes/{}/snapshots", source.id), json!({})).await?.expect(404)?;
    theirs.post(&format!("/api/v1/sandboxes/{}/fork", source.id), json!({})).await?.expect(404)?;
    ensure!(server.list().await?.len() == 1 && all(server).await?.len() == 1);
    remove(server, &taken).await?;
    server.clear().await
}

async fn refused(server: &Server) -> Result<()> {
    let source = server.create().await?;
    let (http, at) = (server.http()?, format!("/api/v1/sandboxes/{}", source.id));
    for (path, body, field) in [
        ("snapshots", json!({"name": "a b"}), "name"),
        ("snapshots", json!({"nam": "x"}), "nam"),
        ("snapshots", json!({"name": source.id}), "name"),
        ("fork", json!({"count": 0}), "count"),
        ("fork", json!({"count": 21}), "count"),
        ("fork", json!({"ttl": 0}), "ttl"),
    ] {
        let told = http.post(&format!("{at}/{path}"), body).await?.expect(400)?;
        ensure!(told["field"] == field, "{told}");
    }
    for (query, field) in [("limit=0", "limit"), ("cursor=zz", "cursor"), ("sandbox=x", "sandbox")] {
        let told = http.get(&format!("/api/v1/snapshots?{query}")).await?.expect(400)?;
        ensure!(told["field"] == field, "{told}");
    }
    let told = http.post("/api/v1/sandboxes", json!({"image": "snapshot:latest"})).await?.expect(400)?;
    ensure!(told["field"] == "image", "{told}");
    http.get("/api/v1/snapshots/..%2F..%2Fetc").await?.expect(404)?;
    let nobody = format!("/api/v1/sandboxes/i{}", "x".repeat(19));
    http.post(&format!("{nobody}/snapshots"), json!({})).await?.expect(404)?;
    http.post(&format!("{nobody}/fork"), json!({})).await?.expect(404)?;
    server.clear().await?;
    ensure!(on_disk(server, "disk/snapshots").is_empty() && on_disk(server, "disk/sandboxes").is_empty());
    Ok(())
}

async fn volumes(server: &Server) -> Result<()> {
    let home = Volume { path: "/data".into(), size: Some("32Mi".into()) };
    let template = TemplateSpec {
        image: "base".into(),
        disk: Some("64Mi".into()),
        volumes: [("data".to_owned(), home)].into(),
        ..TemplateSpec::default()
    };
    server.client()?.put_template("with-data", &template).await?;
    let (template, owner) = (Some("with-data".to_owned()), Some("alice".to_owned()));
    let source = server.create_with(CreateSandbox { template, owner, ..CreateSandbox::default() }).await?;
    shell(server, &source.id, "echo secret >/data/file; echo plain >/srv/file").await?;
    let taken = handle(server, &source)?.snapshot(None).await?;
    let copy = of(server, &taken).await?;
    ensure!(shell(server, &copy.id, "ls -A /data; cat /srv/file").await? == "plain\n");
    let refused = server
        .http()?
        .post(&format!("/api/v1/sandboxes/{}/fork", source.id), json!({}))
        .await?
        .expect(409)?;
    ensure!(refused["code"] == "has_volumes", "{refused}");
    server.clear().await?;
    remove(server, &taken).await?;
    server.client()?.remove_volume("alice", "data").await?;
    Ok(server.client()?.remove_template("with-data").await?)
}

async fn forks(server: &Server) -> Result<()> {
    let ask = CreateSandbox {
        cpu: Some("500m".into()),
        memory: Some("256Mi".into()),
        labels: [("team".to_owned(), "x".to_owned())].into(),
        metadata: [("any thing".to_owned(), "ü".to_owned())].into(),
        env: [("A".to_owned(), "1".to_owned())].into(),
        ttl: Some(Some(3600)),
        ..CreateSandbox::default()
    };
    let source = server.create_with(ask).await?;
    shell(server, &source.id, "echo before >/srv/note; rm /etc/issue").await?;
    let forks = fork(server, &source, 3).await?;
    ensure!(forks.iter().map(|it| &it.id).collect::<BTreeSet<_>>().len() == 3);
    for it in &forks {
        ensure!((&it.cpu, &it.memory, &it.disk) == (&source.cpu, &source.memory, &source.disk), "{it:?}");
        ensure!(
            (&it.labels, &it.metadata, &it.env) == (&source.labels, &source.metadata, &source.env),
            "{it:?}"
        );
        ensure!(it.phase == Phase::Running && it.ttl == Some(3600), "{it:?}");
        let found =
            shell(server, &it.id, "cat /srv/note; ls /etc/issue 2>&1; echo $A; echo mine >/srv/note").await?;
        ensure!(
            found.starts_with("before\n") && found.contains("No such file") && found.ends_with("1\n"),
            "{found}"
        );
    }
    ensure!(shell(server, &source.id, "cat /srv/note").await? == "before\n");
    ensure!(all(server).await?.is_empty() && on_disk(server, "disk/snapshots").is_empty());
    ensure!(on_disk(server, "snapshots").is_empty(), "the snapshot in between is remembered");
    let e2b = server
        .http()?
        .post(&format!("/sandboxes/{}/fork", source.id), json!({"count": 2}))
        .await?
        .expect(201)?;
    let ids: Vec<&str> =
        e2b.as_array().into_iter().flatten().filter_map(|it| it["sandbox"]["sandboxID"].as_str()).collect();
    ensure!(ids.len() == 2, "{e2b}");
    for id in ids {
        ensure!(shell(server, id, "cat /srv/note").await? == "before\n");
    }
    server.clear().await
}

async fn forks_of_forks(server: &Server) -> Result<()> {
    let mut source = server.create().await?;
    for n in 0..4 {
        shell(
            server,
            &source.id,
            &format!("echo {n} >>/srv/lines; rm -rf /usr/share/locale/{n}*; chown user /srv/lines"),
        )
        .await?;
        let next = fork(server, &source, 1).await?.pop().context("no fork")?;
        server.delete(&source.id).await?;
        source = next;
    }
    ensure!(
        shell(server, &source.id, "cat /srv/lines; stat -c %U /srv/lines").await? == "0\n1\n2\n3\nuser\n"
    );
    let taken = handle(server, &source)?.snapshot(None).await?;
    ensure!(taken.image == "base", "{taken:?}");
    remove(server, &taken).await?;
    server.clear().await
}

async fn limit(server: &Server) -> Result<()> {
    let disk = Some("48Mi".to_owned());
    let source = server.create_with(CreateSandbox { disk, ..CreateSandbox::default() }).await?;
    shell(server, &source.id, "dd if=/dev/urandom of=/srv/first bs=1M count=8; sync").await?;
    let copy = fork(server, &source, 1).await?.pop().context("no fork")?;
    let filled =
        server.root_shell(&copy.id, "dd if=/dev/urandom of=/srv/filler bs=1M count=512; sync").await?;
    let told = filled.stderr.to_lowercase();
    ensure!(told.contains("no space left") || told.contains("quota exceeded"), "{filled:?}");
    let size: u64 = server.output(&copy.id, &["stat", "-c", "%s", "/srv/filler"]).await?.parse()?;
    ensure!((16 << 20..49 << 20).contains(&size), "{size} bytes were written");
    // One that is full can be kept and gone on with.
    let full = fork(server, &copy, 1).await?.pop().context("no fork of a full one")?;
    let again = "rm /srv/filler && dd if=/dev/zero of=/srv/again bs=1M count=8 && sync && md5sum </srv/first";
    let sums =
        (shell(server, &full.id, again).await?, shell(server, &source.id, "md5sum </srv/first").await?);
    ensure!(sums.0 == sums.1, "{sums:?}");
    shell(server, &source.id, "dd if=/dev/zero of=/srv/mine bs=1M count=8").await?;
    server.clear().await
}

async fn image_stays(server: &Server) -> Result<()> {
    let source = server.create().await?;
    let taken = handle(server, &source)?.snapshot(None).await?;
    server.delete(&source.id).await?;
    let client = server.client()?;
    let refused =
        client.remove_image("base").await.err().context("the image below a snapshot was removed")?;
    ensure!(refused.status() == Some(409), "{refused:?}");
    client.prune_images().await?;
    let copy = of(server, &taken).await?;
    remove(server, &taken).await?;
    client.prune_images().await?;
    ensure!(client.images().await?.iter().any(|image| image.reference == "base"), "a sandbox needs it");
    let it = handle(server, &copy)?;
    it.stop().await?;
    it.start().await?;
    server.clear().await
}

async fn command_line(server: &Server) -> Result<()> {
    let (cli, source) = (server.cli()?, server.create().await?);
    shell(server, &source.id, "echo kept >/srv/note").await?;
    let id = cli.output(&["snapshot", "take", &source.id, "--name", "work:v1"]).await?;
    let listed = cli.output(&["snapshot", "ls", "--name", "work"]).await?;
    ensure!(listed.contains(&id) && listed.contains("work:v1"), "{listed}");
    let disk = if on_disk(server, "disk/sandboxes").is_empty() { "1Gi" } else { "64Mi" };
    let image = format!("snapshot:{id}");
    let done = cli.run(&["run", "--disk", disk, &image, "--", "cat", "/srv/note"]).await?;
    ensure!((done.code, done.stdout.as_str()) == (0, "kept\n"), "{done:?}");
    let forks = cli.output(&["fork", &source.id, "-n", "2", "--ttl", "1h"]).await?;
    ensure!(forks.lines().count() == 2, "{forks}");
    ensure!(cli.output(&["snapshot", "rm", &id]).await? == id);
    ensure!(cli.run(&["snapshot", "rm", &id]).await?.code != 0);
    server.clear().await
}

async fn nothing_kept(server: &Server) -> Result<()> {
    ensure!(all(server).await?.is_empty());
    for place in ["disk/snapshots", "snapshots", "disk/sandboxes"] {
        let left = on_disk(server, place);
        ensure!(left.is_empty(), "{place}: {left:?}");
    }
    Ok(())
}

/// A directory goes with the snapshots that it has.
async fn given_up(server: Server) -> Result<()> {
    let source = server.create().await?;
    handle(&server, &source)?.snapshot(None).await?;
    server.close().await
}

/// A snapshot does not mind what ran its source or runs its copies.
async fn runtimes(server: &Server) -> Result<()> {
    let with = |runtime: Option<&str>| TemplateSpec {
        image: "base".into(),
        runtime: runtime.map(str::to_owned),
        ..TemplateSpec::default()
    };
    let client = server.client()?;
    client.put_template("runc", &with(Some("runc"))).await?;
    let of_template = |name: &str| CreateSandbox::of_template(name);
    let source = match server.create_with(of_template("runc")).await {
        Err(error) if error.to_string().contains("runc") => {
            return Err(atoll_tests::Skip(format!("no runc: {error}")).into());
        }
        made => made?,
    };
    shell(server, &source.id, "echo kept >/srv/note; chown user /srv/note; rm /etc/issue").await?;
    let first = handle(server, &source)?.snapshot(None).await?;
    let copy = of(server, &first).await?;
    let read = "cat /srv/note; stat -c %U /srv/note; ls /etc/issue 2>/dev/null; echo more >>/srv/note; rm /etc/debian_version";
    ensure!(shell(server, &copy.id, read).await? == "kept\nuser\n");
    let second = handle(server, &copy)?.snapshot(None).await?;
    let back = TemplateSpec { image: second.reference.clone(), ..with(Some("runc")) };
    client.put_template("back", &back).await?;
    let back = server.create_with(of_template("back")).await?;
    ensure!(
        shell(server, &back.id, "cat /srv/note; ls /etc/debian_version 2>/dev/null; id -u").await?
            == "kept\nmore\n0\n"
    );
    server.clear().await?;
    for it in [first, second] {
        remove(server, &it).await?;
    }
    client.remove_template("runc").await?;
    Ok(client.remove_template("back").await?)
}
