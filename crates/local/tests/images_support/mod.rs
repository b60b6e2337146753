//! Parts for the tests of images: archives and layouts made by hand, a real registry, overlays, small disks.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use sha2::Digest;
use tempfile::TempDir;

/// What the binary does once at its start.
pub fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn skopeo(args: &[&str]) {
    run("skopeo", &[&["--insecure-policy"], args].concat());
}

/// A layer's archive.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size as u64);
        header
    }

    pub fn bytes_at(mut self, path: &str, data: &[u8]) -> Self {
        self.0.append_data(&mut Self::header(tar::EntryType::Regular, data.len()), path, data).unwrap();
        self
    }

    pub fn file(self, path: &str, data: &str) -> Self {
        self.bytes_at(path, data.as_bytes())
    }

    pub fn dir(mut self, path: &str) -> Self {
        self.0.append_data(&mut Self::header(tar::EntryType::Directory, 0), path, &b""[..]).unwrap();
        self
    }

    pub fn hard_link(mut self, path: &str, to: &str) -> Self {
        self.0.append_link(&mut Self::header(tar::EntryType::Link, 0), path, to).unwrap();
        self
    }

    pub fn zeros(self, path: &str, size: usize) -> Self {
        self.bytes_at(path, &vec![0; size])
    }

    /// Bytes that no compressor makes smaller.
    pub fn noise(self, path: &str, size: usize, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        let data: Vec<u8> = std::iter::repeat_with(next).take(size).collect();
        self.bytes_at(path, &data)
    }

    /// An entry whose path is written as it is.
    pub fn raw_path(mut self, path: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, 0);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, &b""[..]).unwrap();
        self
    }

    fn done(&self) -> Vec<u8> {
        let mut bytes = self.0.get_ref().clone();
        bytes.extend([0; 1024]);
        bytes
    }
}

/// An image as an OCI layout, under construction.
pub struct Layout {
    architecture: String,
    layers: Vec<(&'static str, Vec<u8>, String)>,
    wrong_diff_id: bool,
}

impl Layout {
    pub fn new() -> Self {
        Self { architecture: host_architecture().into(), layers: Vec::new(), wrong_diff_id: false }
    }

    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.into();
        self
    }

    pub fn wrong_diff_id(mut self) -> Self {
        self.wrong_diff_id = true;
        self
    }

    pub fn gzip(mut self, tar: &Tar) -> Self {
        let plain = tar.done();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        self.layers.push(("tar+gzip", encoder.finish().unwrap(), digest_of(&plain)));
        self
    }

    pub fn zstd(mut self, tar: &Tar) -> Self {
        let plain = tar.done();
        self.layers.push(("tar+zstd", zstd::encode_all(&plain[..], 1).unwrap(), digest_of(&plain)));
        self
    }

    pub fn plain(mut self, tar: &Tar) -> Self {
        let plain = tar.done();
        self.layers.push(("tar", plain.clone(), digest_of(&plain)));
        self
    }

    pub fn not_tar(mut self) -> Self {
        let noise = b"this is not an archive".repeat(100);
        self.layers.push(("tar", noise.clone(), digest_of(&noise)));
        self
    }

    pub fn layer_digests(&self) -> Vec<String> {
        self.layers.iter().map(|(_, bytes, _)| digest_of(bytes)).collect()
    }

    pub fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        let blobs = directory.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8], media_type: &str| {
            let digest = digest_of(bytes);
            fs::write(blobs.join(&digest[7..]), bytes).unwrap();
            serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        };
        let mut diff_ids: Vec<String> = self.layers.iter().map(|(_, _, diff_id)| diff_id.clone()).collect();
        if self.wrong_diff_id {
            diff_ids[0] = digest_of(b"something else");
        }
        let config = serde_json::json!({
            "architecture": self.architecture, "os": "linux", "created": "2024-05-06T07:08:09Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"], "User": "1000:1000", "WorkingDir": "/srv",
                       "ExposedPorts": {"8080/tcp": {}}, "Labels": {"who": "test"}, "Entrypoint": null},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let layer_type = |kind: &str| format!("application/vnd.oci.image.layer.v1.{kind}");
        let layers: Vec<_> =
            self.layers.iter().map(|(kind, bytes, _)| put(bytes, &layer_type(kind))).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json"),
            "layers": layers,
        });
        let mut entry = put(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
        entry["platform"] = serde_json::json!({"architecture": self.architecture, "os": "linux"});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(directory.path().join("index.json"), index.to_string()).unwrap();
        fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        directory
    }
}

fn host_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// A real registry on loopback, behind a small recorder of requests.
pub struct Registry {
    process: Child,
    directory: TempDir,
    port: u16,
    credentials: Option<String>,
    recorder: Relay,
}

impl Registry {
    pub fn start() -> Self {
        Self::start_as(None)
    }

    pub fn start_with_password(user: &str, password: &str) -> Self {
        Self::start_as(Some((user, password)))
    }

    fn start_as(login: Option<(&str, &str)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            directory.path().join("data").display()
        );
        if let Some((user, password)) = login {
            let file = directory.path().join("htpasswd");
            fs::write(&file, format!("{user}:{}\n", bcrypt(password))).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
        }
        let path = directory.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the Debian package docker-registry is needed");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let credentials = login.map(|(user, password)| format!("{user}:{password}"));
        Self { process, directory, port, credentials, recorder: Relay::start(port, None) }
    }

    /// As the store sees it: through the recorder.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.recorder.port)
    }

    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host())
    }

    pub fn push(&self, layout: &Layout, image: &str) {
        let directory = layout.write();
        let from = format!("oci:{}", directory.path().display());
        let to = format!("docker://127.0.0.1:{}/{image}", self.port);
        let mut args = vec!["copy", "--dest-tls-verify=false", "--preserve-digests"];
        if let Some(credentials) = &self.credentials {
            args.extend(["--dest-creds", credentials]);
        }
        if layout.architecture != host_architecture() {
            args.splice(0..0, ["--override-arch", &layout.architecture]);
        }
        args.extend([from.as_str(), to.as_str()]);
        skopeo(&args);
    }

    /// Pushes an index of images for these architectures.
    pub fn push_index(&self, architectures: &[&str], image: &str) {
        let (name, tag) = image.split_once(':').unwrap();
        let mut entries = Vec::new();
        for architecture in architectures {
            let layout = Layout::new().architecture(architecture).gzip(&Tar::new().file("a", architecture));
            self.push(&layout, &format!("{name}:{architecture}"));
            let digest = self.manifest_digest(name, architecture);
            let size = fs::metadata(self.blob_path(&digest)).unwrap().len();
            entries.push(serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                "platform": {"architecture": architecture, "os": "linux"}
            }));
        }
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries
        })
        .to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = index.len();
        let request = format!(
            "PUT /v2/{name}/manifests/{tag} HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: {length}\r\n\
             Content-Type: application/vnd.oci.image.index.v1+json\r\n\r\n{index}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    pub fn manifest_digest(&self, name: &str, tag: &str) -> String {
        let link = format!("data/docker/registry/v2/repositories/{name}/_manifests/tags/{tag}/current/link");
        fs::read_to_string(self.directory.path().join(link)).unwrap()
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = &digest[7..];
        self.directory.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    /// Changes a byte in the registry's own storage.
    pub fn corrupt(&self, digest: &str) {
        let path = self.blob_path(digest);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }

    pub fn forget_requests(&self) {
        self.recorder.requests.lock().unwrap().clear();
    }

    /// How many requests start like this.
    pub fn requests(&self, start: &str) -> usize {
        self.recorder.requests.lock().unwrap().iter().filter(|request| request.starts_with(start)).count()
    }

    /// The same registry over connections that are slow and break off after some bytes.
    pub fn throttled(&self, breaks_after: usize) -> Relay {
        Relay::start(self.port, Some(breaks_after))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn bcrypt(password: &str) -> String {
    let script =
        "import crypt,sys; print(crypt.crypt(sys.argv[1], crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))";
    let output =
        Command::new("/usr/bin/python3").args(["-W", "ignore", "-c", script, password]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().replacen("$2b$", "$2y$", 1)
}

/// Passes connections on to a port and notes the requests; breaks them off where it is told to.
pub struct Relay {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    fn start(to: u16, breaks_after: Option<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let notes = Arc::clone(&requests);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let notes = Arc::clone(&notes);
                std::thread::spawn(move || pass_requests(from_client, to_server, &notes));
                std::thread::spawn(move || pass_answers(server, client, breaks_after));
            }
        });
        Self { port, requests }
    }

    pub fn name(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// The ranges that were asked for.
    pub fn ranges(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let range = |request: &String| {
            let lower = request.to_lowercase();
            Some(lower.split("\r\n").find_map(|line| line.strip_prefix("range: "))?.to_owned())
        };
        requests.iter().filter_map(range).collect()
    }
}

fn pass_requests(mut client: TcpStream, mut server: TcpStream, notes: &Mutex<Vec<String>>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        notes.lock().unwrap().push(String::from_utf8_lossy(&buffer[..read]).into_owned());
        if server.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(std::net::Shutdown::Write);
}

fn pass_answers(mut server: TcpStream, mut client: TcpStream, breaks_after: Option<usize>) {
    let mut buffer = [0; 64 << 10];
    let mut passed = 0;
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        passed += read;
        if client.write_all(&buffer[..read]).is_err() || breaks_after.is_some_and(|limit| passed > limit) {
            break;
        }
        if breaks_after.is_some() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

/// An overlay of layers, unmounted at the end.
pub struct Mounted(TempDir);

impl Mounted {
    pub fn new(layers: &[PathBuf]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "root"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let at = |name: &str| directory.path().join(name).display().to_string();
        let lowers: Vec<String> = layers.iter().map(|path| path.display().to_string()).collect();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lowers.join(":"), at("upper"), at("work"));
        run("mount", &["-t", "overlay", "overlay", "-o", &options, &at("root")]);
        Self(directory)
    }

    pub fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.root()).status();
    }
}

/// A file system with little room.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    pub fn new(bytes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display().to_string();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", &path]);
        Self(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
