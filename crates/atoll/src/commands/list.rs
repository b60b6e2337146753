//! `ls`, `get` and `usage`: what there is, and how it does.

use atoll_client::{
    ListSandboxes,
    api::{Io, Phase, Sandbox, Usage, Volume},
};
use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;

use super::{Context, resolve, source, word};
use crate::{
    cli::Ls,
    failure::Failure,
    output::Format,
    values::{self, bytes, moment, span},
};

const RESTLESS: [Phase; 3] = [Phase::Creating, Phase::Running, Phase::Paused];

/// `atoll ls`
pub async fn ls(context: &Context, args: Ls) -> Result<(), Failure> {
    let labels = values::pairs(&args.label).map_err(Failure::Wrong)?;
    let phases = if args.all { Vec::new() } else { RESTLESS.iter().map(word).collect() };
    let query = ListSandboxes { labels, phases, owner: args.owner, page_size: Some(1000) };
    let items: Vec<Sandbox> = context.client.sandboxes().list(query).try_collect().await?;
    let format = if args.quiet { Format::Name } else { context.format };
    let header = ["ID", "FROM", "OWNER", "PHASE", "CPU", "MEMORY", "AGE", "ENDS IN", "LABELS"];
    let now = Timestamp::now();
    format.print_all(&items, &header, |sandbox| row(sandbox, now), |sandbox| &sandbox.id)
}

fn row(sandbox: &Sandbox, now: Timestamp) -> Vec<String> {
    let until = |at: Timestamp| span(at.as_second() - now.as_second());
    vec![
        sandbox.id.clone(),
        source(sandbox),
        sandbox.owner.clone().unwrap_or_default(),
        word(&sandbox.phase),
        sandbox.cpu.clone(),
        sandbox.memory.clone(),
        span(now.as_second() - sandbox.created_at.as_second()),
        sandbox.expires_at.map(until).unwrap_or_default(),
        labels(sandbox),
    ]
}

fn labels(sandbox: &Sandbox) -> String {
    let pairs: Vec<String> = sandbox.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// `atoll get`
pub async fn get(context: &Context, written: &str) -> Result<(), Failure> {
    let sandbox = resolve::sandbox(&context.client, written).await?.get().await?;
    context.format.print_one(&sandbox, fields, &sandbox.id)
}

/// A sandbox for people, field by field.
pub fn fields(sandbox: &Sandbox) -> Vec<(&'static str, String)> {
    let network = &sandbox.network;
    let mut fields = vec![
        ("id", sandbox.id.clone()),
        ("phase", word(&sandbox.phase)),
        ("why", format!("{} ({})", sandbox.reason.message, sandbox.reason.code)),
        ("image", sandbox.image.clone()),
        ("template", sandbox.template.as_ref().map(|_| source(sandbox)).unwrap_or_default()),
        ("owner", sandbox.owner.clone().unwrap_or_default()),
        ("label", sandbox.owner_label.clone().unwrap_or_default()),
        ("cpu", sandbox.cpu.clone()),
        ("memory", sandbox.memory.clone()),
        ("disk", sandbox.disk.clone()),
        ("pids", sandbox.pids.to_string()),
        ("io", io(&sandbox.io)),
        ("network", word(&network.mode)),
        ("allow", network.allow.join(",")),
        ("deny", network.deny.join(",")),
        ("runtime", sandbox.runtime.clone().unwrap_or_default()),
        ("labels", labels(sandbox)),
        ("created", moment(sandbox.created_at)),
        ("ends", sandbox.expires_at.map(moment).unwrap_or_default()),
        ("last used", moment(sandbox.last_activity)),
    ];
    fields.extend(sandbox.volumes.iter().map(|(name, volume)| ("volume", volume_line(name, volume))));
    fields.extend(sandbox.env.iter().map(|(key, value)| ("env", format!("{key}={value}"))));
    fields.extend(sandbox.history.iter().map(|step| {
        ("history", format!("{} {}: {}", moment(step.at), word(&step.phase), step.reason.message))
    }));
    fields.retain(|(_, value)| !value.is_empty());
    fields
}

fn volume_line(name: &str, volume: &Volume) -> String {
    format!("{name} at {} ({})", volume.path, volume.size.as_deref().unwrap_or_default())
}

fn io(limits: &Io) -> String {
    let rate = |name: &str, rate: &Option<String>| rate.as_ref().map(|rate| format!("{name} {rate}/s"));
    let iops = |name: &str, number: Option<u64>| number.map(|number| format!("{number} {name}/s"));
    let all = [
        rate("read", &limits.read_rate),
        rate("write", &limits.write_rate),
        iops("reads", limits.read_iops),
        iops("writes", limits.write_iops),
    ];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A sandbox and what it uses.
#[derive(Serialize)]
struct Used {
    id: String,
    #[serde(flatten)]
    usage: Usage,
}

/// `atoll usage`
pub async fn usage(context: &Context, written: Vec<String>) -> Result<(), Failure> {
    let mut items = Vec::new();
    for id in subjects(context, written).await? {
        match context.client.sandbox(&id).usage().await {
            Ok(usage) => items.push(Used { id, usage }),
            // One that was listed may be gone by now.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let header = ["ID", "CPU TIME", "MEMORY", "PEAK", "DISK", "PIDS", "OOM KILLS"];
    context.format.print_all(&items, &header, usage_row, |used| &used.id)
}

fn usage_row(used: &Used) -> Vec<String> {
    let usage = &used.usage;
    vec![
        used.id.clone(),
        format!("{}.{:03}s", usage.cpu_us / 1_000_000, usage.cpu_us / 1000 % 1000),
        bytes(usage.memory_bytes),
        bytes(usage.memory_peak_bytes),
        usage.disk_bytes.map(bytes).unwrap_or_default(),
        usage.pids.to_string(),
        usage.oom_kills.to_string(),
    ]
}

async fn subjects(context: &Context, written: Vec<String>) -> Result<Vec<String>, Failure> {
    if written.is_empty() {
        let query = ListSandboxes { phases: vec![word(&Phase::Running)], ..ListSandboxes::default() };
        let all = context.client.sandboxes().list(query).map_ok(|sandbox| sandbox.id);
        return Ok(all.try_collect().await?);
    }
    let mut ids = Vec::new();
    for written in written {
        let sandbox = resolve::sandbox(&context.client, &written).await?;
        // Unlike one of a list, one that was named must be there.
        ids.push(sandbox.get().await?.id);
    }
    Ok(ids)
}
