//! Stories of sudden deaths: the daemon's, and those of what it looks after.

use crate::{
    e2e::world::{BOOT_LIMIT, Running, SOON, World},
    wait::wait_until,
};
use anyhow::{Result, ensure};

/// What a container that lost its VM exits with.
const VM_LOST: i32 = 255;

pub fn a_killed_daemon_costs_no_output_and_no_exit_code(world: &World<'_>) -> Result<()> {
    const COUNT: u32 = 200;
    let script =
        format!("i=0; while [ $i -lt {COUNT} ]; do echo $i; i=$((i+1)); sleep 0.02; done; exit 3");
    let counter = world.start(&mut world.hutch_run("counter", &script)?)?;
    counter.wait_for_output("\n20\n", BOOT_LIMIT)?;

    world.kill(world.daemon()?)?;
    let outcome = counter.finish(BOOT_LIMIT)?;

    let expected: String = (0..COUNT).map(|number| format!("{number}\n")).collect();
    ensure!(outcome.stdout == expected, "output: {outcome:?}");
    ensure!(outcome.code() == Some(3), "exit code: {outcome:?}");
    let list = world.verb(&["list", "--quiet"])?;
    ensure!(
        list.code() == Some(0) && list.stdout.is_empty(),
        "list: {list:?}"
    );
    Ok(())
}

pub fn a_killed_vm_ends_its_container_with_a_reason(world: &World<'_>) -> Result<()> {
    loses_its_vm(world, "qemu-system")
}

/// Without its files a guest is of no use: a virtiofsd that dies takes the VM along.
pub fn a_killed_virtiofsd_ends_its_container_with_a_reason(world: &World<'_>) -> Result<()> {
    loses_its_vm(world, "virtiofsd")
}

fn loses_its_vm(world: &World<'_>, victim: &str) -> Result<()> {
    let sleeper = sleeper(world)?;

    let victims = world.processes(victim)?;
    ensure!(!victims.is_empty(), "no {victim} runs");
    for process in victims {
        world.kill(process.pid())?;
    }
    let outcome = sleeper.finish(SOON)?;

    ensure!(outcome.code() == Some(VM_LOST), "exit code: {outcome:?}");
    ensure!(!outcome.stderr.is_empty(), "nobody said why: {outcome:?}");
    Ok(())
}

/// As for any runtime's child: who kills what stands for a process kills the process.
pub fn a_killed_relay_takes_its_process_along(world: &World<'_>) -> Result<()> {
    let sleeper = sleeper(world)?;

    world.kill(sleeper.pid())?;

    let is_over = || {
        let state = world.verb(&["state", "sleeper"]);
        state.is_ok_and(|state| state.stdout.contains("\"status\": \"stopped\""))
    };
    ensure!(wait_until(is_over, SOON), "its container lives on");
    ensure!(
        wait_until(
            || world
                .processes("qemu-system")
                .is_ok_and(|vms| vms.is_empty()),
            SOON
        ),
        "its VM lives on"
    );
    // Whoever would have deleted it is dead; as with runc, it stays until someone does.
    super::lifecycle::succeeds(&world.verb(&["delete", "sleeper"])?)
}

/// A container that sleeps, in a VM that is up.
fn sleeper(world: &World<'_>) -> Result<Running> {
    let sleeper = world.start(&mut world.hutch_run("sleeper", "echo up; exec sleep 1000")?)?;
    sleeper.wait_for_output("up\n", BOOT_LIMIT)?;
    ensure!(
        world.processes("qemu-system")?.len() == 1,
        "one sandbox is one VM"
    );
    Ok(sleeper)
}
