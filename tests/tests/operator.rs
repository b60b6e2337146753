//! Sandbox objects on a real cluster, with nothing but `kubectl` and the operator: what becomes of them, what is refused
//! and how that is told, what survives, and what cannot be reached from inside.

use anyhow::{Context, Result, ensure};
use atoll_tests::{
    Run,
    cluster::Operator,
    stage::{NS, Stage, home},
    story,
};
use serde_json::json;
use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    story("operator", async |run: &mut Run| {
        let stage = Stage::set("atoll-operator")?;
        let strict = [("atoll.dev/tenant", "strict"), ("atoll.dev/strict", "true")];
        stage.cluster.namespace("tenant-strict", &strict)?;
        let mut operator = stage.operator("one", &[])?;
        run.case("an_object_alone_becomes_a_sandbox", alone(&stage)).await;
        run.case("explain_reads_well", explain(&stage)).await;
        run.case("what_cannot_be_stored_is_refused_at_once", refused_by_rules(&stage)).await;
        run.case("what_cannot_be_made_says_why", cannot_be_made(&stage)).await;
        run.case("an_exhausted_quota_is_named", quota(&stage)).await;
        run.case("pause_holds_processes_and_resume_lets_them_go_on", pause(&stage)).await;
        run.case("stop_and_start", stop_and_start(&stage)).await;
        run.case("a_pod_that_is_deleted_comes_again", heals(&stage)).await;
        run.case("volumes_outlive_sandboxes", volumes(&stage)).await;
        run.case("a_volume_has_one_sandbox_at_a_time", one_at_a_time(&stage)).await;
        run.case("a_template_may_go_while_it_is_in_use", template_gone(&stage)).await;
        run.case("strict_tenants_have_no_root", strict_tenant(&stage)).await;
        run.case("walls_of_the_network", walls(&stage)).await;
        run.case("no_credential_is_inside", no_credential(&stage)).await;
        run.case("an_operator_that_is_killed_leaks_and_loses_nothing", killed(&stage, &mut operator)).await;
        run.case("a_second_operator_takes_over", takes_over(&stage, &mut operator)).await;
        run.case("a_drained_node_gives_its_sandboxes_to_another", drained(&stage)).await;
        run.case("a_namespace_that_goes_takes_everything_along", namespace_gone(&stage)).await;
        drop(operator);
        run.case("nothing_is_left_behind", async { stage.strike() }).await;
        Ok(())
    })
}

async fn alone(stage: &Stage) -> Result<()> {
    let pod = stage.run(NS, "demo", json!({ "env": { "HELLO": "world" }, "ports": { "web": 80 } })).await?;
    let seen = stage.inside(&pod, "cat /proc/1/comm; id -u")?;
    ensure!(seen == "atoll-agent\n0", "{seen}");
    let status = stage.cluster.get(NS, "sandbox", "demo")?["status"].clone();
    let ready = status["conditions"].as_array().context("no conditions")?;
    let ready = ready.iter().find(|it| it["type"] == "Ready").context("no condition Ready")?;
    ensure!(ready["status"] == "True" && status["address"].is_string(), "{status}");
    let image = stage.cluster.get(NS, "pod", &pod)?["spec"]["containers"][0]["image"].clone();
    ensure!(image.as_str().is_some_and(|image| image.contains("@sha256:")), "{image} is not pinned");
    let events =
        stage.cluster.kubectl(&["-n", NS, "get", "events", "--field-selector=involvedObject.name=demo"])?;
    ensure!(events.contains("Started"), "{events}");
    stage.delete(NS, "demo")?;
    let left = stage.left()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

async fn explain(stage: &Stage) -> Result<()> {
    let text = stage.cluster.kubectl(&["explain", "sandbox.spec"])?;
    for words in ["template", "The user it belongs to", "startCommand", "deadline"] {
        ensure!(text.contains(words), "{words} is not in {text}");
    }
    let columns = stage.cluster.kubectl(&["-n", NS, "get", "sbx,sbt"]);
    ensure!(columns.is_ok(), "short names: {columns:?}");
    let all = stage.cluster.kubectl(&["get", "atoll", "-A"]);
    ensure!(all.is_ok(), "category: {all:?}");
    Ok(())
}

/// By the definitions' own rules, before anything is stored.
async fn refused_by_rules(stage: &Stage) -> Result<()> {
    let cases = [
        (json!({ "image": null }), "needs a template or an image"),
        (json!({ "tier": "huge" }), "tier"),
        (json!({ "ports": { "a-b": 80 } }), "port's name"),
        (json!({ "ports": { "web": 0 } }), "1 to 65535"),
        (json!({ "volumes": { "home": { "path": "/home/user" } } }), "belong to an owner"),
        (json!({ "owner": "alice", "volumes": { "home": { "path": "relative" } } }), "absolute path"),
        (json!({ "network": { "mode": "open" } }), "mode"),
        (json!({ "state": "Sleeping" }), "state"),
    ];
    for (spec, words) in cases {
        let said = stage.cluster.apply_fails(&stage.sandbox(NS, "bad", spec.clone()))?;
        ensure!(said.contains(words), "{spec}: {said}");
    }
    Ok(())
}

/// What only the cluster and the registry know.
async fn cannot_be_made(stage: &Stage) -> Result<()> {
    let no_image = format!("{}-none:1", stage.busybox.trim_end_matches(":1"));
    stage.cluster.apply(&stage.template("gone-runtime", json!({ "runtime": "no-such" })))?;
    let storage =
        json!({ "pod": { "storageClass": "no-such" }, "volumes": { "home": { "path": "/home/u" } } });
    stage.cluster.apply(&stage.template("gone-storage", storage))?;
    let cases = [
        (json!({ "image": null, "template": "no-such" }), "template_not_found", "no-such"),
        (json!({ "image": no_image }), "image_not_found", "no image"),
        (
            json!({ "image": null, "template": "gone-runtime" }),
            "runtime_class_not_found",
            "RuntimeClass \"no-such\"",
        ),
        (
            json!({ "image": null, "template": "gone-storage", "owner": "a" }),
            "storage_class_not_found",
            "StorageClass",
        ),
        (json!({ "cpu": "1000" }), "invalid", "cpu"),
        (json!({ "memory": "lots" }), "invalid", "memory"),
        (json!({ "network": { "allow": ["169.254.169.254"] } }), "invalid", "never reachable"),
        (json!({ "network": { "allow": ["nowhere"] } }), "invalid", "network.allow"),
    ];
    for (spec, code, words) in cases {
        stage.cluster.apply(&stage.sandbox(NS, "bad", spec.clone()))?;
        let reason = stage.cluster.phase(NS, "bad", "Failed").await?["status"]["reason"].clone();
        let message = reason["message"].as_str().unwrap_or_default();
        ensure!(reason["code"] == code && message.contains(words), "{spec}: {reason}");
        stage.delete(NS, "bad")?;
    }
    let pods = stage.cluster.list(NS, "pods")?;
    ensure!(pods.is_empty(), "{pods:?}");
    Ok(())
}

async fn quota(stage: &Stage) -> Result<()> {
    let quota = json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "small", "namespace": NS },
        "spec": { "hard": { "pods": "1" } } });
    let pod = stage.run(NS, "first", json!({})).await?;
    stage.cluster.apply(&quota)?;
    let used =
        || Ok(stage.cluster.get(NS, "resourcequota", "small")?["status"]["used"]["pods"].as_str().map(drop));
    stage.cluster.until("the quota to be counted", used).await?;
    for (name, spec) in [
        ("second", json!({})),
        (
            "third",
            json!({ "owner": "quota", "volumes": { "home": { "path": "/home/user", "size": "16Mi" } } }),
        ),
    ] {
        stage.cluster.apply(&stage.sandbox(NS, name, spec))?;
        let reason = stage.cluster.phase(NS, name, "Failed").await?["status"]["reason"].clone();
        ensure!(reason["code"] == "quota_exceeded", "{reason}");
        ensure!(
            reason["message"].as_str().is_some_and(|it| it.contains("exceeded quota: small")),
            "{reason}"
        );
    }
    stage.cluster.kubectl(&["-n", NS, "delete", "resourcequota", "small"])?;
    stage.cluster.phase(NS, "second", "Running").await.context("it is tried again when there is room")?;
    ensure!(!pod.is_empty());
    ["first", "second", "third"].iter().try_for_each(|name| stage.delete(NS, name))?;
    stage.delete_claims()
}

async fn pause(stage: &Stage) -> Result<()> {
    let tick = json!(["/bin/sh", "-c", "while :; do echo >>/ticks; sleep 0.05; done"]);
    let pod = stage.run(NS, "rest", json!({ "startCommand": tick })).await?;
    stage.want("rest", "Paused")?;
    stage.cluster.phase(NS, "rest", "Paused").await?;
    let ticks = || stage.inside(&pod, "wc -c </ticks");
    let (first, second) = (ticks()?, {
        tokio::time::sleep(Duration::from_millis(400)).await;
        ticks()?
    });
    ensure!(first == second, "it ticks on: {first}, {second}");
    stage.want("rest", "Running")?;
    stage.cluster.phase(NS, "rest", "Running").await?;
    stage.cluster.until("it to tick again", || Ok((ticks()? != second).then_some(()))).await?;
    stage.delete(NS, "rest")
}

async fn stop_and_start(stage: &Stage) -> Result<()> {
    stage.run(NS, "still", json!({})).await?;
    stage.want("still", "Stopped")?;
    stage.cluster.phase(NS, "still", "Stopped").await?;
    let pods = stage.cluster.list(NS, "pods")?;
    ensure!(pods.is_empty(), "{pods:?}");
    stage.want("still", "Running")?;
    stage.cluster.phase(NS, "still", "Running").await?;
    stage.delete(NS, "still")
}

async fn heals(stage: &Stage) -> Result<()> {
    for (name, spec) in [("plain", json!({})), ("kept", json!({ "owner": "heal", "volumes": home("16Mi") }))]
    {
        let pod = stage.run(NS, name, spec).await?;
        let uid =
            |pod: &str| Ok::<_, anyhow::Error>(stage.cluster.get(NS, "pod", pod)?["metadata"]["uid"].clone());
        let first = uid(&pod)?;
        stage.cluster.kubectl(&["-n", NS, "delete", "pod", &pod])?;
        let other = || Ok(uid(&pod).ok().filter(|uid| *uid != first));
        stage.cluster.until("another pod", other).await?;
        stage.cluster.phase(NS, name, "Running").await?;
        stage.delete(NS, name)?;
    }
    stage.delete_claims()
}

async fn volumes(stage: &Stage) -> Result<()> {
    let spec = || json!({ "owner": "Alice@example.com", "volumes": home("32Mi") });
    let pod = stage.run(NS, "keeps", spec()).await?;
    stage.inside(&pod, "echo precious >/home/user/file")?;
    stage.delete(NS, "keeps")?;
    let left = stage.left()?;
    ensure!(left.is_empty(), "{left:?}");
    let claims = stage.cluster.list(NS, "pvc")?;
    ensure!(
        claims.len() == 1
            && claims[0]["metadata"]["annotations"]["atoll.dev/owner-name"] == "Alice@example.com"
    );
    let pod = stage.run(NS, "again", spec()).await?;
    let kept = stage.inside(&pod, "cat /home/user/file")?;
    ensure!(kept == "precious", "{kept}");
    stage.want("again", "Stopped")?;
    stage.cluster.phase(NS, "again", "Stopped").await?;
    stage.want("again", "Running")?;
    stage.cluster.phase(NS, "again", "Running").await?;
    ensure!(stage.inside(&pod, "cat /home/user/file")? == "precious");
    stage.delete(NS, "again")?;
    stage.delete_claims()
}

async fn one_at_a_time(stage: &Stage) -> Result<()> {
    let spec = || json!({ "owner": "bob", "volumes": home("16Mi") });
    let names = ["left", "right"];
    names.iter().try_for_each(|name| stage.cluster.apply(&stage.sandbox(NS, name, spec())).map(drop))?;
    let phases = || {
        let phase =
            |name| Ok::<_, anyhow::Error>(stage.cluster.get(NS, "sandbox", name)?["status"]["phase"].clone());
        let (left, right) = (phase("left")?, phase("right")?);
        Ok([("left", "right", &left, &right), ("right", "left", &right, &left)]
            .iter()
            .find_map(|(a, b, x, y)| (**x == "Running" && **y == "Failed").then_some((*a, *b))))
    };
    let (has, waits) = stage.cluster.until("one to run and one to be refused", phases).await?;
    let reason = stage.cluster.get(NS, "sandbox", waits)?["status"]["reason"].clone();
    ensure!(reason["code"] == "volume_in_use", "{reason}");
    stage.delete(NS, has)?;
    stage.cluster.phase(NS, waits, "Running").await?;
    stage.delete(NS, waits)?;
    stage.delete_claims()
}

async fn template_gone(stage: &Stage) -> Result<()> {
    stage.cluster.apply(&stage.template("short", json!({ "ports": { "web": 80 } })))?;
    let ready = || {
        let status = stage.cluster.get(NS, "sandboxtemplate", "short")?["status"].clone();
        Ok((status["conditions"][0]["status"] == "True" && status["image"]["digest"].is_string())
            .then_some(()))
    };
    stage.cluster.until("the template to be admitted", ready).await?;
    stage.run(NS, "child", json!({ "image": null, "template": "short", "owner": "carol" })).await?;
    let hosts = stage.cluster.get(NS, "sandbox", "child")?["status"]["hosts"].clone();
    ensure!(hosts["web"] == "carol-web.sandbox.test", "{hosts}");
    stage.cluster.kubectl(&["-n", NS, "delete", "sandboxtemplate", "short"])?;
    stage.want("child", "Stopped")?;
    stage.cluster.phase(NS, "child", "Stopped").await?;
    stage.want("child", "Running")?;
    stage.cluster.phase(NS, "child", "Running").await?;
    stage.delete(NS, "child")
}

async fn strict_tenant(stage: &Stage) -> Result<()> {
    let ns = "tenant-strict";
    let enforced = || {
        let labels = stage.cluster.get("", "namespace", ns)?["metadata"]["labels"].clone();
        Ok((labels["pod-security.kubernetes.io/enforce"] == "restricted").then_some(()))
    };
    stage.cluster.until("the namespace to be restricted", enforced).await?;
    let pod = stage.run(ns, "ordinary", json!({})).await?;
    let user = stage.cluster.inside(ns, &pod, "id -u; grep NoNewPrivs /proc/self/status")?;
    ensure!(user.starts_with("1000\n") && user.ends_with('1'), "{user}");
    stage.delete(ns, "ordinary")?;
    stage.cluster.apply(&stage.sandbox(ns, "root", json!({ "sudo": true })))?;
    let reason = stage.cluster.phase(ns, "root", "Failed").await?["status"]["reason"].clone();
    ensure!(reason["message"].as_str().is_some_and(|it| it.contains("strict")), "{reason}");
    stage.delete(ns, "root")
}

/// What untrusted code tries first.
async fn walls(stage: &Stage) -> Result<()> {
    let pod = stage.run(NS, "inside", json!({})).await?;
    stage.run("tenant-other", "neighbour", json!({})).await?;
    let neighbour = stage.cluster.get("tenant-other", "sandbox", "neighbour")?["status"]["address"].clone();
    let node =
        stage.cluster.var("ATOLL_CLUSTER_NODES")?.split(['=', ' ']).nth(1).context("no node")?.to_owned();
    let api = stage.cluster.kubectl(&["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"])?;
    let targets = [
        (format!("{}:49983", neighbour.as_str().context("no address")?), "another tenant's agent"),
        (format!("{api}:443"), "the API server"),
        (format!("{node}:10250"), "a node"),
        (format!("{}:80", stage.cluster.var("ATOLL_CLUSTER_METADATA")?), "the metadata service"),
        (format!("{}:53", stage.cluster.var("ATOLL_CLUSTER_DNS")?), "the cluster's DNS"),
    ];
    let outside = stage.cluster.var("ATOLL_CLUSTER_OUTSIDE")?;
    let reach =
        |to: &str| stage.inside(&pod, &format!("timeout 3 nc -w 2 {} </dev/null", to.replace(':', " ")));
    reach(&format!("{outside}:80")).context("the outside must be reachable, or this proves nothing")?;
    for (target, name) in targets {
        ensure!(reach(&target).is_err(), "{name} ({target}) can be reached");
    }
    let patch = json!({ "spec": { "network": { "mode": "none" } } }).to_string();
    stage.cluster.kubectl(&["-n", NS, "patch", "sandbox", "inside", "--type=merge", "-p", &patch])?;
    let closed = || Ok(reach(&format!("{outside}:80")).is_err().then_some(()));
    stage.cluster.until("the outside to be closed", closed).await?;
    stage.delete(NS, "inside")?;
    stage.delete("tenant-other", "neighbour")
}

async fn no_credential(stage: &Stage) -> Result<()> {
    let pod = stage.run(NS, "bare", json!({})).await?;
    let line = "ls /var/run/secrets /run/secrets 2>/dev/null; env; cat /proc/1/environ 2>&1; mount | grep -i -E 'secret|token'; true";
    let seen = stage.inside(&pod, line)?;
    for word in ["serviceaccount", "secret_key", "PRIVATE KEY", "eyJ"] {
        ensure!(!seen.to_lowercase().contains(&word.to_lowercase()), "{word} is in {seen}");
    }
    let token = stage.cluster.get(NS, "pod", &pod)?["spec"]["automountServiceAccountToken"].clone();
    ensure!(token == false, "{token}");
    stage.delete(NS, "bare")
}

/// Killed again and again while sandboxes are made and removed.
async fn killed(stage: &Stage, operator: &mut Operator) -> Result<()> {
    let names: Vec<String> = (0..4).map(|n| format!("storm-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        let spec = if n % 2 == 0 { json!({}) } else { json!({ "owner": name, "volumes": home("16Mi") }) };
        stage.cluster.apply(&stage.sandbox(NS, name, spec))?;
        tokio::time::sleep(Duration::from_millis(150 * n as u64)).await;
        operator.kill()?;
        *operator = stage.operator("one", &[])?;
    }
    for name in &names {
        stage.cluster.phase(NS, name, "Running").await?;
    }
    for (n, name) in names.iter().enumerate() {
        stage.cluster.kubectl(&["-n", NS, "delete", "sandbox", name, "--wait=false"])?;
        tokio::time::sleep(Duration::from_millis(120 * n as u64)).await;
        operator.kill()?;
        *operator = stage.operator("one", &[])?;
    }
    let gone = || Ok(stage.left()?.is_empty().then_some(()));
    stage.cluster.until("everything to be gone", gone).await?;
    let claims = stage.cluster.list(NS, "pvc")?.len();
    ensure!(claims == 2, "{claims} claims, of 2 volumes");
    stage.delete_claims()
}

async fn takes_over(stage: &Stage, first: &mut Operator) -> Result<()> {
    let second = stage.operator("two", &[])?;
    stage.run(NS, "before", json!({})).await?;
    ensure!(!second.log()?.contains("leading"), "two lead");
    first.kill()?;
    let leads = || Ok(second.log()?.contains("leading").then_some(()));
    stage.cluster.until("the second to lead", leads).await?;
    stage.run(NS, "after", json!({})).await?;
    ["before", "after"].iter().try_for_each(|name| stage.delete(NS, name))?;
    // It goes on for the cases that follow.
    *first = second;
    Ok(())
}

async fn drained(stage: &Stage) -> Result<()> {
    let pod = stage.run(NS, "mover", json!({ "owner": "dave", "volumes": home("16Mi") })).await?;
    stage.inside(&pod, "echo here >/home/user/file")?;
    let node = stage.cluster.get(NS, "sandbox", "mover")?["status"]["node"].clone();
    let node = node.as_str().context("no node")?;
    let drain = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"];
    let drained = stage.cluster.kubectl(&drain);
    let moved = || {
        let now = stage.cluster.get(NS, "sandbox", "mover")?["status"].clone();
        Ok((now["phase"] == "Running" && now["node"] != node).then_some(()))
    };
    let moved = stage.cluster.until("it to run on another node", moved).await;
    let kept = stage.inside(&pod, "cat /home/user/file");
    stage.cluster.kubectl(&["uncordon", node])?;
    drained?;
    moved?;
    ensure!(kept? == "here");
    stage.delete(NS, "mover")?;
    stage.delete_claims()
}

async fn namespace_gone(stage: &Stage) -> Result<()> {
    stage.run("tenant-other", "last", json!({})).await?;
    stage.cluster.kubectl(&["delete", "namespace", "tenant-other", "--timeout=90s"]).map(drop)
}
