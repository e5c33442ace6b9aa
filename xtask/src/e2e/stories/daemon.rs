//! Stories of sudden deaths: the daemon's, and those of what it looks after.

use crate::{
    bundle,
    e2e::{
        process,
        world::{BOOT_LIMIT, Running, SOON, World},
    },
    wait::wait_until,
};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use std::{fs, time::Instant};

/// What a container that lost its VM exits with.
const VM_LOST: i32 = 255;

pub fn a_killed_daemon_costs_no_output_and_no_exit_code(world: &World<'_>) -> Result<()> {
    const COUNT: u32 = 60;
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
        // virtiofsd is two processes, and one takes the other along.
        match kill(process.pid(), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(why) => return Err(why).context(format!("kill {victim}")),
        }
    }
    let outcome = sleeper.finish(SOON)?;

    ensure!(outcome.code() == Some(VM_LOST), "exit code: {outcome:?}");
    ensure!(!outcome.stderr.is_empty(), "nobody said why: {outcome:?}");
    Ok(())
}

/// The agent is the guest's PID 1: nobody in the guest can send it a deadly signal, so its code is overwritten. With it
/// the guest dies, and everything that was in it.
pub fn a_crashed_agent_ends_its_container_with_a_reason(world: &World<'_>) -> Result<()> {
    const CRASH: &str = "echo up; \
        range=$(grep -m 1 ' r-xp ' /proc/1/maps | cut -d ' ' -f 1); \
        from=$((0x${range%-*} / 4096)); to=$((0x${range#*-} / 4096)); \
        dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$from count=$((to - from)) conv=notrunc; \
        sleep 1000";
    let bundle = world.shell(CRASH)?;
    bundle::change(&bundle, |config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_SYS_PTRACE"]);
        }
        // The pid namespace of the agent itself.
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }
    })?;
    let mut run = world.hutch(&["run", "--bundle"]);
    run.arg(&bundle).arg("crash");

    let outcome = world.run(&mut run, BOOT_LIMIT)?;

    ensure!(outcome.code() == Some(VM_LOST), "exit code: {outcome:?}");
    ensure!(
        outcome.stdout == "up\n" && outcome.stderr.contains("hutch: "),
        "nobody said why: {outcome:?}"
    );
    Ok(())
}

/// A VMM that has begun and is on no record yet has its cgroup, which is.
pub fn pain_1_a_daemon_killed_as_its_vm_begins_orphans_nothing(world: &World<'_>) -> Result<()> {
    const TIMES: u32 = 3;
    let bundle = world.shell("echo ran")?;
    for time in 0..TIMES {
        super::lifecycle::succeeds(&world.verb(&["list"])?)?;
        let daemon = world.daemon()?;
        let id = format!("early{time}");
        let create = world.create(&id, &bundle)?;

        wait_for_vmm(daemon)?;
        world.kill(daemon)?;
        let outcome = create.finish(BOOT_LIMIT)?;

        let list = world.verb(&["list", "--quiet"])?;
        let vms = world.processes("qemu-system")?;
        let (listed, running) = match outcome.status.success() {
            true => (format!("{id}\n"), 1),
            false => (String::new(), 0),
        };
        ensure!(list.stdout == listed, "{outcome:?}, and listed: {list:?}");
        ensure!(vms.len() == running, "{outcome:?}, and there run: {vms:?}");
        super::lifecycle::succeeds(&world.verb(&["delete", "--force", &id])?)?;
    }
    Ok(())
}

/// Looks without a pause for a child that has joined a VMM's cgroup: between that and its record is less than a
/// millisecond.
fn wait_for_vmm(daemon: Pid) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < BOOT_LIMIT {
        for child in process::all()? {
            let is_child = child.parent == daemon.as_raw();
            // It may have ended.
            let cgroup = || fs::read_to_string(format!("/proc/{}/cgroup", child.pid()));
            if is_child && cgroup().is_ok_and(|cgroup| cgroup.contains("/vmm\n")) {
                return Ok(());
            }
        }
    }
    bail!("no VMM was started")
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

/// A guest that answers nothing is asked for nothing that can be had without it.
pub fn pain_3_a_guest_that_hangs_is_looked_at_and_taken_away(world: &World<'_>) -> Result<()> {
    let sleeper = sleeper(world)?;
    let vms = world.processes("qemu-system")?;
    world.signal(vms[0].pid(), Signal::SIGSTOP)?;
    // They wait for the guest, which is nobody else's trouble.
    let waiting: [&[&str]; 5] = [
        &["exec", "sleeper", "true"],
        &["kill", "sleeper", "USR1"],
        &["events", "--stats", "sleeper"],
        &["update", "--pids-limit", "50", "sleeper"],
        &["pause", "sleeper"],
    ];
    let waiting = waiting.map(|words| world.start(&mut world.hutch(words)));

    let state = world.verb(&["state", "sleeper"])?;
    let list = world.verb(&["list", "--quiet"])?;
    super::lifecycle::succeeds(&world.verb(&["delete", "--force", "sleeper"])?)?;

    ensure!(
        state.stdout.contains("\"status\": \"running\"") && list.stdout == "sleeper\n",
        "{state:?}, {list:?}"
    );
    for waiting in waiting {
        let ended = waiting?.finish(SOON)?;
        ensure!(
            !ended.status.success() && ended.stderr.contains("sleeper"),
            "nobody said why: {ended:?}"
        );
    }
    let sleeper = sleeper.finish(SOON)?;
    ensure!(!sleeper.status.success(), "exit code: {sleeper:?}");
    Ok(())
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
