//! Stories of the guest itself: what can only be proven inside one.

use crate::e2e::world::{BOOT_LIMIT, Outcome, World};
use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};

/// AF_VSOCK is on no host that we can count on; in a guest its loopback is.
pub fn the_vsock_driver_keeps_the_channels_contract(world: &World<'_>) -> Result<()> {
    let outcome = run_inside(world, &world.fixtures().vsock_contract)?;

    ensure!(
        outcome.stdout.matches(": kept").count() == 2,
        "both wires: {outcome:?}"
    );
    Ok(())
}

/// What a process's output travels through where the channel is vsock.
pub fn a_relay_keeps_every_byte_over_vsock(world: &World<'_>) -> Result<()> {
    let outcome = run_inside(world, &world.fixtures().vsock_stream)?;

    ensure!(
        outcome.stdout == "bytes and exit code: kept\nnobody listens: said\n",
        "output: {outcome:?}"
    );
    Ok(())
}

fn run_inside(world: &World<'_>, program: &Path) -> Result<Outcome> {
    let bundle = world.bundle(&["/bin/inside"])?;
    fs::copy(program, bundle.join("rootfs/bin/inside")).context("put a program into a bundle")?;
    let mut command = world.hutch(&["run", "--bundle"]);
    command.arg(bundle).arg("inside");
    let outcome = world.run(&mut command, BOOT_LIMIT)?;
    ensure!(outcome.code() == Some(0), "exit code: {outcome:?}");
    Ok(outcome)
}
