//! `cargo xtask fuzz`: what nobody writes, thrown at what reads it, by cargo-fuzz.
//!
//! Needs a nightly toolchain. What was found worth keeping lies in `fuzz/corpus`, and plain tests read it everywhere.

use crate::{cache::Cache, command, programs, scratch::Scratch, workspace::Workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Args)]
pub struct Arguments {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// These targets alone
    targets: Vec<String>,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let found = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--version"])
        .output();
    if !found.is_ok_and(|found| found.status.success()) {
        bail!(
            "there is no nightly toolchain, which cargo-fuzz needs: rustup toolchain install nightly"
        );
    }
    let program = programs::ensure(workspace, &Cache::open()?, &programs::CARGO_FUZZ)?;
    let folder = workspace.root().join("fuzz");
    let all = targets(&folder)?;
    let chosen = match arguments.targets.as_slice() {
        [] => all.clone(),
        chosen => chosen.to_vec(),
    };
    if let Some(unknown) = chosen.iter().find(|name| !all.contains(name)) {
        bail!(
            "there is no fuzz target {unknown:?}; there are {}",
            all.join(", ")
        );
    }
    for name in &chosen {
        one(workspace, &program, name, arguments.seconds)?;
        eprintln!("fuzz target {name}: {} s, nothing found", arguments.seconds);
    }
    Ok(())
}

/// Each is a file.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let folder = folder.join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let mut names = entries
        .map(|entry| {
            let path = entry?.path();
            let stem = path.file_stem().unwrap_or_default();
            Ok(stem.to_string_lossy().into_owned())
        })
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Begins with the corpus, and leaves it as it is; what breaks the target is kept below the target folder.
fn one(workspace: &Workspace, program: &Path, name: &str, seconds: u32) -> Result<()> {
    let found = Scratch::new()?;
    let broken = workspace.target().join("fuzz/broken").join(name);
    fs::create_dir_all(&broken).with_context(|| format!("create {}", broken.display()))?;
    let corpus: PathBuf = workspace.root().join("fuzz/corpus").join(name);
    let mut fuzz = Command::new(program);
    fuzz.args(["fuzz", "run", "--target-dir"])
        .arg(workspace.target().join("fuzz"))
        .arg(name)
        .arg(found.path())
        .arg(corpus)
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", broken.display()))
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .env_remove("RUSTFLAGS")
        .current_dir(workspace.root());
    command::run(&mut fuzz).with_context(|| format!("fuzz target {name}; see {}", broken.display()))
}
