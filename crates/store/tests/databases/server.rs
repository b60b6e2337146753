//! A PostgreSQL server of a test's own: in a temporary directory, on a unix socket, gone with the test.

use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};
use std::{
    env, fs,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What must never be seen in an error.
pub const PASSWORD: &str = "s3cret-of-the-server";

/// Who may come how: over the socket by password, over the network only with TLS too.
const HBA: &str = "local all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n";

pub struct Server {
    dir: TempDir,
    programs: PathBuf,
    owner: Option<(u32, u32)>,
    /// Further settings of the server, as `name=value`.
    settings: Vec<String>,
    postgres: Child,
}

impl Server {
    /// `None` where PostgreSQL is not installed.
    pub async fn start() -> Option<Self> {
        Self::start_with(|_| vec!["listen_addresses=".into()]).await
    }

    /// One that also listens on a port of loopback, there only with TLS and with the certificate in `certificate.pem`.
    pub async fn start_encrypted(port: u16) -> Option<Self> {
        Self::start_with(|dir| {
            make_certificate(dir);
            fs::write(dir.join("hba"), HBA).unwrap();
            let file = |name: &str| dir.join(name).display().to_string();
            vec![
                "listen_addresses=127.0.0.1".into(),
                format!("port={port}"),
                "ssl=on".into(),
                format!("ssl_cert_file={}", file("certificate.pem")),
                format!("ssl_key_file={}", file("key.pem")),
                format!("hba_file={}", file("hba")),
            ]
        })
        .await
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    async fn start_with(settings: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        let programs = programs()?;
        let dir = tempfile::tempdir().unwrap();
        let owner = owner(dir.path());
        if let Some((user, group)) = owner {
            chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        init(&programs, dir.path(), owner);
        let settings = settings(dir.path());
        if let (Some((user, group)), true) = (owner, dir.path().join("key.pem").exists()) {
            chown(dir.path().join("key.pem"), Some(user), Some(group)).unwrap();
        }
        let postgres = serve(&programs, dir.path(), owner, &settings);
        let mut server = Self { dir, programs, owner, settings, postgres };
        assert!(server.is_ready().await, "{}", server.log());
        Some(server)
    }

    pub fn url(&self, password: &str, database: &str) -> String {
        let socket = self.dir.path().display().to_string().replace('/', "%2F");
        let port = self.settings.iter().find_map(|setting| setting.strip_prefix("port=")).unwrap_or("5432");
        format!("postgres://atoll:{password}@{socket}:{port}/{database}")
    }

    /// Makes an empty database and gives its URL.
    pub async fn database(&self, name: &str) -> String {
        self.sql("postgres", format!("CREATE DATABASE {name}")).await;
        self.url(PASSWORD, name)
    }

    pub async fn sql(&self, database: &str, text: String) {
        let mut connection = PgConnection::connect(&self.url(PASSWORD, database)).await.unwrap();
        raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// As a crash would: no goodbye to anybody.
    pub fn kill(&mut self) {
        self.postgres.kill().unwrap();
        self.postgres.wait().unwrap();
    }

    /// Starts it again on what the killed one left.
    pub async fn start_again(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // The killed server's own children may still be leaving, and the new one refuses to run beside them.
            self.postgres = serve(&self.programs, self.dir.path(), self.owner, &self.settings);
            if self.is_ready().await {
                return;
            }
            assert!(Instant::now() < deadline, "{}", self.log());
        }
    }

    /// Waits until it answers, or has ended.
    async fn is_ready(&mut self) -> bool {
        while self.postgres.try_wait().unwrap().is_none() {
            if PgConnection::connect(&self.url(PASSWORD, "postgres")).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT is the immediate shutdown: it takes the server's children along.
        let pid = self.postgres.id().to_string();
        let asked = Command::new("kill").args(["-QUIT", &pid]).stderr(Stdio::null()).status();
        if asked.is_ok_and(|status| status.success()) {
            drop(self.postgres.wait());
        }
    }
}

/// The directory of the newest PostgreSQL: where Debian has it, else wherever PATH says.
fn programs() -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = debian.map(|version| version.path().join("bin")).collect();
    found.sort_by_key(|dir| dir.parent().and_then(|p| p.file_name()?.to_str()?.parse::<u32>().ok()));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut all = found.into_iter().rev().chain(env::split_paths(&path));
    all.find(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
}

/// PostgreSQL refuses to run as root: then it runs as its own user or, without one, as nobody.
fn owner(dir: &Path) -> Option<(u32, u32)> {
    if fs::metadata(dir).unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let mut fields = users.lines().find(|line| line.starts_with(&format!("{name}:")))?.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody"))
}

fn command(programs: &Path, name: &str, dir: &Path, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(programs.join(name));
    command.current_dir(dir).env_clear().env("LC_ALL", "C.UTF-8").arg("-D").arg(dir.join("data"));
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command
}

/// Makes the files. Where it can, with a language's collation as the default: a list that forgot byte order shows.
fn init(programs: &Path, dir: &Path, owner: Option<(u32, u32)>) {
    fs::write(dir.join("password"), PASSWORD).unwrap();
    let initdb = |more: &[&str]| -> Output {
        let mut command = command(programs, "initdb", dir, owner);
        command.args(["--username=atoll", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]);
        command.arg("--pwfile").arg(dir.join("password")).args(more).output().unwrap()
    };
    if initdb(&["--locale-provider=icu", "--icu-locale=en-US"]).status.success() {
        return;
    }
    let plain = initdb(&[]);
    assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
}

/// Signed by itself, for localhost.
fn make_certificate(dir: &Path) {
    let mut openssl = Command::new("openssl");
    openssl
        .current_dir(dir)
        .args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=atoll-test".split(' '));
    openssl.args([
        "-keyout",
        "key.pem",
        "-out",
        "certificate.pem",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]);
    let made = openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn serve(programs: &Path, dir: &Path, owner: Option<(u32, u32)>, settings: &[String]) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = command(programs, "postgres", dir, owner);
    command.arg("-k").arg(dir);
    command.args(["-c", "fsync=off"]).args(settings.iter().flat_map(|setting| ["-c", setting.as_str()]));
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}
