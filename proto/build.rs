//! Compiles the `.proto` files with a compiler written in Rust: no `protoc` is needed.

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 8] = [
    "passerelle/v1/expiry.proto",
    "passerelle/v1/package.proto",
    "passerelle/v1/statement.proto",
    "passerelle/v1/session.proto",
    "passerelle/v1/log.proto",
    "passerelle/v1/admin.proto",
    "passerelle/v1/agent.proto",
    "passerelle/v1/evidence.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=passerelle");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".passerelle.v1.Data.bytes")
        .bytes(".passerelle.v1.Offer.inline")
        .compile_fds(descriptors)?;
    Ok(())
}
