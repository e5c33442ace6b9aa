//! Generates Rust from the protocol files, without protoc.

use std::{
    env, fs,
    path::{Path, PathBuf},
};
use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

const FILES: [&str; 6] = [
    "agent.proto",
    "health.proto",
    "hutch.proto",
    "hutch_agent.proto",
    "oci.proto",
    "types.proto",
];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let inputs: Vec<PathBuf> = FILES.iter().map(|f| Path::new("proto").join(f)).collect();
    for input in &inputs {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    let (sync, asynchronous) = (out.join("blocking"), out.join("asynchronous"));
    if env::var_os("CARGO_FEATURE_SYNC").is_some() {
        generate(&inputs, &sync, false);
    }
    // The messages are the same in both; they are taken from here.
    generate(&inputs, &asynchronous, true);
}

fn generate(inputs: &[PathBuf], out: &Path, async_all: bool) {
    fs::create_dir_all(out).expect("the output folder can be made");
    Codegen::new()
        .out_dir(out)
        .inputs(inputs)
        .include("proto")
        .rust_protobuf()
        .customize(Customize {
            async_all,
            ..Default::default()
        })
        .rust_protobuf_customize(
            ProtobufCustomize::default()
                .gen_mod_rs(false)
                .lite_runtime(true),
        )
        .run()
        .expect("the protocol files are well formed");
    for entry in fs::read_dir(out).expect("the output folder was just written") {
        let path = entry.expect("the output folder can be listed").path();
        strip_inner_attributes(&path);
    }
}

/// `include!` refuses inner attributes and inner docs.
fn strip_inner_attributes(path: &Path) {
    let text = fs::read_to_string(path).expect("generated code is text");
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("#![") && !line.starts_with("//!"))
        .collect();
    fs::write(path, kept.join("\n")).expect("generated code can be rewritten");
}
