//! Builds our own binaries, all of them static: those of the guest must be, and one build of everything costs half of two.
//!
//! Their bytes do not depend on where the checkout or cargo's folder lie.

use crate::{command, dependencies, workspace::Workspace};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
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

impl Binaries {
    /// Where they are once they are built.
    pub fn of(workspace: &Workspace) -> Self {
        let folder = static_folder(workspace);
        Self {
            hutch: folder.join("hutch"),
            hutchd: folder.join("hutchd"),
            relay: folder.join("hutch-relay"),
            agent: folder.join("hutch-agent"),
        }
    }
}

/// All binaries, release profile.
pub fn all(workspace: &Workspace) -> Result<Binaries> {
    dependencies::lend(workspace);
    eprintln!("building {}", PACKAGES.join(", "));
    let mut cargo = static_build(workspace)?;
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    command::run(&mut cargo)?;
    Ok(Binaries::of(workspace))
}

/// Programs that stories put into a guest, with the libraries that they are linked to.
pub struct Examples {
    /// Runs the channel contract on AF_VSOCK.
    pub vsock_contract: PathBuf,
    /// Has a relay and a guest's end talk over AF_VSOCK.
    pub vsock_stream: PathBuf,
    /// Prints what inotify tells.
    pub hear: PathBuf,
    /// Reads of itself when it is told to. Static: it has no other file that its end would wait for.
    pub page_in: PathBuf,
}

impl Examples {
    /// Where they are once they are built.
    pub fn of(workspace: &Workspace) -> Self {
        let folder = workspace.target().join("debug/examples");
        Self {
            vsock_contract: folder.join("vsock_contract"),
            vsock_stream: folder.join("vsock_stream"),
            hear: folder.join("hear"),
            page_in: folder.join("page_in-static"),
        }
    }
}

/// Built as `cargo xtask test` builds them, so that they are built once.
pub fn examples(workspace: &Workspace) -> Result<Examples> {
    eprintln!("building what goes into guests");
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--workspace", "--all-features", "--locked"])
        .args(["--example", "vsock_contract", "--example", "vsock_stream"])
        .args(["--example", "hear"]);
    command::run(&mut cargo)?;
    let examples = Examples::of(workspace);
    let source = workspace.root().join("crates/devices/examples/page_in.rs");
    // Of std alone.
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--edition", "2024", "-Ctarget-feature=+crt-static", "-o"])
        .args([&examples.page_in, &source]);
    command::run(&mut rustc)?;
    Ok(examples)
}

/// The test program `name` of `package`, built as `cargo xtask test` builds it, so that it is built once.
pub fn test_program(workspace: &Workspace, package: &str, name: &str) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["test", "--workspace", "--all-features", "--locked"])
        .args(["--no-run", "--test", name])
        .args(["--message-format", "json-render-diagnostics"]);
    built(&command::read(&mut cargo)?, package, name)
}

/// From cargo's messages, since a test's name has a hash in it, which only cargo knows.
fn built(messages: &str, package: &str, name: &str) -> Result<PathBuf> {
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
    built.with_context(|| format!("find {name} of {package}: cargo built no such program"))
}

/// hutchd with simulated sandboxes, for the bench.
pub fn crowd(workspace: &Workspace) -> Result<PathBuf> {
    for_bench(workspace)?;
    Ok(static_folder(workspace).join("examples/crowd"))
}

/// The test of the agent's engine as a program, which is the first process of a guest too.
pub fn engine(workspace: &Workspace) -> Result<PathBuf> {
    let messages = for_bench(workspace)?;
    built(&messages, "hutch-agent", "engine")
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
        .env("CARGO_ENCODED_RUSTFLAGS", static_flags()?)
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper(workspace)?)
        .env_remove("RUSTFLAGS")
        .env("LIBSECCOMP_LINK_TYPE", "static")
        .env("LIBSECCOMP_LIB_PATH", LIBRARIES);
    Ok(cargo)
}

/// The same for every checkout, since they decide whether a dependency must be compiled again.
fn static_flags() -> Result<OsString> {
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(path) => PathBuf::from(path),
        None => std::env::home_dir()
            .context("find cargo's folder: no home directory; set CARGO_HOME")?
            .join(".cargo"),
    };
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    flags.push(FLAG_SEPARATOR);
    flags.push(remap(&cargo_home, "/cargo"));
    Ok(flags)
}

/// A program that compiles our own crates without the paths of this checkout, and the agent for one fixed address: a program
/// that may lie anywhere writes 18,000 addresses into itself when it starts, and each of its forks has those pages of its own.
/// What guards against an agent that a container broke into is the virtual machine around both.
fn wrapper(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.target();
    let path = target.join("rustc-of-ours");
    let quoted =
        |word: OsString| format!("'{}'", word.display().to_string().replace('\'', "'\\''"));
    let text = format!(
        "#!/bin/sh\n\
         case \" $* \" in *\" --crate-name hutch_agent \"*\" --crate-type bin \"*) set -- \"$@\" -Crelocation-model=static;; esac\n\
         exec \"$@\" {} {}\n",
        quoted(remap(workspace.root(), "/hutch")),
        quoted(remap(&target, "/target")),
    );
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(path);
    }
    // By a rename: cargo may be running it for somebody else.
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    fs::create_dir_all(&target)
        .and_then(|()| fs::write(&fresh, text))
        .and_then(|()| fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&fresh, &path))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
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
    fn every_path_of_this_machine_is_remapped_and_a_checkouts_own_for_our_crates_alone() {
        let workspace = Workspace::find();

        let flags = static_flags().unwrap().into_string().unwrap();
        let wrapper = fs::read_to_string(wrapper(&workspace).unwrap()).unwrap();

        let flags: Vec<&str> = flags.split(FLAG_SEPARATOR).collect();
        let root = workspace.root().display().to_string();
        assert_eq!(flags[0], "-Ctarget-feature=+crt-static");
        assert!(flags[1].ends_with("=/cargo"), "{flags:?}");
        assert!(!flags.iter().any(|flag| flag.contains(&root)), "{flags:?}");
        assert!(wrapper.contains(&format!("'--remap-path-prefix={root}=/hutch'")));
        assert!(wrapper.contains("=/target'"), "{wrapper}");
    }
}
