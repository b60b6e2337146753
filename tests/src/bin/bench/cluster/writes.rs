//! What was written to the API server, as its audit log tells. It must not know what for.

use anyhow::{Context, Result};
use atoll_tests::Skip;
use serde::Deserialize;
use std::{collections::BTreeMap, fs};

use super::{Bench, NAMESPACE};
use crate::table::Table;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    stage: String,
    verb: String,
    #[serde(default)]
    user_agent: String,
    object_ref: Option<Object>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

/// Writes by who made them, for whom and of what: `(atoll, sandbox, "patch pods/resize")`.
pub type Writes = BTreeMap<(bool, bool, String), usize>;

/// All so far. None where the log cannot be read.
pub fn count(bench: &Bench) -> Result<Option<Writes>> {
    let path = match bench.server.cluster().context("no cluster")?.var("ATOLL_CLUSTER_AUDIT_LOG") {
        Err(error) if error.is::<Skip>() => return Ok(None),
        path => path?,
    };
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let mut writes = Writes::new();
    for key in text.lines().filter_map(write) {
        *writes.entry(key).or_default() += 1;
    }
    Ok(Some(writes))
}

/// Events are told of apart: they are many, and may be lost.
fn write(line: &str) -> Option<(bool, bool, String)> {
    let entry: Entry = serde_json::from_str(line).ok()?;
    let object = entry.object_ref.filter(|object| object.namespace == NAMESPACE)?;
    if entry.stage != "ResponseComplete" || ["get", "list", "watch"].contains(&entry.verb.as_str()) {
        return None;
    }
    let bare = object.name.starts_with("bare") || object.name.starts_with("warm");
    let sub = if object.subresource.is_empty() { String::new() } else { format!("/{}", object.subresource) };
    Some((entry.user_agent.starts_with("atoll/"), !bare, format!("{} {}{sub}", entry.verb, object.resource)))
}

/// Prints what was added since `before`, for each of `samples`.
pub fn tell(bench: &Bench, before: Option<&Writes>, samples: usize, table: &mut Table) -> Result<()> {
    let (Some(before), Some(now)) = (before, count(bench)?) else {
        table.add("writes to the API server", "-", "", "ATOLL_CLUSTER_AUDIT_LOG is not set");
        return Ok(());
    };
    let since = |key: &(bool, bool, String), many: &usize| many - before.get(key).copied().unwrap_or(0);
    let each = |wanted: &dyn Fn(&(bool, bool, String)) -> bool| {
        let sum: usize = now.iter().filter(|(key, _)| wanted(key)).map(|(key, many)| since(key, many)).sum();
        tenths(sum, samples)
    };
    let event = |what: &str| what.ends_with(" events");
    let of: Vec<_> = now
        .iter()
        .filter(|((atoll, _, what), _)| *atoll && !event(what))
        .map(|(key, many)| (tenths(since(key, many), samples), &key.2))
        .filter(|(many, _)| many != "0.0")
        .map(|(many, what)| format!("{many} {what}"))
        .collect();
    table.add(
        "writes by Atoll for a sandbox, from create to gone",
        each(&|(atoll, _, what)| *atoll && !event(what)),
        "",
        of.join(", "),
    );
    table.add("events by Atoll for a sandbox", each(&|(atoll, _, what)| *atoll && event(what)), "", "");
    let others = |sandbox: bool| each(&|key| !key.0 && key.1 == sandbox && key.2.contains(" pods"));
    table.add(
        "writes of the pod by Kubernetes: a sandbox's",
        others(true),
        "",
        "kubelet and scheduler, without events",
    );
    table.add(
        "writes of the pod by Kubernetes: a bare one's",
        others(false),
        "",
        "the bench's own two in it",
    );
    Ok(())
}

fn tenths(sum: usize, of: usize) -> String {
    let tenths = sum * 10 / of.max(1);
    format!("{}.{}", tenths / 10, tenths % 10)
}
