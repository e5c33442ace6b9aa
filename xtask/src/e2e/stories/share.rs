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

/// What is created has read of its program what it will need first, before anybody starts it.
pub fn a_program_is_read_ahead_of_its_start(world: &World<'_>) -> Result<()> {
    // The share's own doings are a few kilobytes.
    const AHEAD_BYTES_MIN: u64 = 64 * 1024;
    succeeds(&world.verb(&["sandbox", "run", "house"])?)?;
    // After the boot, which may take longer than a program is fresh.
    let bundle = world.bundle(&["/bin/sleep", "100000"])?;
    let create = |id: &str| -> Result<u64> {
        let before = read_by_virtiofsd(world)?;
        let words = ["create", "--sandbox", "house"];
        succeeds(&world.detached(&words, &bundle, id)?)?;
        Ok(before)
    };
    let read_since = |before: u64| read_by_virtiofsd(world).map(|now| now - before);

    let before = create("fresh")?;
    // It would be read anew by a start, since nobody knows whether it is what was read.
    let read = read_since(before)?;
    ensure!(read < AHEAD_BYTES_MIN, "read in vain: {read} bytes");
    bundle::settle(&bundle.join("rootfs/bin/busybox"))?;
    let before = create("settled")?;
    let is_read = || read_since(before).is_ok_and(|read| read >= AHEAD_BYTES_MIN);
    ensure!(wait_until(is_read, SOON), "only {:?}", read_since(before));
    succeeds(&world.verb(&["sandbox", "delete", "--force", "house"])?)
}

/// Who has no HOME gets what the image says, which is looked up once, and at once again when somebody changes it.
pub fn a_home_is_looked_up_once_and_anew_when_it_changes(world: &World<'_>) -> Result<()> {
    const PASSWD_BYTES_MIN: u64 = 64 * 1024;
    let bundle = world.shell(OBEY)?;
    bundle::change(&bundle, |config| {
        config["process"]["env"] = json!(["PATH=/bin"]);
    })?;
    let etc = bundle.join("rootfs/etc");
    let others = "#".repeat(usize::try_from(PASSWD_BYTES_MIN)?);
    let passwd = |home: &str| format!("{others}\nroot:x:0:0::{home}:/bin/sh\n");
    fs::write(etc.join("passwd"), passwd("/one")).context("write passwd")?;
    let (running, orders) = obedient(world, "reader", &bundle)?;
    let sh = |line: &str| -> Result<String> {
        let outcome = world.verb(&["exec", "reader", "/bin/sh", "-c", line])?;
        succeeds(&outcome)?;
        Ok(outcome.stdout.trim_end().to_owned())
    };
    let lives_in = |home: &str| -> Result<()> {
        let said = sh("echo $HOME")?;
        ensure!(said == home, "not in {home} but {said:?}");
        Ok(())
    };
    bundle::settle(&bundle.join("rootfs/bin/busybox"))?;
    bundle::settle(&etc.join("passwd"))?;
    lives_in("/one")?;
    let before = read_by_virtiofsd(world)?;
    lives_in("/one")?;
    let read = read_by_virtiofsd(world)? - before;
    ensure!(read < PASSWD_BYTES_MIN, "read again: {read} bytes");

    sh("echo root:x:0:0::/two:/bin/sh >/etc/passwd")?;
    lives_in("/two")?;
    sh("rm /etc/passwd")?;
    lives_in("/")?;
    // Now it is known that there is none.
    bundle::settle(&etc)?;
    lives_in("/")?;
    lives_in("/")?;
    sh("echo root:x:0:0::/three:/bin/sh >/etc/passwd")?;
    lives_in("/three")?;
    fs::write(etc.join("passwd"), passwd("/four")).context("change passwd")?;
    let seen = wait_until(|| lives_in("/four").is_ok(), SOON);
    ensure!(seen, "the host's change is not seen");
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

/// An emulated guest is told to, and its kernel knows how.
pub fn a_guest_that_is_told_to_looks_for_answers_before_it_sleeps(world: &World<'_>) -> Result<()> {
    let show = "cat /sys/module/virtiofs/parameters/answer_spin_us /proc/cmdline";

    let outcome = world.run(&mut world.hutch_run("shows", show)?, BOOT_LIMIT)?;

    let (spins, told) = outcome.stdout.split_once('\n').unwrap_or_default();
    let expected = match told.contains("virtiofs.answer_spin_us=200") {
        true => "200",
        false => "0",
    };
    ensure!(spins == expected, "not {expected:?}: {outcome:?}");
    Ok(())
}
