//! Builds our own binaries, all of them static: those of the guest must be, and one build of everything costs half of two.
//!
//! Their bytes do not depend on where the checkout or cargo's folder lie.

use crate::{command, workspace::Workspace};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// The only one with std installed everywhere we build; static through crt-static, so no musl target is needed.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";
/// Between the flags in `CARGO_ENCODED_RUSTFLAGS`, so that a path may hold blanks.
const FLAG_SEPARATOR: &str = "\x1f";
/// Where Debian's libseccomp-dev puts libseccomp.a.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
/// Always built together: cargo unites the features of what is built at once, and the same set gives the same bytes.
const PACKAGES: &[&str] = &["hutch", "hutchd", "hutch-relay", "hutch-agent"];

/// What was built, by path.
pub struct Binaries {
    pub hutch: PathBuf,
    pub hutchd: PathBuf,
    pub relay: PathBuf,
    /// PID 1 of the guest.
    pub agent: PathBuf,
}

/// All binaries, release profile.
pub fn all(workspace: &Workspace) -> Result<Binaries> {
    eprintln!("building {}", PACKAGES.join(", "));
    let mut cargo = static_build(workspace)?;
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    command::run(&mut cargo)?;
    let folder = static_folder(workspace);
    Ok(Binaries {
        hutch: folder.join("hutch"),
        hutchd: folder.join("hutchd"),
        relay: folder.join("hutch-relay"),
        agent: folder.join("hutch-agent"),
    })
}

/// The channel contract on AF_VSOCK, as a program to put into a guest.
pub fn vsock_contract(workspace: &Workspace) -> Result<PathBuf> {
    let words = ["--package", "agent-client", "--features", "contract"];
    static_example(workspace, "vsock_contract", &words)
}

/// A relay on AF_VSOCK, as a program to put into a guest.
pub fn vsock_stream(workspace: &Workspace) -> Result<PathBuf> {
    static_example(workspace, "vsock_stream", &["--package", "hutch-relay"])
}

fn static_example(workspace: &Workspace, name: &str, words: &[&str]) -> Result<PathBuf> {
    eprintln!("building {name}");
    command::run(
        static_build(workspace)?
            .args(words)
            .args(["--example", name]),
    )?;
    Ok(static_folder(workspace).join("examples").join(name))
}

/// The test program `name` of `package`, built as `cargo xtask test` builds it, so that it is built once.
pub fn test_program(workspace: &Workspace, package: &str, name: &str) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["test", "--workspace", "--all-features", "--locked"])
        .args(["--no-run", "--test", name])
        .args(["--message-format", "json-render-diagnostics"]);
    built_test(&command::read(&mut cargo)?, package, name)
}

/// From cargo's messages, since its name has a hash in it, which only cargo knows.
fn built_test(messages: &str, package: &str, name: &str) -> Result<PathBuf> {
    let of_test = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let ours = message["target"]["name"] == name
            && message["manifest_path"]
                .as_str()
                .is_some_and(|path| path.ends_with(&format!("/{package}/Cargo.toml")));
        let path = message["executable"].as_str().filter(|_| ours)?;
        Some(PathBuf::from(path))
    };
    let built = messages.lines().find_map(of_test);
    built.with_context(|| format!("find test {name} of {package}: cargo built no such program"))
}

/// hutchd with simulated sandboxes, for the bench.
pub fn crowd(workspace: &Workspace) -> Result<PathBuf> {
    for_bench(workspace)?;
    Ok(static_folder(workspace).join("examples/crowd"))
}

/// The test of the agent's engine as a program, which is the first process of a guest too.
pub fn engine(workspace: &Workspace) -> Result<PathBuf> {
    let messages = for_bench(workspace)?;
    built_test(&messages, "hutch-agent", "engine")
}

/// Both at once: each alone would have other features and be built from the ground up. cargo's messages.
fn for_bench(workspace: &Workspace) -> Result<String> {
    eprintln!("building what the bench measures");
    command::read(
        static_build(workspace)?
            .args(["--package", "hutchd", "--example", "crowd"])
            .args(["--package", "hutch-agent", "--test", "engine"])
            .args(["--message-format", "json-render-diagnostics"]),
    )
}

fn static_folder(workspace: &Workspace) -> PathBuf {
    workspace.target().join(STATIC_TARGET).join("release")
}

fn static_build(workspace: &Workspace) -> Result<Command> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--release", "--locked"])
        .args(["--target", STATIC_TARGET])
        .env("CARGO_ENCODED_RUSTFLAGS", static_flags(workspace)?)
        .env_remove("RUSTFLAGS")
        .env("LIBSECCOMP_LINK_TYPE", "static")
        .env("LIBSECCOMP_LIB_PATH", LIBRARIES);
    Ok(cargo)
}

fn static_flags(workspace: &Workspace) -> Result<OsString> {
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(path) => PathBuf::from(path),
        None => std::env::home_dir()
            .context("find cargo's folder: no home directory; set CARGO_HOME")?
            .join(".cargo"),
    };
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    for (from, to) in [
        (workspace.root(), "/hutch"),
        (&workspace.target(), "/target"),
        (&cargo_home, "/cargo"),
    ] {
        flags.push(FLAG_SEPARATOR);
        flags.push(remap(from, to));
    }
    Ok(flags)
}

fn remap(from: &Path, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push("=");
    flag.push(to);
    flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_this_machine_is_remapped() {
        let workspace = Workspace::find();

        let flags = static_flags(&workspace).unwrap().into_string().unwrap();

        let flags: Vec<&str> = flags.split(FLAG_SEPARATOR).collect();
        let root = workspace.root().display();
        assert_eq!(flags[0], "-Ctarget-feature=+crt-static");
        assert!(flags.contains(&format!("--remap-path-prefix={root}=/hutch").as_str()));
        assert!(flags.iter().any(|flag| flag.ends_with("=/cargo")));
    }
}
