//! Stories of a channel that is not the default of this host: hybrid vsock, which a program beside the VMM carries.

use super::{
    lifecycle::succeeds,
    spending::{is_what_its_host_spends, pids},
};
use crate::e2e::{
    process,
    world::{BOOT_LIMIT, SOON, World},
};
use anyhow::{Context, Result, bail, ensure};
use std::{io::Write, thread, time::Instant};

const BACKEND: &str = "vhost-device-vsock";
const HYBRID: &str = "[guest]\nchannel = \"hybrid-vsock\"\n";
/// What a container that lost its VM exits with.
const VM_LOST: i32 = 255;

pub fn a_container_over_hybrid_vsock_has_output_exit_code_and_execs(
    world: &World<'_>,
) -> Result<()> {
    world.configure(HYBRID)?;
    let mut house = world.start(&mut world.hutch_run("house", "echo up; cat; exit 7")?)?;
    house.wait_for_output("up\n", BOOT_LIMIT)?;
    ensure!(
        world.processes(BACKEND)?.len() == 1,
        "one sandbox has one backend"
    );

    world.execs_lose_nothing("house", 5)?;
    // The backend is one of the helpers, and the relay is the command itself.
    let helpers = [pids(world, BACKEND)?, pids(world, "virtiofsd")?].concat();
    let vmm = pids(world, "qemu-system")?;
    let parts = [
        ("vmm", vmm),
        ("helpers", helpers),
        ("relays", vec![house.pid()]),
    ];
    is_what_its_host_spends(world, "house", &parts)?;
    let mut stdin = house.stdin().context("stdin is piped")?;
    stdin.write_all(b"in\n").context("write")?;
    drop(stdin);
    let outcome = house.finish(SOON)?;

    ensure!(outcome.code() == Some(7), "exit code: {outcome:?}");
    ensure!(outcome.stdout == "up\nin\n", "output: {outcome:?}");
    Ok(())
}

/// Bytes go both ways through the container's stream while the daemon dies and the next one takes over.
pub fn a_killed_daemon_costs_no_byte_over_hybrid_vsock(world: &World<'_>) -> Result<()> {
    const LINES: usize = 1_000_000;
    world.configure(HYBRID)?;
    let text: String = (0..LINES).map(|number| format!("{number}\n")).collect();
    let mut echo = world.start(&mut world.hutch_run("echo", "echo up; cat; exit 3")?)?;
    echo.wait_for_output("up\n", BOOT_LIMIT)?;
    let mut stdin = echo.stdin().context("stdin is piped")?;
    let (half, rest) = text.split_at(text.len() / 2);
    let (half, rest) = (half.to_owned(), rest.to_owned());

    let written = thread::spawn(move || stdin.write_all(half.as_bytes()).map(|()| stdin));
    echo.wait_for_output("\n20\n", BOOT_LIMIT)?;
    world.kill(world.daemon()?)?;
    // Whoever asks starts the next one, which adopts VM and backend.
    let exec = world.verb(&["exec", "echo", "/bin/sh", "-c", "echo inside; exit 5"])?;
    let mut stdin = written.join().ok().context("the writer panicked")??;
    stdin.write_all(rest.as_bytes()).context("write")?;
    drop(stdin);
    let outcome = echo.finish(BOOT_LIMIT)?;

    ensure!(
        exec.code() == Some(5) && exec.stdout == "inside\n",
        "exec: {exec:?}"
    );
    ensure!(outcome.code() == Some(3), "exit code: {:?}", outcome.status);
    ensure!(
        outcome.stdout == format!("up\n{text}"),
        "{} bytes went in and {} came out; {:?}",
        text.len(),
        outcome.stdout.len(),
        outcome.stderr
    );
    Ok(())
}

/// Nobody could talk to such a guest any more.
pub fn a_killed_vsock_backend_ends_its_container_with_a_reason(world: &World<'_>) -> Result<()> {
    world.configure(HYBRID)?;
    let sleeper = world.start(&mut world.hutch_run("sleeper", "echo up; exec sleep 1000")?)?;
    sleeper.wait_for_output("up\n", BOOT_LIMIT)?;

    let victims = world.processes(BACKEND)?;
    ensure!(victims.len() == 1, "backends: {victims:?}");
    world.kill(victims[0].pid())?;
    let outcome = sleeper.finish(SOON)?;

    ensure!(outcome.code() == Some(VM_LOST), "exit code: {outcome:?}");
    ensure!(
        outcome.stderr.contains("vsock backend"),
        "nobody said why: {outcome:?}"
    );
    let vms = world.processes("qemu-system")?;
    ensure!(vms.is_empty(), "its VM lives on: {vms:?}");
    Ok(())
}

/// The next daemon finds a VM that lost its channel while nobody looked after it.
pub fn a_vsock_backend_killed_while_no_daemon_lives_ends_its_container_too(
    world: &World<'_>,
) -> Result<()> {
    world.configure(HYBRID)?;
    let sleeper = world.start(&mut world.hutch_run("sleeper", "echo up; exec sleep 1000")?)?;
    sleeper.wait_for_output("up\n", BOOT_LIMIT)?;
    let victims = world.processes(BACKEND)?;

    world.kill(world.daemon()?)?;
    for victim in victims {
        world.kill(victim.pid())?;
    }
    let outcome = sleeper.finish(BOOT_LIMIT)?;

    ensure!(outcome.code() == Some(VM_LOST), "exit code: {outcome:?}");
    succeeds(&world.verb(&["list"])?)
}

/// A backend that has begun and whose VMM has not is in a cgroup that is on record.
pub fn a_daemon_killed_as_its_vsock_backend_begins_orphans_nothing(
    world: &World<'_>,
) -> Result<()> {
    const TIMES: u32 = 3;
    world.configure(HYBRID)?;
    let bundle = world.shell("echo ran")?;
    for time in 0..TIMES {
        succeeds(&world.verb(&["list"])?)?;
        let daemon = world.daemon()?;
        let id = format!("early{time}");
        let create = world.create(&id, &bundle)?;

        wait_for_backend(daemon.as_raw())?;
        world.kill(daemon)?;
        let outcome = create.finish(BOOT_LIMIT)?;

        let list = world.verb(&["list", "--quiet"])?;
        let (vms, backends) = (world.processes("qemu-system")?, world.processes(BACKEND)?);
        let (listed, running) = match outcome.status.success() {
            true => (format!("{id}\n"), 1),
            false => (String::new(), 0),
        };
        ensure!(list.stdout == listed, "{outcome:?}, and listed: {list:?}");
        ensure!(
            (vms.len(), backends.len()) == (running, running),
            "{outcome:?}, and there run: {vms:?}, {backends:?}"
        );
        succeeds(&world.verb(&["delete", "--force", &id])?)?;
    }
    Ok(())
}

/// Looks without a pause: its VMM begins within milliseconds.
fn wait_for_backend(daemon: i32) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < BOOT_LIMIT {
        let all = process::all()?;
        let mut children = all.iter().filter(|child| child.parent == daemon);
        if children.any(|child| child.command.contains(BACKEND)) {
            return Ok(());
        }
    }
    bail!("no backend was started")
}

pub fn a_vsock_backend_that_does_not_start_is_said_and_leaves_nothing(
    world: &World<'_>,
) -> Result<()> {
    world.configure(&format!(
        "{HYBRID}[hypervisor]\nvsock_backend = \"/bin/false\"\n"
    ))?;

    let outcome = world.run(&mut world.hutch_run("none", "echo up")?, BOOT_LIMIT)?;

    ensure!(outcome.code() == Some(1), "exit code: {outcome:?}");
    ensure!(
        outcome
            .stderr
            .contains("vsock backend ended before it listened"),
        "nobody said why: {outcome:?}"
    );
    let list = world.verb(&["list", "--quiet"])?;
    ensure!(list.stdout.is_empty(), "list: {list:?}");
    Ok(())
}
