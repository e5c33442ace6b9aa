//! Stories of a daemon that is killed while a command waits for it: the command itself ends well, and
//! what it asked for was done once.

use super::lifecycle::succeeds;
use crate::{
    e2e::world::{BOOT_LIMIT, Outcome, SOON, World},
    wait::wait_until,
};
use anyhow::{Context, Result, ensure};
use nix::unistd::{Pid, getsid};
use std::{fs, path::Path, time::Duration};

/// When the daemon is killed, after the command began; a create takes seconds, the others take
/// milliseconds each.
const DURING_CREATE: [u64; 2] = [150, 900];
const DURING_OTHERS: [u64; 3] = [1, 10, 40];

pub fn pain_2_a_create_whose_daemon_is_killed_ends_well(world: &World<'_>) -> Result<()> {
    for millis in DURING_CREATE {
        let bundle = world.shell("exit 5")?;
        daemon_runs(world)?;
        let create = world.create("web", &bundle)?;
        pause(millis);
        world.kill(world.daemon()?)?;

        succeeds(&create.finish(BOOT_LIMIT)?)?;

        ensure!(state_of(world, "web")? == "created");
        let vms = world.processes("qemu-system")?.len();
        ensure!(vms == 1, "{vms} VMs were started for one container");
        succeeds(&world.verb(&["delete", "--force", "web"])?)?;
    }
    Ok(())
}

pub fn a_start_whose_daemon_is_killed_ends_well(world: &World<'_>) -> Result<()> {
    for millis in DURING_OTHERS {
        let marks = world.shell("echo mark >> /marks; sleep 1000")?;
        succeeds(&world.create("web", &marks)?.finish(BOOT_LIMIT)?)?;

        killed_during(world, millis, &["start", "web"])?;

        ensure!(state_of(world, "web")? == "running");
        ensure!(
            wait_until(|| marks_in(&marks, "marks") == 1, SOON),
            "{} starts",
            marks_in(&marks, "marks")
        );
        killed_during(world, millis, &["delete", "--force", "web"])?;
        let list = world.verb(&["list", "--quiet"])?;
        ensure!(list.stdout.is_empty(), "list: {list:?}");
    }
    Ok(())
}

pub fn an_exec_or_a_signal_whose_daemon_is_killed_is_done_once(world: &World<'_>) -> Result<()> {
    let script = "trap 'echo mark >> /signals' TERM; while :; do sleep 0.1; done";
    let bundle = world.shell(script)?;
    succeeds(&world.create("web", &bundle)?.finish(BOOT_LIMIT)?)?;
    succeeds(&world.verb(&["start", "web"])?)?;
    for (number, millis) in DURING_OTHERS.into_iter().enumerate() {
        let once = number + 1;

        let exec = [
            "exec",
            "web",
            "/bin/sh",
            "-c",
            "echo mark >> /execs; echo out",
        ];
        let outcome = killed_during(world, millis, &exec)?;
        ensure!(outcome.stdout == "out\n", "output: {outcome:?}");
        killed_during(world, millis, &["kill", "web", "TERM"])?;

        let execs = marks_in(&bundle, "execs");
        ensure!(execs == once, "{execs} execs of {once}");
        let signals = || marks_in(&bundle, "signals");
        ensure!(
            wait_until(|| signals() >= once, SOON) && signals() == once,
            "{} signals of {once}",
            signals()
        );
    }
    succeeds(&world.verb(&["delete", "--force", "web"])?)
}

/// A sandbox that lives is adopted from the records beside it.
pub fn a_damaged_store_costs_no_container(world: &World<'_>) -> Result<()> {
    let bundle = world.shell("while [ ! -e /go ]; do sleep 0.1; done; exit 9")?;
    succeeds(&world.create("web", &bundle)?.finish(BOOT_LIMIT)?)?;
    succeeds(&world.verb(&["start", "web"])?)?;
    world.kill(world.daemon()?)?;
    for entry in fs::read_dir(world.root().join("store")).context("list the store")? {
        let path = entry.context("list the store")?.path();
        if path.is_file() {
            let garbage = vec![0xa5; usize::try_from(path.metadata()?.len())?.max(1)];
            fs::write(&path, garbage).with_context(|| format!("damage {}", path.display()))?;
        }
    }

    ensure!(state_of(world, "web")? == "running");
    let said = world.verb(&["exec", "web", "/bin/echo", "hello"])?;
    ensure!(said.stdout == "hello\n", "exec: {said:?}");
    fs::write(bundle.join("rootfs/go"), "").context("let it go")?;

    let has_exited = || {
        let state = world.verb(&["state", "web"]);
        state.is_ok_and(|state| state.stdout.contains("stopped"))
    };
    ensure!(wait_until(has_exited, SOON), "its exit was not heard");
    // It is kept for whoever wants to look; nobody but its owner takes it away.
    let kept = world.root().join("store.damaged-1");
    fs::remove_dir_all(&kept).with_context(|| format!("remove {}", kept.display()))?;
    succeeds(&world.verb(&["delete", "web"])?)
}

/// Neither the caller's terminal nor the end of its cgroup may take the daemon along.
pub fn a_daemon_that_a_command_starts_stands_on_its_own(world: &World<'_>) -> Result<()> {
    daemon_runs(world)?;
    let first = own_cgroups(world.daemon()?)?;
    world.kill(world.daemon()?)?;

    daemon_runs(world)?;
    let daemon = world.daemon()?;
    let next = own_cgroups(daemon)?;

    ensure!(
        getsid(Some(daemon))? == daemon,
        "it is in a session of ours"
    );
    ensure!(first == next, "the next one found {next:?}, not {first:?}");
    Ok(())
}

fn daemon_runs(world: &World<'_>) -> Result<()> {
    succeeds(&world.verb(&["list"])?)
}

/// The daemon's cgroups, which must be of its own.
fn own_cgroups(daemon: Pid) -> Result<Vec<String>> {
    let ours = fs::read_to_string("/proc/self/cgroup").context("read our cgroups")?;
    let its = fs::read_to_string(format!("/proc/{daemon}/cgroup")).context("read its cgroups")?;
    let path = |line: &str| line.rsplit_once(':').map(|(_, path)| path.to_owned());
    let its: Vec<String> = its.lines().filter_map(path).collect();
    ensure!(
        its.iter().any(|path| path.starts_with("/hutch/daemon-")),
        "it is in {its:?}, and we are in {ours}"
    );
    Ok(its)
}

/// The command may be faster than the kill, and then nobody has started the next daemon yet.
fn killed_during(world: &World<'_>, millis: u64, verb: &[&str]) -> Result<Outcome> {
    daemon_runs(world)?;
    let daemon = world.daemon()?;
    let command = world.start(&mut world.hutch(verb))?;
    pause(millis);
    world.kill(daemon)?;
    let outcome = command.finish(BOOT_LIMIT)?;
    succeeds(&outcome).with_context(|| format!("killed after {millis} ms"))?;
    Ok(outcome)
}

fn pause(millis: u64) {
    // tidy: the moment of the kill is the story; nothing is waited for
    std::thread::sleep(Duration::from_millis(millis));
}

fn state_of(world: &World<'_>, id: &str) -> Result<String> {
    let state = world.verb(&["state", id])?;
    succeeds(&state)?;
    let state: serde_json::Value = serde_json::from_str(&state.stdout).context("read state")?;
    Ok(state["status"].as_str().unwrap_or_default().to_owned())
}

/// How often something left its mark in the container's root file system.
fn marks_in(bundle: &Path, file: &str) -> usize {
    let marks = fs::read_to_string(bundle.join("rootfs").join(file));
    marks.unwrap_or_default().lines().count()
}
