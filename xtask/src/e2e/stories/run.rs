//! Stories of `run`: a command in, its output and its exit code out.

use crate::{
    assets,
    e2e::world::{BOOT_LIMIT, World},
};
use anyhow::{Context, Result, ensure};
use std::{io::Write, process::Command};

pub fn hello_comes_out_and_the_exit_code_comes_back(world: &World<'_>) -> Result<()> {
    let script = "echo hello from $(uname -r); echo to stderr >&2; exit 7";

    let outcome = world.run(&mut world.hutch_run("hello", script)?, BOOT_LIMIT)?;

    ensure!(outcome.code() == Some(7), "exit code: {outcome:?}");
    ensure!(
        outcome.stdout.starts_with("hello from 6.1.") && outcome.stdout.ends_with("-hutch\n"),
        "output: {outcome:?}"
    );
    ensure!(outcome.stderr == "to stderr\n", "errors: {outcome:?}");
    Ok(())
}

/// `cargo xtask run` itself: everything is there already, so it builds nothing and says only what the command says.
pub fn a_second_run_starts_from_the_cache(world: &World<'_>) -> Result<()> {
    let mut again = Command::new(std::env::current_exe()?);
    again
        .args(["run", "--state"])
        .arg(world.root())
        .args(["--", "/bin/echo", "again"])
        .env_remove(assets::VARIABLE);

    let outcome = world.run(&mut again, BOOT_LIMIT)?;

    ensure!(outcome.code() == Some(0), "exit code: {outcome:?}");
    ensure!(outcome.stdout == "again\n", "output: {outcome:?}");
    ensure!(
        !outcome.stderr.contains("not in the cache") && !outcome.stderr.contains("Compiling"),
        "something was built again: {outcome:?}"
    );
    Ok(())
}

/// More than every window and buffer on the way together.
pub fn what_goes_in_comes_out_unchanged(world: &World<'_>) -> Result<()> {
    const LINES: u32 = 1_000_000;
    let input: String = (0..LINES).map(|number| format!("{number:07}\n")).collect();
    let mut cat = world.start(&mut world.hutch_run("cat", "exec cat")?)?;
    let mut stdin = cat.stdin().context("stdin is piped")?;

    let written = std::thread::spawn({
        let input = input.clone();
        // End of input when the thread is done.
        move || stdin.write_all(input.as_bytes())
    });
    let outcome = cat.finish(BOOT_LIMIT)?;

    written
        .join()
        .ok()
        .context("the writer panicked")?
        .context("write to the container")?;
    ensure!(
        outcome.code() == Some(0),
        "exit code: {:?}, {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(
        outcome.stdout == input,
        "{} bytes came back of {}",
        outcome.stdout.len(),
        input.len()
    );
    Ok(())
}

pub fn output_written_just_before_the_end_is_not_lost(world: &World<'_>) -> Result<()> {
    const BYTES: usize = 300_000;
    let script = format!("head -c {BYTES} /dev/zero | tr '\\0' x");

    let outcome = world.run(&mut world.hutch_run("last", &script)?, BOOT_LIMIT)?;

    ensure!(
        outcome.code() == Some(0),
        "exit code: {:?}, {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(
        outcome.stdout == "x".repeat(BYTES),
        "{} bytes came of {BYTES}",
        outcome.stdout.len()
    );
    Ok(())
}

pub fn an_exit_is_reported_while_a_child_keeps_the_output_open(world: &World<'_>) -> Result<()> {
    let script = "sleep 1000 & echo started; exit 4";

    let outcome = world.run(&mut world.hutch_run("parent", script)?, BOOT_LIMIT)?;

    ensure!(outcome.code() == Some(4), "exit code: {outcome:?}");
    ensure!(outcome.stdout == "started\n", "output: {outcome:?}");
    Ok(())
}
