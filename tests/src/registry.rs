//! A real registry on loopback, Debian's `docker-registry`, filled with images built from a root file system that a
//! sandbox hands out.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Server, Skip, http::Http};

/// A running registry. Ends when dropped; what it stores stays.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: SocketAddr,
    storage: PathBuf,
}

impl Registry {
    /// Starts a registry that stores in `storage`.
    ///
    /// # Errors
    /// [`Skip`] where it is not installed; else why it did not start.
    pub async fn start(storage: &Path) -> Result<Self> {
        std::fs::create_dir_all(storage)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = json!({
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": storage}, "delete": {"enabled": true}},
            "http": {"addr": address.to_string()},
        });
        let config_path = storage.join("config.json");
        std::fs::write(&config_path, config.to_string())?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config_path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| Skip(format!("docker-registry: {error}")))?;
        let registry = Self { child, address, storage: storage.to_owned() };
        registry.wait().await?;
        Ok(registry)
    }

    /// Starts the registry that is kept in the cache, with `library/python:3.11-slim` in it: made once of the root file
    /// system of a sandbox of `server`.
    ///
    /// # Errors
    /// As for [`Registry::start`] and [`Registry::push`].
    pub async fn kept(server: &Server) -> Result<Self> {
        let registry = Self::start(&crate::cache().join("registry")).await?;
        if !registry.has("library/python", "3.11-slim").await? {
            println!("making the image python:3.11-slim once; it is kept in {}", registry.storage.display());
            let layer = root_of_a_sandbox(server).await?;
            let settings = json!({"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["python3"]});
            registry.push("library/python:3.11-slim", layer.path(), &settings, architecture())?;
        }
        Ok(registry)
    }

    async fn wait(&self) -> Result<()> {
        let http = Http::new(&format!("http://{}", self.address), None)?;
        let begun = Instant::now();
        while !http.get("/v2/").await.is_ok_and(|answer| answer.status == 200) {
            ensure!(begun.elapsed() < Duration::from_secs(30), "docker-registry does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it stores.
    #[must_use]
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// Whether it has this `name:tag`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn has(&self, name: &str, tag: &str) -> Result<bool> {
        let http = Http::new(&format!("http://{}", self.address), None)?;
        let request = http.request(reqwest::Method::GET, &format!("/v2/{name}/manifests/{tag}"));
        let accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";
        Ok(request.header("Accept", accept).send().await?.status().is_success())
    }

    /// Puts in an image `name:tag` of one layer, a tar file, for this processor architecture.
    ///
    /// # Errors
    /// [`Skip`] where skopeo is not installed; else what it says.
    pub fn push(&self, name: &str, layer: &Path, settings: &serde_json::Value, arch: &str) -> Result<()> {
        let work = tempfile::tempdir_in(crate::scratch())?;
        let archive = docker_archive(work.path(), layer, settings, arch)?;
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        command.args([
            "--override-arch",
            arch,
            "--dest-compress-format",
            "zstd",
            "--dest-compress-level",
            "1",
        ]);
        command.arg(format!("docker-archive:{}", archive.display()));
        command.arg(format!("docker://{}/{name}", self.address)).stdin(Stdio::null());
        let output = command.output().map_err(|error| Skip(format!("skopeo: {error}")))?;
        ensure!(output.status.success(), "skopeo: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// This machine's architecture as images name it.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Everything of a sandbox's root file system, as a tar file.
async fn root_of_a_sandbox(server: &Server) -> Result<tempfile::NamedTempFile> {
    let sandbox = server.create().await?;
    let file = tempfile::NamedTempFile::new_in(crate::scratch())?;
    let args =
        ["exec", "-u", "root", &sandbox.id, "--", "tar", "-C", "/", "--one-file-system", "-cf", "-", "."];
    let mut command = server.cli()?.command(&args);
    let status = command.stdout(file.reopen()?).stderr(Stdio::inherit()).status().await?;
    ensure!(status.success(), "tar in the sandbox: {status}");
    server.delete(&sandbox.id).await?;
    Ok(file)
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It holds nothing that must be saved, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `docker save` would write for one layer: the layer, a configuration and a manifest, in one tar file.
fn docker_archive(work: &Path, layer: &Path, settings: &serde_json::Value, arch: &str) -> Result<PathBuf> {
    let diff_id = sha256(layer)?;
    let config = json!({
        "architecture": arch,
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
    });
    std::fs::write(work.join("config.json"), config.to_string())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [], "Layers": ["layer.tar"]}]);
    std::fs::write(work.join("manifest.json"), manifest.to_string())?;
    std::fs::hard_link(layer, work.join("layer.tar"))
        .or_else(|_| std::fs::copy(layer, work.join("layer.tar")).map(drop))?;
    let archive = work.join("image.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&archive).arg("-C").arg(work).args(["manifest.json", "config.json", "layer.tar"]);
    ensure!(tar.status()?.success(), "tar could not write {}", archive.display());
    Ok(archive)
}

fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(path).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().context("sha256sum wrote nothing")?.to_owned())
}
