//! The tests of the container engine inside a guest: there cgroups have their controllers, which many a host keeps
//! for itself, and the kernel is the one that containers get.

use crate::{
    assets::Assets, build, command, counts::Counts, image, scratch::Scratch, test,
    workspace::Workspace,
};
use anyhow::{Context, Result};
use std::{fs, path::Path, process::Command};

/// Debian's package busybox-static.
const BUSYBOX: &str = "/usr/bin/busybox";
/// Seconds; emulated, on a machine that builds at the same time, it takes about one minute.
const LIMIT: &str = "600";

/// Boots a guest whose first process is the engine's tests, and counts what it prints on its console.
pub fn in_guest(workspace: &Workspace, assets: &Assets) -> Result<Counts> {
    let program = build::test_program(workspace, "hutch-agent", "engine")?;
    let scratch = Scratch::new()?;
    let initrd = scratch.path().join("initrd");
    let image = image::for_test(&program, &[Path::new(BUSYBOX)])?;
    fs::write(&initrd, image).with_context(|| format!("write {}", initrd.display()))?;

    let mut guest = Command::new("timeout");
    guest.args([LIMIT, "qemu-system-x86_64"]);
    guest.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", "512"]);
    guest.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    guest.args(["-no-reboot", "-serial", "stdio", "-bios", "qboot.rom"]);
    guest
        .arg("-kernel")
        .arg(assets.folder.join("vmlinux"))
        .arg("-initrd")
        .arg(&initrd)
        .arg("-append")
        .arg("console=ttyS0 quiet panic=-1 reboot=t tsc=reliable no_timer_check mitigations=off");
    let counts = test::cargo_tests(&mut guest)?;
    if counts == Counts::default() {
        eprintln!("`{}` printed no result", command::line(&guest));
        return Ok(Counts::FAILED);
    }
    Ok(counts)
}
