//! Stories of `run`: a command in, its output and its exit code out.

use crate::{
    assets, bundle,
    e2e::world::{BOOT_LIMIT, World},
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{fs, io::Write, process::Command};

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

    // A child of an exec outlives it, and holds its output.
    let house = world.start(&mut world.hutch_run("house", "echo up; read end; exit 0")?)?;
    house.wait_for_output("up\n", BOOT_LIMIT)?;
    let exec = world.verb(&["exec", "house", "/bin/sh", "-c", script])?;
    ensure!(exec.code() == Some(4), "exit code: {exec:?}");
    ensure!(exec.stdout == "started\n", "output: {exec:?}");
    let left = world.verb(&["exec", "house", "/bin/pidof", "sleep"])?;
    ensure!(left.code() == Some(0), "the child ended too: {left:?}");
    super::lifecycle::succeeds(&house.finish(BOOT_LIMIT)?)
}

/// Whoever looks at the pid of the pid file, of the state or of a hook finds the cgroup and the network, also where
/// nobody but the command itself stands for its container.
pub fn run_in_the_foreground_is_where_its_container_is(world: &World<'_>) -> Result<()> {
    let seen = world.root().with_file_name("seen");
    let script = format!(
        r#"pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p'); readlink /proc/$pid/ns/net > {}"#,
        seen.display()
    );
    let hook =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] }]);
    let bundle = world.shell("echo up; read end; exit 6")?;
    bundle::change(&bundle, |config| {
        config["linux"]["cgroupsPath"] = json!("/house");
        config["hooks"] = json!({ "poststart": hook });
    })?;
    let file = world.root().with_file_name("pid");
    let (path, file_path) = (bundle.to_string_lossy(), file.to_string_lossy());
    let words = ["run", "--bundle", &path, "--pid-file", &file_path, "house"];
    let house = world.start(&mut world.hutch(&words))?;
    house.wait_for_output("up\n", BOOT_LIMIT)?;

    let is_there = |pid: &str| -> Result<()> {
        let about = |name: &str| format!("/proc/{pid}/{name}");
        let network = fs::read_link(about("ns/net")).context("look at a namespace")?;
        let vms = world.processes("qemu-system")?;
        let vm = fs::read_link(format!("/proc/{}/ns/net", vms[0].pid()))?;
        ensure!(network == vm, "{pid} is in {network:?}, the vm in {vm:?}");
        // Which hierarchies there are is the host's business; in one that hands controllers down it is one below.
        let cgroups = fs::read_to_string(about("cgroup")).context("read its cgroups")?;
        let inside = cgroups.lines().any(|line| line.contains(":/house"));
        ensure!(inside, "{pid} is in {cgroups}");
        Ok(())
    };
    let pid = fs::read_to_string(&file).context("read the pid file")?;
    ensure!(pid == house.pid().to_string(), "{pid} is not the command");
    is_there(&pid)?;
    let told = fs::read_to_string(&seen).context("read what the hook saw")?;
    let network = fs::read_link(format!("/proc/{pid}/ns/net"))?;
    ensure!(
        told.trim() == network.to_string_lossy(),
        "the hook saw {told}"
    );

    // An exec with a pid file, too; a daemon that it starts is at home where the command was.
    let exec_file = world.root().with_file_name("exec.pid");
    let exec_path = exec_file.to_string_lossy();
    let words = [
        "exec",
        "--pid-file",
        &exec_path,
        "house",
        "/bin/sh",
        "-c",
        "echo in; read end; exit 0",
    ];
    let exec = world.start(&mut world.hutch(&words))?;
    exec.wait_for_output("in\n", BOOT_LIMIT)?;
    is_there(&fs::read_to_string(&exec_file).context("read the pid file")?)?;
    super::lifecycle::succeeds(&exec.finish(BOOT_LIMIT)?)?;
    world.kill(world.daemon()?)?;
    let ended = house.finish(BOOT_LIMIT)?;
    ensure!(ended.code() == Some(6), "{ended:?}");
    let daemon = fs::read_link(format!("/proc/{}/ns/net", world.daemon()?))?;
    let own = fs::read_link("/proc/self/ns/net")?;
    ensure!(daemon == own, "the daemon is in {daemon:?}, we in {own:?}");
    Ok(())
}

/// The place where the command is goes with the VM; what it is to say of that does not.
pub fn pain_1_a_run_whose_vm_is_lost_says_so_also_to_a_later_daemon(
    world: &World<'_>,
) -> Result<()> {
    let bundle = world.shell("echo up; read end; exit 6")?;
    bundle::change(&bundle, |config| {
        config["linux"]["cgroupsPath"] = json!("/house");
    })?;
    let path = bundle.to_string_lossy();
    let house = world.start(&mut world.hutch(&["run", "--bundle", &path, "house"]))?;
    house.wait_for_output("up\n", BOOT_LIMIT)?;
    world.kill(world.daemon()?)?;
    super::lifecycle::succeeds(&world.verb(&["state", "house"])?)?;

    let vms = world.processes("qemu-system")?;
    world.kill(vms[0].pid())?;
    let lost = house.finish(BOOT_LIMIT)?;

    ensure!(lost.code() == Some(255), "{lost:?}");
    ensure!(lost.stderr.contains("vm"), "nothing says why: {lost:?}");
    let list = world.verb(&["list", "--quiet"])?;
    ensure!(list.stdout.is_empty(), "it is left: {list:?}");
    Ok(())
}
