//! Stories of the guest itself: what can only be proven inside one.

use crate::e2e::world::{BOOT_LIMIT, World};
use anyhow::{Context, Result, ensure};

/// AF_VSOCK is on no host that we can count on; in a guest its loopback is.
pub fn the_vsock_driver_keeps_the_channels_contract(world: &World<'_>) -> Result<()> {
    let bundle = world.bundle(&["/bin/vsock_contract"])?;
    std::fs::copy(
        &world.fixtures().vsock_contract,
        bundle.join("rootfs/bin/vsock_contract"),
    )
    .context("put the contract into the bundle")?;
    let mut command = world.hutch(&["run", "--bundle"]);
    command.arg(bundle).arg("contract");

    let outcome = world.run(&mut command, BOOT_LIMIT)?;

    ensure!(outcome.code() == Some(0), "exit code: {outcome:?}");
    ensure!(
        outcome.stdout.matches(": kept").count() == 2,
        "both wires: {outcome:?}"
    );
    Ok(())
}
