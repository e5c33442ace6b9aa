//! Stories of a person at a terminal.

use crate::{
    bundle,
    e2e::{
        terminal::Terminal,
        world::{BOOT_LIMIT, Running, SOON, World},
    },
};
use anyhow::{Context, Result, ensure};
use std::fs;

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

fn told_to_end(world: &World<'_>) -> Result<()> {
    let runs = world.processes("hutch")?;
    let run = runs
        .iter()
        .find(|process| process.command.contains(" run "))
        .context("no `hutch run`")?;
    world.signal(run.pid(), nix::sys::signal::Signal::SIGTERM)
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
