//! Another process that writes to a database and says what was acknowledged, until it is done or killed.

use atoll_core::store::Store;
use jiff::Timestamp;
use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::support::{key, open, spec};

const URL: &str = "ATOLL_TEST_DATABASE";
const NAME: &str = "ATOLL_TEST_WRITER";
const COUNT: &str = "ATOLL_TEST_WRITES";

/// Not a test: what [`Writer`] runs. Each round is a key and a version of the template that all writers share.
#[tokio::test]
#[ignore = "started by other tests, as a process to kill"]
async fn process() {
    let Ok(url) = std::env::var(URL) else { return };
    let name = std::env::var(NAME).unwrap();
    let count: usize = std::env::var(COUNT).unwrap().parse().unwrap();
    let store = open(&url).await;
    for n in 0..count {
        let id = format!("{name}-{n}");
        store.put_key(&key(&id)).await.unwrap();
        let made = store.put_template("default", "shared", &spec(&id), Timestamp::UNIX_EPOCH).await.unwrap();
        println!("\nacknowledged {id} {}", made.version);
    }
}

/// What a writer was told is stored: a key's id, and the version of the template that names it.
pub type Acknowledged = (String, i64);

pub struct Writer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Writer {
    pub fn start(url: &str, name: &str, count: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer::process", "--ignored", "--nocapture"])
            .envs([(URL, url), (NAME, name), (COUNT, &count.to_string())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Kills it with SIGKILL after it was told so many times that its writes are stored; gives all that it was told.
    pub fn kill_after(mut self, rounds: usize) -> Vec<Acknowledged> {
        let mut told = self.acknowledged(rounds);
        assert_eq!(told.len(), rounds, "the writer ended by itself");
        self.child.kill().unwrap();
        told.extend(self.acknowledged(usize::MAX));
        assert!(!self.child.wait().unwrap().success());
        told
    }

    /// Waits until it has written everything.
    pub fn finish(mut self) -> Vec<Acknowledged> {
        let told = self.acknowledged(usize::MAX);
        assert!(self.child.wait().unwrap().success());
        told
    }

    fn acknowledged(&mut self, most: usize) -> Vec<Acknowledged> {
        let lines = self.lines.by_ref().map_while(Result::ok);
        let told = lines.filter_map(|line| {
            let (id, version) = line.strip_prefix("acknowledged ")?.split_once(' ')?;
            Some((id.to_owned(), version.parse().ok()?))
        });
        told.take(most).collect()
    }
}

/// Everything that was acknowledged is there, and the shared template's versions have no gap.
pub async fn assert_stored(store: &dyn Store, told: &[Acknowledged]) {
    for (id, version) in told {
        assert_eq!(store.key_by_hash(&key(id).hash).await.unwrap(), Some(key(id)));
        assert_eq!(store.template("default", "shared", Some(*version)).await.unwrap().spec, spec(id));
    }
    let stored = store.template_versions("default", "shared").await.unwrap();
    let versions: Vec<_> = stored.iter().rev().map(|template| template.version).collect();
    assert_eq!(versions, (1..=i64::try_from(stored.len()).unwrap()).collect::<Vec<_>>());
}
