//! Builds the agent, a static program, and puts it where the binary embeds it from. `ATOLL_AGENT` names one that is
//! built already.

use std::{
    env,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PROFILE: &str = "agent";
const BINARY: &str = "atoll-agent";

fn main() -> Outcome<()> {
    let out = PathBuf::from(var("OUT_DIR")?);
    println!("cargo::rerun-if-env-changed=ATOLL_AGENT");
    let agent = match env::var_os("ATOLL_AGENT") {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            path
        }
        None => build(&out)?,
    };
    let embedded = out.join(BINARY);
    let failed = |error| format!("cannot copy the agent from {}: {error}", agent.display());
    fs::copy(&agent, &embedded).map(drop).map_err(failed)?;
    Ok(())
}

fn var(name: &str) -> Outcome<String> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}

/// A build of its own: another profile, and flags that the rest must not have.
fn build(out: &Path) -> Outcome<PathBuf> {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")?).join("../..");
    for source in sources(&root)? {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    let target = var("TARGET")?;
    let folder = target_folder(out)?.join("agent-build");
    let mut command = Command::new(var("CARGO")?);
    command.current_dir(&root).args(["build", "--quiet", "--package", "atoll-agent", "--bin", BINARY]);
    command.args(["--profile", PROFILE, "--target", &target, "--target-dir"]).arg(&folder);
    if root.join("Cargo.lock").exists() {
        command.arg("--locked");
    }
    let mut flags = "-C target-feature=+crt-static".to_owned();
    if packs_relocations(&target)? {
        flags.push_str(" -C link-arg=-Wl,-z,pack-relative-relocs");
    }
    command.env("RUSTFLAGS", flags);
    // What is set for this build must not reach the other.
    for name in
        ["CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"]
    {
        command.env_remove(name);
    }
    match command.status()? {
        status if status.success() => Ok(folder.join(target).join(PROFILE).join(BINARY)),
        status => Err(format!("the agent could not be built: {status}").into()),
    }
}

/// Whether the program may carry its relocations packed, a thirtieth of its size less: the linker must know how, and the C
/// library that is linked in must be able to read them, which glibc is from 2.36 on. Older ones would crash at the start.
fn packs_relocations(target: &str) -> Outcome<bool> {
    if target != var("HOST")? {
        return Ok(false);
    }
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let version = said("getconf", "GNU_LIBC_VERSION");
    let mut numbers =
        version.trim().trim_start_matches("glibc ").split('.').map_while(|part| part.parse().ok());
    let reads = (numbers.next(), numbers.next()) >= (Some(2), Some(36));
    Ok(reads && said("ld", "--help").contains("pack-relative-relocs"))
}

/// Everything that the agent is made of. The types of the HTTP API are beside its protocol, and no part of it.
fn sources(root: &Path) -> io::Result<Vec<PathBuf>> {
    let of_agent = ["Cargo.toml", "build.rs", "src"].map(|name| root.join("crates/agent").join(name));
    let of_protocol = ["Cargo.toml", "build.rs", "proto"].map(|name| root.join("crates/proto").join(name));
    let mut sources = vec![root.join("Cargo.toml"), root.join("Cargo.lock")];
    sources.extend(of_agent.into_iter().chain(of_protocol).filter(|path| path.exists()));
    for entry in fs::read_dir(root.join("crates/proto/src"))? {
        let entry = entry?;
        if entry.file_name() != "api" {
            sources.push(entry.path());
        }
    }
    Ok(sources)
}

/// `target`, from `target[/TRIPLE]/PROFILE/build/PACKAGE/out`.
fn target_folder(out: &Path) -> Outcome<&Path> {
    let build = out.ancestors().find(|path| path.file_name().is_some_and(|name| name == "build"));
    let folder = build.and_then(Path::parent).and_then(Path::parent);
    folder.ok_or_else(|| format!("{} is in no target directory", out.display()).into())
}
