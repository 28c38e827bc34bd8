//! Compiles the .proto files without an installed protoc, and keeps their descriptors for reflection and the JSON gateway.

use std::path::PathBuf;

const FILES: [&str; 3] = ["rpc.proto", "v3lock.proto", "v3election.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let set = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let described =
        protox::Compiler::new(["proto"])?.include_imports(true).open_files(FILES)?.encode_file_descriptor_set();
    std::fs::write(out.join("descriptors.bin"), described)?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(set)?;
    Ok(())
}
