//! Compiles the seccomp filter of our launcher, so that no start of a sandbox pays for it: measured, a docker-size profile
//! compiled at each start is the largest single cost of the OCI runtimes.

#![expect(clippy::expect_used, reason = "a build script can only end when something is wrong")]

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::{collections::BTreeMap, env, fs, path::PathBuf};

#[path = "src/launcher/syscalls.rs"]
mod syscalls;

/// `mseal`; Linux 6.10. Higher numbers are calls that the list cannot know.
const NEWEST_KNOWN: i64 = 462;

fn main() {
    println!("cargo:rerun-if-changed=src/launcher/syscalls.rs");
    let allowed = compile(allowed(), SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow);
    let absent = compile(absent(), SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("allowed.bpf"), bytes(&allowed)).expect("OUT_DIR is writable");
    fs::write(out.join("absent.bpf"), bytes(&absent)).expect("OUT_DIR is writable");
}

fn allowed() -> BTreeMap<i64, Vec<SeccompRule>> {
    syscalls::allowed()
        .into_iter()
        .map(|it| (it.call.1, it.tests.iter().map(|test| rule(&it, *test)).collect()))
        .collect()
}

fn rule(call: &syscalls::Allowed, test: syscalls::Test) -> SeccompRule {
    let (op, value) = match test {
        syscalls::Test::Masked { mask, value } => (SeccompCmpOp::MaskedEq(mask.into()), value),
        syscalls::Test::NotEqual(value) => (SeccompCmpOp::Ne, value),
    };
    let condition =
        SeccompCondition::new(call.argument, Dword, op, value.into()).expect("argument index is below six");
    SeccompRule::new(vec![condition]).expect("a rule has a condition")
}

fn absent() -> BTreeMap<i64, Vec<SeccompRule>> {
    let named = syscalls::ABSENT.iter().map(|call| call.1);
    named.chain(NEWEST_KNOWN + 1..NEWEST_KNOWN + 128).map(|call| (call, vec![])).collect()
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> BpfProgram {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let arch = TargetArch::try_from(arch.as_str()).expect("sandboxes run on x86_64 and aarch64");
    let filter = SeccompFilter::new(rules, otherwise, matched, arch).expect("the rules are well formed");
    filter.try_into().expect("the rules compile")
}

/// The kernel's `struct sock_filter`: code u16, jt u8, jf u8, k u32, in the machine's byte order.
fn bytes(program: &BpfProgram) -> Vec<u8> {
    let instruction = |f: &seccompiler::sock_filter| {
        let [c0, c1] = f.code.to_ne_bytes();
        let [k0, k1, k2, k3] = f.k.to_ne_bytes();
        [c0, c1, f.jt, f.jf, k0, k1, k2, k3]
    };
    program.iter().flat_map(instruction).collect()
}
