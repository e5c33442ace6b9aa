//! Stories of a person at a terminal.

use crate::{
    bundle,
    e2e::{
        terminal::Terminal,
        world::{BOOT_LIMIT, Running, SOON, World},
    },
};
use anyhow::{Context, Result, ensure};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::json;
use std::{fs, process::Command};

/// What a container that lost its VM exits with.
const VM_LOST: i32 = 255;

type End = fn(&World<'_>) -> Result<()>;

/// The shell of the config that `hutch spec` writes, on a terminal whose size changes.
pub fn a_shell_on_a_terminal_hears_its_keys_and_its_size(world: &World<'_>) -> Result<()> {
    let folder = world.shell("true")?;
    fs::remove_file(folder.join("config.json")).context("take the config away")?;
    let mut spec = world.hutch(&["spec", "--bundle"]);
    super::lifecycle::succeeds(&world.run(spec.arg(&folder), SOON)?)?;
    let mut run = world.hutch(&["run", "--bundle"]);
    run.arg(&folder).arg("shell");

    let (terminal, shell) = Terminal::run(&run, 24, 80)?;
    let before = terminal.modes()?;
    terminal.wait_for("/ # ", BOOT_LIMIT)?;
    ensure!(terminal.modes()? != before, "the terminal is not raw");
    terminal.enter("stty size\n")?;
    terminal.wait_for("\r\n24 80\r\n", SOON)?;
    terminal.resize(50, 132)?;
    // What is typed is shown, so it must not hold what is waited for.
    terminal
        .enter("while [ \"$(stty size)\" != '50 132' ]; do sleep 0.1; done; echo resi''zed\n")?;
    terminal.wait_for("\r\nresized\r\n", SOON)?;
    terminal.enter("sh -c 'echo lo\"\"ng; exec sleep 1000'\n")?;
    terminal.wait_for("\r\nlong\r\n", SOON)?;
    terminal.enter("\u{3}")?;
    terminal.enter("echo code $?.\n")?;
    terminal.wait_for("\r\ncode 130.\r\n", SOON)?;
    terminal.enter("exit 7\n")?;

    terminal.wait_for_end(7, SOON)?;
    ensure!(terminal.modes()? == before, "the terminal is not as it was");
    leave(&terminal, shell)
}

/// However a run ends, the terminal is as it was: by a signal that its process heeds, and by the loss of the VM.
pub fn a_terminal_comes_back_from_sudden_ends(world: &World<'_>) -> Result<()> {
    let script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let folder = world.shell("true")?;
    let args = ["/bin/sh", "-c", script].map(str::to_owned);
    let process = bundle::Process {
        args: &args,
        terminal: true,
    };
    bundle::with_rootfs(&folder, &folder.join("rootfs"), &process)?;
    let ends: [(i32, End); 2] = [(9, told_to_end), (VM_LOST, loses_its_vm)];
    for (code, end) in ends {
        let mut run = world.hutch(&["run", "--bundle"]);
        run.arg(&folder).arg("ending");
        let (terminal, shell) = Terminal::run(&run, 24, 80)?;
        let before = terminal.modes()?;
        terminal.wait_for("up\r\n", BOOT_LIMIT)?;
        ensure!(terminal.modes()? != before, "the terminal is not raw");

        end(world)?;

        terminal.wait_for_end(code, SOON)?;
        ensure!(terminal.modes()? == before, "code {code}: not as it was");
        leave(&terminal, shell)?;
    }
    Ok(())
}

/// It is in its container's cgroup, with a terminal that is not its own meanwhile: neither may keep the container.
pub fn a_job_that_was_stopped_keeps_no_container_from_its_deletion(
    world: &World<'_>,
) -> Result<()> {
    for with_terminal in [false, true] {
        let folder = world.shell("true")?;
        let args = ["/bin/sh", "-c", "echo up; exec sleep 1000"].map(str::to_owned);
        let process = bundle::Process {
            args: &args,
            terminal: with_terminal,
        };
        bundle::with_rootfs(&folder, &folder.join("rootfs"), &process)?;
        bundle::change(&folder, |config| {
            config["linux"]["cgroupsPath"] = json!("/house");
        })?;
        let run = world.hutch(&["run", "--bundle"]);
        let mut job = Command::new("sh");
        job.args([
            "-mc",
            "\"$@\"; echo stop''ped $?; read line; fg >/dev/null; echo we''nt $?",
            "sh",
        ])
        .arg(run.get_program())
        .args(run.get_args())
        .arg(&folder)
        .arg("job")
        .envs(
            run.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let (terminal, shell) = Terminal::run(&job, 24, 80)?;
        terminal.wait_for("up\r\n", BOOT_LIMIT)?;
        // A raw terminal makes no signal of ^Z.
        world.signal(run_of(world)?, Signal::SIGSTOP)?;
        terminal.wait_for("stopped 147", SOON)?;

        let deleted = world.run(&mut world.hutch(&["delete", "--force", "job"]), SOON)?;

        super::lifecycle::succeeds(&deleted)?;
        terminal.enter("\n")?;
        terminal.wait_for("went 137", SOON)?;
        terminal.wait_for_end(0, SOON)?;
        leave(&terminal, shell)?;
    }
    Ok(())
}

fn run_of(world: &World<'_>) -> Result<Pid> {
    let runs = world.processes("hutch")?;
    let run = runs
        .iter()
        .find(|process| process.command.contains(" run "))
        .context("no `hutch run`")?;
    Ok(run.pid())
}

fn told_to_end(world: &World<'_>) -> Result<()> {
    world.signal(run_of(world)?, Signal::SIGTERM)
}

fn loses_its_vm(world: &World<'_>) -> Result<()> {
    for vm in world.processes("qemu-system")? {
        world.kill(vm.pid())?;
    }
    Ok(())
}

/// The person goes away.
fn leave(terminal: &Terminal, shell: Running) -> Result<()> {
    terminal.enter("\n")?;
    shell.finish(SOON)?;
    Ok(())
}
