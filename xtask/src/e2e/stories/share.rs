//! Stories of what virtiofsd shares: programs that the host changes, and mounts that nobody takes along.

use super::{
    lifecycle::succeeds,
    volumes::{OBEY, bind, obedient, with_mounts},
};
use crate::{
    bundle,
    e2e::world::{BOOT_LIMIT, SOON, World},
    wait::wait_until,
};
use anyhow::{Context, Result, ensure};
use rustix::fs::{XattrFlags, removexattr, setxattr};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

/// A program on the share is larger than what is read beside it.
const PROGRAM_BYTES_MIN: u64 = 1024 * 1024;

/// A guest keeps what it read of a program, and runs the host's new one from the moment that it is there.
pub fn a_program_is_read_once_and_anew_when_the_host_changes_it(world: &World<'_>) -> Result<()> {
    let bundle = world.shell(OBEY)?;
    let rootfs = bundle.join("rootfs");
    let say = rootfs.join("bin/say");
    fs::write(&say, "#!/bin/sh\necho one\n").context("write a program")?;
    fs::set_permissions(&say, fs::Permissions::from_mode(0o755)).context("let it be run")?;
    let (running, orders) = obedient(world, "reader", &bundle)?;
    let says = |expected: &str| -> Result<()> {
        let said = world.verb(&["exec", "reader", "/bin/say"])?;
        ensure!(
            said.code() == Some(0) && said.stdout == format!("{expected}\n"),
            "not {expected}: {said:?}"
        );
        Ok(())
    };
    says("one")?;
    bundle::settle(&say)?;
    bundle::settle(&rootfs.join("bin/busybox"))?;
    // Now it is known how old it was when it was read.
    says("one")?;
    let before = read_by_virtiofsd(world)?;
    says("one")?;
    let read = read_by_virtiofsd(world)? - before;
    ensure!(read < PROGRAM_BYTES_MIN / 4, "read again: {read} bytes");

    // The same inode and as many bytes, with the times that it had before.
    let times = fs::metadata(&say)?;
    let change = |word: &str| -> Result<()> {
        fs::write(&say, format!("#!/bin/sh\necho {word}\n")).context("change it")?;
        let as_before = fs::FileTimes::new().set_modified(times.modified()?);
        let program = fs::File::options().write(true).open(&say)?;
        program.set_times(as_before).context("set its times")
    };
    for word in ["two", "six", "ten"] {
        change(word)?;
        says(word)?;
    }
    // And if nobody looks before it is old again.
    change("end")?;
    bundle::settle(&say)?;
    says("end")?;
    drop(orders);
    succeeds(&running.finish(SOON)?)
}

/// The guest keeps where a link leads to, and finds the one that takes its place.
pub fn a_link_that_the_host_turns_round_leads_to_the_new_place(world: &World<'_>) -> Result<()> {
    let bundle = world.shell(OBEY)?;
    let data = bundle.join("data");
    for place in ["old", "new"] {
        fs::create_dir_all(data.join(place)).context("make a place")?;
        fs::write(data.join(place).join("name"), place).context("name it")?;
    }
    let turn = |place: &str| -> Result<()> {
        symlink(place, data.join("fresh")).context("make a link")?;
        fs::rename(data.join("fresh"), data.join("link")).context("turn the link round")
    };
    turn("old")?;
    with_mounts(&bundle, vec![bind(&data, "/data", &["bind"])])?;
    let (running, orders) = obedient(world, "reader", &bundle)?;
    let read = || -> Result<String> {
        let outcome = world.verb(&["exec", "reader", "/bin/cat", "/data/link/name"])?;
        succeeds(&outcome)?;
        Ok(outcome.stdout)
    };
    for place in ["old", "new", "old"] {
        turn(place)?;
        let seen = wait_until(|| read().is_ok_and(|name| name == place), SOON);
        ensure!(seen, "it does not lead to {place}: {:?}", read());
        // And it stays: what was kept is that of the link which is there.
        ensure!(read()? == place, "it leads elsewhere again: {:?}", read());
    }
    drop(orders);
    succeeds(&running.finish(SOON)?)
}

/// The guest keeps that a program has no capabilities, until it has some.
pub fn a_program_that_is_given_capabilities_has_them_at_once(world: &World<'_>) -> Result<()> {
    const NAME: &str = "security.capability";
    // CAP_KILL, permitted and effective: struct vfs_ns_cap_data of linux/capability.h, revision 2.
    let mut kill = [0; 20];
    kill[..8].copy_from_slice(&[1, 0, 0, 2, 1 << 5, 0, 0, 0]);
    let bundle = world.shell(OBEY)?;
    bundle::change(&bundle, |config| {
        config["process"]["noNewPrivileges"] = false.into();
        config["process"]["capabilities"]["bounding"] = json!(["CAP_KILL"]);
    })?;
    let program = bundle.join("rootfs/bin/busybox");
    let (running, orders) = obedient(world, "reader", &bundle)?;
    let has = |expected: u64| -> Result<()> {
        let words = [
            "exec",
            "--user",
            "1000",
            "reader",
            "/bin/grep",
            "CapEff",
            "/proc/self/status",
        ];
        let said = world.verb(&words)?;
        ensure!(
            said.stdout == format!("CapEff:\t{expected:016x}\n"),
            "not {expected:#x}: {said:?}"
        );
        Ok(())
    };

    for _ in 0..2 {
        // So that the guest may keep the answer.
        bundle::settle(&program)?;
        has(0)?;
        has(0)?;
        setxattr(&program, NAME, &kill, XattrFlags::CREATE).context("give it a capability")?;
        has(1 << 5)?;
        has(1 << 5)?;
        removexattr(&program, NAME).context("take it back")?;
        has(0)?;
    }
    drop(orders);
    succeeds(&running.finish(SOON)?)
}

/// Bytes, of all files of all shares.
fn read_by_virtiofsd(world: &World<'_>) -> Result<u64> {
    let mut sum = 0;
    for process in world.processes("virtiofsd")? {
        let text = fs::read_to_string(format!("/proc/{}/io", process.pid()))
            .context("read its counters")?;
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok());
        sum += count.context("there is no rchar")?;
    }
    Ok(sum)
}

/// Whoever has `-v /:/host` would hold what is mounted for others, and with it the folders of sandboxes that are gone.
pub fn a_container_that_is_given_the_hosts_files_holds_no_sandbox(world: &World<'_>) -> Result<()> {
    let first = world.bundle(&["/bin/sleep", "100000"])?;
    succeeds(&world.detached(&["run", "--detach"], &first, "first")?)?;
    let curious = world.shell(OBEY)?;
    with_mounts(
        &curious,
        vec![bind(world.root(), "/host", &["rbind", "ro"])],
    )?;
    let (running, orders) = obedient(world, "curious", &curious)?;

    succeeds(&world.verb(&["delete", "--force", "first"])?)?;

    // The same once more for a container of its own sandbox.
    let words = ["run", "--detach", "--sandbox", "curious"];
    succeeds(&world.detached(&words, &first, "second")?)?;
    let seen = world.verb(&["exec", "curious", "/bin/sh", "-c", "echo /host/s/*/share/*"])?;
    ensure!(
        seen.stdout.trim_end().ends_with("/host/s/*/share/*"),
        "it sees others' mounts: {seen:?}"
    );
    succeeds(&world.verb(&["delete", "--force", "second"])?)?;
    drop(orders);
    succeeds(&running.finish(BOOT_LIMIT)?)
}
