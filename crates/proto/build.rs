//! Generates messages, service traits and clients from the .proto files, without protoc.

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const FILES: [&str; 3] =
    ["process/process.proto", "filesystem/filesystem.proto", "atoll/agent/v1/agent.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    std::fs::write(&descriptors, compiler.encode_file_descriptor_set())?;
    // The next step has cargo watch this file; one newer than the build would have everything built again each time.
    let before = SystemTime::now() - Duration::from_secs(86400);
    File::options().write(true).open(&descriptors)?.set_modified(before)?;
    connectrpc_build::Config::new()
        .descriptor_set(&descriptors)
        .files(&FILES)
        .include_file("_connectrpc.rs")
        .compile()?;
    Ok(())
}
