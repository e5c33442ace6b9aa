//! Stories of the guest itself: what can only be proven inside one.

use crate::{
    e2e::world::{BOOT_LIMIT, Outcome, SOON, World},
    image,
};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::{fs, io::Write as _, path::Path};

/// AF_VSOCK is on no host that we can count on; in a guest its loopback is.
pub fn the_vsock_driver_keeps_the_channels_contract(world: &World<'_>) -> Result<()> {
    let outcome = run_inside(world, &world.fixtures().examples.vsock_contract)?;

    ensure!(
        outcome.stdout.matches(": kept").count() == 2,
        "both wires: {outcome:?}"
    );
    Ok(())
}

/// What a container had open is released while its mounts go: a guest kernel that gets this wrong dies of it, not each time.
pub fn twenty_containers_exit_and_their_guest_lives(world: &World<'_>) -> Result<()> {
    const TIMES: u32 = 20;
    let house = world.start(&mut world.hutch_run("house", "echo up; read end; exit 0")?)?;
    house.wait_for_output("up\n", BOOT_LIMIT)?;
    let bundle = world.shell("echo out; sleep 1000 & exit 5")?;

    for time in 0..TIMES {
        let mut run = world.hutch(&["run", "--sandbox", "house", "--bundle"]);
        let run = run.arg(&bundle).arg(format!("guest{time}"));
        let outcome = world.run(run, BOOT_LIMIT)?;
        ensure!(
            outcome.code() == Some(5) && outcome.stdout == "out\n",
            "{time}: {outcome:?}"
        );
    }
    super::lifecycle::succeeds(&house.finish(SOON)?)
}

/// What it still asks of the host ends before its root file system goes.
pub fn a_program_killed_while_it_is_read_takes_no_guest_along(world: &World<'_>) -> Result<()> {
    /// Between them the guest has time to end what was killed, as far as it can.
    const QUESTIONS: u32 = 20;
    let house = world.start(&mut world.hutch_run("house", "echo up; read end; exit 0")?)?;
    house.wait_for_output("up\n", BOOT_LIMIT)?;
    let bundle = world.bundle(&["/bin/page_in"])?;
    let program = bundle.join("rootfs/bin/page_in");
    fs::copy(&world.fixtures().examples.page_in, program).context("put it into the bundle")?;
    let mut run = world.hutch(&["run", "--sandbox", "house", "--bundle"]);
    let mut reader = world.start(run.arg(&bundle).arg("reader"))?;
    reader.wait_for_output("ready\n", SOON)?;
    let servers = world.processes("virtiofsd")?;
    ensure!(!servers.is_empty(), "nobody serves the share");

    for server in &servers {
        world.signal(server.pid(), Signal::SIGSTOP)?;
    }
    let mut stdin = reader.stdin().context("its stdin is ours")?;
    stdin.write_all(b"go\n")?;
    reader.wait_for_output("reading\n", SOON)?;
    super::lifecycle::succeeds(&world.verb(&["kill", "reader", "KILL"])?)?;
    for _ in 0..QUESTIONS {
        super::lifecycle::succeeds(&world.verb(&["ps", "house"])?)?;
    }
    for server in &servers {
        world.signal(server.pid(), Signal::SIGCONT)?;
    }

    let outcome = reader.finish(SOON)?;
    ensure!(outcome.code() == Some(137), "{outcome:?}");
    super::lifecycle::succeeds(&world.verb(&["exec", "house", "/bin/true"])?)?;
    super::lifecycle::succeeds(&house.finish(SOON)?)
}

/// What a process's output travels through where the channel is vsock.
pub fn a_relay_keeps_every_byte_over_vsock(world: &World<'_>) -> Result<()> {
    let outcome = run_inside(world, &world.fixtures().examples.vsock_stream)?;

    ensure!(
        outcome.stdout == "bytes and exit code: kept\nnobody listens: said\n",
        "output: {outcome:?}"
    );
    Ok(())
}

fn run_inside(world: &World<'_>, program: &Path) -> Result<Outcome> {
    let bundle = world.bundle(&["/bin/inside"])?;
    put_program(program, &bundle, "bin/inside")?;
    let mut command = world.hutch(&["run", "--bundle"]);
    command.arg(bundle).arg("inside");
    let outcome = world.run(&mut command, BOOT_LIMIT)?;
    ensure!(outcome.code() == Some(0), "exit code: {outcome:?}");
    Ok(outcome)
}

/// With the libraries that it needs.
pub(super) fn put_program(program: &Path, bundle: &Path, name: &str) -> Result<()> {
    let rootfs = bundle.join("rootfs");
    put(program, &rootfs.join(name))?;
    for library in image::libraries(program)? {
        let inside = library.strip_prefix("/").unwrap_or(&library);
        put(&library, &rootfs.join(inside))?;
    }
    Ok(())
}

fn put(file: &Path, into: &Path) -> Result<()> {
    let folder = into.parent().context("a file lies in a folder")?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy(file, into))
        .with_context(|| format!("put {} into the bundle", file.display()))?;
    Ok(())
}
