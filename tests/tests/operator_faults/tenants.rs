//! A user of a tenant who may write Sandbox objects, and writes what should lead to somebody else's things.

use anyhow::{Context, Result, ensure};
use atoll_tests::stage::{NS, Stage, home, pod_of};
use serde_json::{Value, json};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

/// The tenant of the one who tries.
const OTHER: &str = "tenant-other";
const MALLORY: &str = "mallory";

fn admit(stage: &Stage) -> Result<()> {
    stage.cluster.apply_text(&stage.cluster.manifest("ClusterRole", "atoll-tenant-user")?)?;
    let binding = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "mallory", "namespace": OTHER },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "atoll-tenant-user" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": MALLORY }] });
    stage.cluster.apply(&binding).map(drop)
}

fn writes(stage: &Stage, object: &Value) -> Result<(bool, String)> {
    stage.cluster.kubectl_as(MALLORY, &["create"], object)
}

/// What she writes by hand, and may.
fn made(stage: &Stage, object: &Value) -> Result<()> {
    let (through, said) = writes(stage, object)?;
    ensure!(through, "{object}: {said}");
    Ok(())
}

/// Waits until one of hers is refused; gives the reason.
async fn refusal(stage: &Stage, name: &str) -> Result<Value> {
    let seen = stage.cluster.phase(OTHER, name, "Failed").await?;
    Ok(seen["status"]["reason"].clone())
}

pub async fn rights(stage: &Stage) -> Result<()> {
    admit(stage)?;
    let object = |kind: &str, version: &str, namespace: &str, spec: Value| json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "forged", "namespace": namespace }, "spec": spec });
    let claim =
        json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } });
    let pod = json!({ "containers": [{ "name": "c", "image": stage.busybox }] });
    let mut template = stage.template("forged", json!({}));
    template["metadata"]["namespace"] = json!(OTHER);
    let not_hers = [
        stage.sandbox(NS, "forged", json!({})),
        template,
        object("Pod", "v1", OTHER, pod),
        object("PersistentVolumeClaim", "v1", OTHER, claim),
        object("NetworkPolicy", "networking.k8s.io/v1", OTHER, json!({ "podSelector": {} })),
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "forged", "namespace": OTHER } }),
    ];
    for object in not_hers {
        let (through, said) = writes(stage, &object)?;
        ensure!(!through && said.contains("cannot create"), "{object}: {said}");
    }
    made(stage, &stage.sandbox(OTHER, "hers", json!({})))?;
    stage.cluster.phase(OTHER, "hers", "Running").await?;
    let patch = ["patch", "--subresource=status", "--type=merge", "-p", r#"{"status":{"phase":"Stopped"}}"#];
    let (through, said) =
        stage.cluster.kubectl_as(MALLORY, &patch, &stage.sandbox(OTHER, "hers", json!({})))?;
    ensure!(!through && said.contains("cannot patch"), "{said}");
    stage.delete(OTHER, "hers")
}

/// Fields, labels, annotations, owners, finalizers and a status that the platform could take for its own.
pub async fn forged(stage: &Stage) -> Result<()> {
    for (field, value) in [
        ("serviceAccountName", json!("default")),
        ("runtime", json!("kata-qemu")),
        ("pod", json!({ "pullSecrets": ["theirs"], "nodeSelector": {}, "storageClass": "standard" })),
    ] {
        let (through, said) = writes(stage, &stage.sandbox(OTHER, "field", json!({ field: value })))?;
        ensure!(!through && said.contains("unknown field"), "{field}: {said}");
    }
    let victim = stage.run(NS, "victim", json!({ "owner": "victim" })).await?;
    let mut object = stage.sandbox(OTHER, "liar", json!({ "owner": "liar" }));
    object["metadata"]["labels"] = json!({ "atoll.dev/id": victim, "atoll.dev/tenant": "default",
        "atoll.dev/owner": "victim", "atoll.dev/egress": "p-0", "app.kubernetes.io/managed-by": "atoll" });
    object["metadata"]["annotations"] = json!({ "atoll.dev/sandbox": "victim", "atoll.dev/owner-name": "victim",
        "atoll.dev/reason": "{\"code\":\"idle\",\"message\":\"so she says\"}" });
    object["metadata"]["finalizers"] = json!(["atoll.dev/sandbox", "example.com/hers"]);
    object["status"] = json!({ "id": victim, "phase": "Running", "address": "10.0.0.1",
        "resolved": { "spec": { "id": victim, "tenant": "default" } } });
    made(stage, &object)?;
    let seen = stage.cluster.phase(OTHER, "liar", "Running").await?;
    let id = seen["status"]["id"].as_str().context("no id")?;
    ensure!(id != victim && seen["status"]["address"] != "10.0.0.1", "{}", seen["status"]);
    ensure!(seen["status"]["resolved"]["spec"]["tenant"] == "other", "{}", seen["status"]);
    let labels = stage.cluster.get(OTHER, "pod", id)?["metadata"]["labels"].clone();
    ensure!(labels["atoll.dev/id"] == id && labels["atoll.dev/tenant"] == "other", "{labels}");
    ensure!(labels["atoll.dev/owner"] != "victim" && labels["atoll.dev/egress"] == "internet", "{labels}");
    // Her own finalizer keeps her object, and nothing that runs.
    stage.cluster.kubectl(&["-n", OTHER, "delete", "sandbox", "liar", "--wait=false"])?;
    let gone = || Ok(stage.cluster.list(OTHER, "pods")?.is_empty().then_some(()));
    stage.cluster.until("her pod to be gone", gone).await?;
    let drop_it = [
        "-n",
        OTHER,
        "patch",
        "sandbox",
        "liar",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ];
    stage.cluster.kubectl(&drop_it)?;
    owned_by_another(stage).await?;
    ensure!(stage.cluster.get(NS, "sandbox", "victim")?["status"]["phase"] == "Running");
    stage.delete(NS, "victim")
}

/// The cluster removes what is owned by something that is not in its namespace; so only hers goes.
async fn owned_by_another(stage: &Stage) -> Result<()> {
    let victim = stage.cluster.get(NS, "sandbox", "victim")?["metadata"]["uid"].clone();
    let mut object = stage.sandbox(OTHER, "child", json!({}));
    object["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "atoll.dev/v1alpha1", "kind": "Sandbox", "name": "victim", "uid": victim }]);
    made(stage, &object)?;
    let all = || -> Result<usize> {
        Ok(stage.cluster.list(OTHER, "sandboxes")?.len() + stage.cluster.list(OTHER, "pods")?.len())
    };
    stage.cluster.until("hers to be gone", || Ok((all()? == 0).then_some(()))).await
}

/// A host name is made of an identifier, or of what stands for a user. The first sandbox that has one keeps it.
pub async fn host_names(stage: &Stage) -> Result<()> {
    let ports = json!({ "web": 80 });
    let first = stage.run(NS, "first", json!({ "owner": "alice", "ports": ports })).await?;
    let host = |sandbox: &Value| sandbox["status"]["hosts"]["web"].as_str().unwrap_or_default().to_owned();
    let theirs = host(&stage.cluster.get(NS, "sandbox", "first")?);
    ensure!(theirs == "alice-web.sandbox.test", "{theirs}");
    // By the user's name: hers is another one, also when she spells out what stands for somebody.
    made(stage, &stage.sandbox(OTHER, "same", json!({ "owner": "alice", "ports": ports })))?;
    let hers = host(&stage.cluster.phase(OTHER, "same", "Running").await?);
    let label = hers.trim_end_matches("-web.sandbox.test").to_owned();
    ensure!(hers != theirs && label.starts_with("alice--"), "{hers}");
    stage.run(NS, "spelled", json!({ "owner": label, "ports": ports })).await?;
    let spelled = host(&stage.cluster.get(NS, "sandbox", "spelled")?);
    ensure!(spelled != hers && spelled != theirs, "{spelled} is {hers}");
    // By the identifier: in another namespace, and in the same.
    for (namespace, object) in
        [(OTHER, stage.sandbox(OTHER, &first, json!({}))), (NS, stage.sandbox(NS, &first, json!({})))]
    {
        if namespace == OTHER {
            made(stage, &object)?
        } else {
            stage.cluster.apply(&object).map(drop)?
        }
        let reason = stage.cluster.phase(namespace, &first, "Failed").await?["status"]["reason"].clone();
        let told = reason["message"].as_str().is_some_and(|it| it.contains("make one of another name"));
        ensure!(reason["code"] == "id_taken" && told, "{reason}");
    }
    let kept = stage.cluster.get(NS, "sandbox", "first")?;
    ensure!(kept["status"]["phase"] == "Running" && host(&kept) == theirs, "{}", kept["status"]);
    // Not by waiting for it, either.
    stage.delete(NS, "first")?;
    stage.delete(NS, &first)?;
    let patch = r#"{"spec":{"env":{"TRY":"again"}}}"#;
    stage.cluster.kubectl(&["-n", OTHER, "patch", "sandbox", &first, "--type=merge", "-p", patch])?;
    let looked = || {
        let seen = stage.cluster.get(OTHER, "sandbox", &first)?;
        let again = seen["status"]["observedGeneration"] == seen["metadata"]["generation"];
        Ok(again.then(|| seen["status"].clone()))
    };
    let status = stage.cluster.until("it to be looked at again", looked).await?;
    ensure!(
        status["reason"]["code"] == "id_taken" && stage.cluster.get(NS, "pod", &first).is_err(),
        "{status}"
    );
    stage.delete(OTHER, &first)?;
    stage.delete(OTHER, "same")?;
    stage.delete(NS, "spelled")
}

/// A claim's name is made of the volume's and the user's: two users can come to the same one.
pub async fn volumes(stage: &Stage) -> Result<()> {
    let pod = stage.run(NS, "hers", json!({ "owner": "alice-x", "volumes": home("16Mi") })).await?;
    stage.inside(&pod, "echo secret >/home/user/file")?;
    stage.delete(NS, "hers")?;
    let same = json!({ "home-alice": { "path": "/home/user", "size": "16Mi" } });
    stage.cluster.apply(&stage.sandbox(NS, "thief", json!({ "owner": "x", "volumes": same })))?;
    let reason = stage.cluster.phase(NS, "thief", "Failed").await?["status"]["reason"].clone();
    let told = reason["message"].as_str().is_some_and(|it| it.contains("home-alice-x is another user's"));
    ensure!(reason["code"] == "volume_in_use" && told, "{reason}");
    stage.delete(NS, "thief")?;
    // Of another tenant: the same user's name there is another user, and the claim is another one in another namespace.
    made(stage, &stage.sandbox(OTHER, "far", json!({ "owner": "alice-x", "volumes": home("16Mi") })))?;
    let far = pod_of(&stage.cluster.phase(OTHER, "far", "Running").await?);
    ensure!(
        stage.cluster.inside(OTHER, &far, "ls -A /home/user")?.is_empty(),
        "the other tenant's files are there"
    );
    // Over the agent itself, or where the platform's things are.
    for path in ["/.atoll", "/proc", "/etc/../.atoll"] {
        let volumes = json!({ "home": { "path": path, "size": "16Mi" } });
        made(stage, &stage.sandbox(OTHER, "over", json!({ "owner": "o", "volumes": volumes })))?;
        let reason = refusal(stage, "over").await?;
        ensure!(
            ["invalid", "not_admitted", "start_failed"].iter().any(|it| reason["code"] == *it),
            "{path}: {reason}"
        );
        stage.delete(OTHER, "over")?;
    }
    stage.delete(OTHER, "far")?;
    stage.cluster.kubectl(&["-n", OTHER, "delete", "pvc", "--all"])?;
    stage.delete_claims()
}

pub async fn templates(stage: &Stage) -> Result<()> {
    stage.cluster.apply(&stage.template("theirs", json!({ "env": { "SECRET": "1" } })))?;
    for name in
        ["theirs", "tenant-default/theirs", "../../tenant-default/sandboxtemplates/theirs", "theirs?watch=1"]
    {
        made(stage, &stage.sandbox(OTHER, "reader", json!({ "image": null, "template": name })))?;
        let reason = refusal(stage, "reader").await?;
        ensure!(reason["code"] == "template_not_found", "{name}: {reason}");
        stage.delete(OTHER, "reader")?;
    }
    stage.cluster.kubectl(&["-n", NS, "delete", "sandboxtemplate", "theirs"]).map(drop)
}

/// A registry that wants a password. Ends when dropped.
struct Private(Child);

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of `tenant:secret`, as `htpasswd -nbB` writes it.
const PASSWORDS: &str = "tenant:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

impl Private {
    /// Nodes are told that it speaks HTTP.
    fn start(stage: &Stage, folder: &Path) -> Result<(Self, String)> {
        let address = format!("{}:0", stage.cluster.var("ATOLL_CLUSTER_HOST")?);
        let address = std::net::TcpListener::bind(&address)?.local_addr()?.to_string();
        std::fs::write(folder.join("passwords"), PASSWORDS)?;
        let config = json!({ "version": "0.1", "log": { "level": "error" }, "http": { "addr": address },
            "storage": { "filesystem": { "rootdirectory": folder.join("store") } },
            "auth": { "htpasswd": { "realm": "private", "path": folder.join("passwords") } } });
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(folder.join("config.json")).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn().context("docker-registry")?;
        let hosts = format!(
            "server = \"http://{address}\"\n[host.\"http://{address}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        for node in ["node1", "node2"] {
            let place = Path::new(stage.cluster.var("ATOLL_CLUSTER_DIR")?)
                .join(node)
                .join("registries")
                .join(&address);
            std::fs::create_dir_all(&place)?;
            std::fs::write(place.join("hosts.toml"), &hosts)?;
        }
        Ok((Self(child), address))
    }
}

/// Its tenant's sandboxes have left it on the node, and still nobody else gets it.
pub async fn private_image(stage: &Stage) -> Result<()> {
    let folder = tempfile::tempdir_in(atoll_tests::scratch())?;
    let (_registry, address) = Private::start(stage, folder.path())?;
    let image = format!("{address}/private:1");
    let push =
        || stage.cluster.copy_image(&stage.busybox, &image, &["--dest-creds", "tenant:secret"]).map(Some);
    stage.cluster.until("the image to be pushed", push).await?;
    let login = [
        "-n",
        NS,
        "create",
        "secret",
        "docker-registry",
        "login",
        "--docker-username=tenant",
        "--docker-password=secret",
    ];
    stage.cluster.kubectl(&[&login[..], &[&format!("--docker-server={address}")]].concat())?;
    stage
        .cluster
        .apply(&stage.template("private", json!({ "image": image, "pod": { "pullSecrets": ["login"] } })))?;
    let only = "node1";
    stage.cluster.kubectl(&["cordon", "node2"])?;
    let theirs = stage.run(NS, "theirs", json!({ "image": null, "template": "private" })).await;
    made(stage, &stage.sandbox(OTHER, "hers", json!({ "image": image })))?;
    let reason = refusal(stage, "hers").await;
    let node = stage.cluster.get(NS, "sandbox", "theirs")?["status"]["node"].clone();
    stage.cluster.kubectl(&["uncordon", "node2"])?;
    theirs?;
    ensure!(node == only, "it ran on {node}");
    let reason = reason?;
    ensure!(reason["code"] == "image_pull_failed", "{reason}");
    stage.delete(OTHER, "hers")?;
    stage.delete(NS, "theirs")?;
    stage.cluster.kubectl(&["-n", NS, "delete", "secret/login", "sandboxtemplate/private"]).map(drop)
}
