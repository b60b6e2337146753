//! The house's own rules, checked on the sources: which crate may know which, where the environment is read, how long a
//! file may be, and what does not land at all. It knows the sources only as text and `cargo metadata`.

use anyhow::{Result, ensure};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// What each crate may use of the others, outside its tests. A crate that is missing here fails the test.
const ARROWS: &[(&str, &[&str])] = &[
    ("atoll-core", &[]),
    ("atoll-proto", &[]),
    ("atoll-tree", &[]),
    ("atoll-store", &["atoll-core"]),
    ("atoll-local", &["atoll-core", "atoll-proto", "atoll-tree"]),
    ("atoll-kube", &["atoll-core", "atoll-proto"]),
    ("atoll-gateway", &["atoll-core", "atoll-proto"]),
    ("atoll-agent", &["atoll-proto", "atoll-tree"]),
    ("atoll-server", &["atoll-core", "atoll-proto"]),
    ("atoll-client", &["atoll-proto"]),
    (
        "atoll",
        &[
            "atoll-core",
            "atoll-proto",
            "atoll-store",
            "atoll-local",
            "atoll-kube",
            "atoll-server",
            "atoll-gateway",
            "atoll-client",
        ],
    ),
    ("atoll-tests", &["atoll-client", "atoll-proto"]),
];

/// Crates that only one of ours may use.
const OWNED: &[(&str, &str)] = &[("sqlx", "atoll-store"), ("kube", "atoll-kube"), ("clap", "atoll")];

/// What does input and output, tells the time or makes randomness: nothing for the core.
const IMPURE: &[&str] =
    &["axum", "getrandom", "hyper", "hyper-util", "libc", "oci-client", "reqwest", "rustix", "sqlx", "tar"];

/// The parts of tokio that the core may use: types, no runtime, no I/O.
const CORE_TOKIO: &[&str] = &["io-util", "sync"];

const MOST_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.current_dir(root()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Absent for what the crate itself is made of, `dev` for what only its tests use.
    kind: Option<String>,
    features: Vec<String>,
}

/// Each crate's dependencies outside its tests.
fn dependencies() -> Result<BTreeMap<String, Vec<Dependency>>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    let json = output(command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_slice(&json)?;
    let real = |mut package: Package| {
        package.dependencies.retain(|d| d.kind.as_deref() != Some("dev"));
        (package.name, package.dependencies)
    };
    Ok(metadata.packages.into_iter().map(real).collect())
}

/// Every tracked or new file that is not ignored, below the root.
fn files() -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    let names = output(git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
    let names = String::from_utf8(names)?;
    Ok(names.split_terminator('\0').map(PathBuf::from).filter(|p| root().join(p).is_file()).collect())
}

fn sources() -> Result<Vec<(PathBuf, String)>> {
    let rust = |path: &PathBuf| path.extension().is_some_and(|e| e == "rs");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path))?;
        Ok((path, text))
    };
    files()?.into_iter().filter(rust).map(read).collect()
}

/// The part of a source before its tests.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn arrows_run_one_way() {
    let rules: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (name, uses) in dependencies().unwrap() {
        let Some(allowed) = rules.get(name.as_str()) else {
            wrong.push(format!("{name} has no rule in this test"));
            continue;
        };
        let ours = uses.iter().map(|d| d.name.as_str()).filter(|n| n.starts_with("atoll"));
        wrong.extend(ours.filter(|n| !allowed.contains(n)).map(|n| format!("{name} uses {n}")));
    }
    assert_none("crates that know what they must not know", &wrong);
}

#[test]
fn some_crates_belong_to_one_of_ours() {
    let mut wrong = Vec::new();
    for (name, uses) in dependencies().unwrap() {
        for (dependency, owner) in OWNED {
            // The figures of sandboxes stand beside those of bare pods, which the tests make.
            let measures = (name.as_str(), *dependency) == ("atoll-tests", "kube");
            if name != *owner && !measures && uses.iter().any(|d| d.name == *dependency) {
                wrong.push(format!("{name} uses {dependency}, which is {owner}'s"));
            }
        }
    }
    assert_none("crates in the wrong place", &wrong);
}

#[test]
fn the_core_does_no_io() {
    let all = dependencies().unwrap();
    let core = &all["atoll-core"];
    let impure = core.iter().filter(|d| IMPURE.contains(&d.name.as_str())).map(|d| d.name.clone());
    let tokio = core.iter().filter(|d| d.name == "tokio").flat_map(|d| &d.features);
    let parts = tokio.filter(|f| !CORE_TOKIO.contains(&f.as_str())).map(|f| format!("tokio/{f}"));
    assert_none("what the core must not use", &impure.chain(parts).collect::<Vec<_>>());

    let calls = ["std::fs", "std::net", "std::process", "Timestamp::now", "SystemTime::now", "Instant::now"];
    let mut found = Vec::new();
    for (path, text) in sources().unwrap().iter().filter(|(p, _)| p.starts_with("crates/core/src")) {
        let testing = path.starts_with("crates/core/src/testing");
        let used = calls.iter().filter(|c| !testing && without_tests(text).contains(**c));
        found.extend(used.map(|c| format!("{}: {c}", path.display())));
    }
    assert_none("what the core must not call", &found);
}

#[test]
fn only_the_programs_read_the_environment() {
    let programs = ["crates/atoll", "crates/agent", "tests"];
    let mut found = Vec::new();
    for (path, text) in sources().unwrap() {
        let library = path.starts_with("crates") && path.iter().any(|part| part == "src");
        let read = ["env::var(", "env::vars(", "env::var_os(", "env::vars_os("];
        if library && !programs.iter().any(|p| path.starts_with(p)) {
            let here = read.iter().filter(|r| without_tests(&text).contains(**r));
            found.extend(here.map(|r| format!("{}: {r}", path.display())));
        }
    }
    assert_none("libraries that read the environment", &found);
}

#[test]
fn every_crate_has_the_lints() {
    let manifests =
        files().unwrap().into_iter().filter(|p| p.ends_with("Cargo.toml") && p.iter().count() > 1);
    let text = |p: &PathBuf| std::fs::read_to_string(root().join(p)).unwrap();
    let bare = manifests.filter(|p| !text(p).contains("[lints]\nworkspace = true"));
    assert_none(
        "crates without the workspace's lints",
        &bare.map(|p| p.display().to_string()).collect::<Vec<_>>(),
    );
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for (path, text) in sources().unwrap() {
        let lines = without_tests(&text).lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{}: does not open with `//!`", path.display()));
        }
    }
    assert_none("files that are too long or say not what they are", &wrong);
}

#[test]
fn unfinished_work_does_not_land() {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("#[ig", "nore]")];
    let mut found = Vec::new();
    for (path, text) in sources().unwrap() {
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert_none("unfinished work", &found);
}

#[test]
fn no_lint_is_silenced_without_a_reason() {
    let mut found = Vec::new();
    for (path, text) in sources().unwrap() {
        for opening in [concat!("#[al", "low("), concat!("#![al", "low("), concat!("#[exp", "ect(")] {
            for (at, _) in text.match_indices(opening) {
                let end = text[at..].find(")]").map_or(text.len(), |n| at + n);
                if !text[at..end].contains("reason") {
                    let line = text[..at].lines().count();
                    found.push(format!("{}:{line}", path.display()));
                }
            }
        }
    }
    assert_none("lints silenced without a reason", &found);
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let root_path = root().display().to_string() + "/";
    let told_apart = root().iter().count() > 2;
    let mut found = Vec::new();
    for path in files().unwrap() {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        if told_apart && text.contains(&root_path) {
            found.push(path.display().to_string());
        }
    }
    assert_none("files that name this machine's folders", &found);
}
