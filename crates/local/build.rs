//! Compiles the seccomp filter of our launcher, so that no start of a sandbox pays for it: measured, a docker-size profile
//! compiled at each start is the largest single cost of the OCI runtimes.

#![expect(clippy::expect_used, clippy::panic, reason = "a build script can only end when something is wrong")]

use std::{env, fs, path::PathBuf};

#[path = "src/launcher/filter.rs"]
mod filter;
#[path = "src/launcher/syscalls.rs"]
mod syscalls;

use filter::{Instruction, compile};

fn main() {
    println!("cargo:rerun-if-changed=src/launcher/syscalls.rs");
    println!("cargo:rerun-if-changed=src/launcher/filter.rs");
    let filter = compile(architecture());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("seccomp.bpf"), bytes(&filter)).expect("OUT_DIR is writable");
}

/// `AUDIT_ARCH_` of `linux/audit.h`.
fn architecture() -> u32 {
    let target = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    assert_eq!(
        target,
        env::consts::ARCH,
        "call numbers are those of the machine that builds: build on the target's"
    );
    match target.as_str() {
        "x86_64" => 0xc000_003e,
        "aarch64" => 0xc000_00b7,
        other => panic!("there is no list of system calls for {other}"),
    }
}

/// In the machine's byte order.
fn bytes(program: &[Instruction]) -> Vec<u8> {
    let instruction = |it: &Instruction| {
        let [c0, c1] = it.code.to_ne_bytes();
        let [k0, k1, k2, k3] = it.k.to_ne_bytes();
        [c0, c1, it.jt, it.jf, k0, k1, k2, k3]
    };
    program.iter().flat_map(instruction).collect()
}
