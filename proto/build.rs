//! Compiles the protocol descriptions without needing a protobuf compiler on the machine.

use std::error::Error;
use std::path::Path;

use prost::Message as _;

/// The language of graphs, which is also shown as JSON.
const SHOWN: &[&str] = &["ops.proto"];

/// Fields that are kept as `Bytes`, by their path or that of what they are in. Names of files are not: they
/// are short, and are kept longer than the message that they came in.
const SHARED_BYTES: &[&str] = &[
    ".cairn",
    ".containerd",
    ".fsutil.types.Packet",
    ".fsutil.types.Xattr.value",
    ".google",
    ".moby",
    ".opentelemetry",
    ".pb",
];

const FILES: &[&str] = &[
    "apicaps.proto",
    "content.proto",
    "control.proto",
    "errdefs.proto",
    "explain.proto",
    "exporter.proto",
    "filesync.proto",
    "fsutil.proto",
    "gateway.proto",
    "health.proto",
    "ops.proto",
    "otlp.proto",
    "otlp_trace.proto",
    "policysession.proto",
    "rpc.proto",
    "secrets.proto",
    "sourcepolicy.proto",
    "ssh.proto",
    "stack.proto",
    "types.proto",
    "upload.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    // Asked when it runs, not when it is compiled: a checkout may have moved since.
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("not run by cargo")?;
    let dir = Path::new(&manifest_dir).join("proto");
    println!("cargo::rerun-if-changed={}", dir.display());
    let out_dir = std::env::var_os("OUT_DIR").ok_or("not run by cargo")?;
    let shown = protox::compile(SHOWN, [&dir])?;
    std::fs::write(Path::new(&out_dir).join("shown.bin"), shown.encode_to_vec())?;
    let descriptors = protox::compile(FILES, [&dir])?;
    std::fs::write(Path::new(&out_dir).join("descriptors.bin"), descriptors.encode_to_vec())?;
    let builder = SHARED_BYTES
        .iter()
        .fold(tonic_prost_build::configure(), |builder, path| builder.bytes(path));
    builder
        // Encodings must not depend on the order of a hash map.
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
