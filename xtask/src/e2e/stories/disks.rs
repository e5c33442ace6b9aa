//! Stories of disks and images of the host that are volumes and devices of containers.

use super::{
    lifecycle::succeeds,
    volumes::{OBEY, obedient, with_mounts},
};
use crate::{
    bundle, command,
    e2e::{
        process::Process,
        world::{BOOT_LIMIT, Running, SOON, World},
    },
    wait::wait_until,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// A block device of this host in front of a file, as long as it is held.
struct Loop(PathBuf);

impl Loop {
    fn of(file: &Path) -> Result<Self> {
        let mut losetup = Command::new("losetup");
        let node = command::read(losetup.args(["--find", "--show"]).arg(file))?;
        Ok(Self(PathBuf::from(node.trim())))
    }

    /// Major and minor.
    fn numbers(&self) -> Result<(u32, u32)> {
        let name = self.0.file_name().context("a name")?;
        let file = Path::new("/sys/class/block").join(name).join("dev");
        let text = fs::read_to_string(file).context("look at a loop device")?;
        let (major, minor) = text.trim().split_once(':').context("two numbers")?;
        Ok((major.parse()?, minor.parse()?))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The kernel waits for whoever has it open, and it is ours alone.
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

fn ext4(folder: &Path, name: &str) -> Result<PathBuf> {
    let image = folder.join(name);
    let mut mkfs = Command::new("mkfs.ext4");
    command::run(mkfs.arg("-q").arg(&image).arg("16M"))?;
    Ok(image)
}

fn on_disk(image: &Path, destination: &str, options: &[&str]) -> Value {
    json!({ "type": "ext4", "source": image, "destination": destination, "options": options })
}

/// A disk is plugged for its container, stays while a daemon is killed, and is free again afterwards.
pub fn disks_of_the_host_come_and_go_with_their_containers(world: &World<'_>) -> Result<()> {
    let house = world.shell(OBEY)?;
    let (running, orders) = obedient(world, "house", &house)?;
    let image = ext4(world.scratch(), "image")?;
    let raw = world.scratch().join("raw");
    fs::write(&raw, format!("raw\n{}", "x".repeat(65_532))).context("write a file")?;
    let device = Loop::of(&raw)?;
    let (major, minor) = device.numbers()?;
    let bundle = world.shell(OBEY)?;
    let bind = json!({ "type": "bind", "source": device.0, "destination": "/dev/bound",
        "options": ["bind", "ro"] });
    with_mounts(
        &bundle,
        vec![on_disk(&image, "/data", &["nosuid", "noexec"]), bind],
    )?;
    bundle::change(&bundle, |config| {
        config["linux"]["devices"] = json!([{ "path": "/dev/xvda", "type": "b", "major": major,
            "minor": minor, "fileMode": 0o640, "gid": 8 }]);
        config["linux"]["resources"]["devices"] = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "b", "major": major, "minor": minor, "access": "rw" },
        ]);
        config["linux"]["resources"]["blockIO"] = json!({ "throttleWriteBpsDevice":
            [{ "major": major, "minor": minor, "rate": 1_000_000_000 }] });
    })?;

    let mut run = world.hutch(&["run", "--sandbox", "house", "--bundle"]);
    let mut guest = world.start(run.arg(&bundle).arg("guest"))?;
    let mut wishes = guest.stdin().context("its standard input")?;
    guest.wait_for_output("up\n", BOOT_LIMIT)?;
    writeln!(
        wishes,
        "grep -o ' /data ext4 rw,nosuid,noexec' /proc/mounts; echo kept >/data/file; \
         head -n 1 /dev/bound; stat -c '%F %a %u:%g' /dev/xvda; \
         echo new | dd of=/dev/xvda bs=4 seek=1 conv=notrunc,fsync 2>/dev/null && echo written"
    )?;
    guest.wait_for_output(
        " /data ext4 rw,nosuid,noexec\nraw\nblock special file 640 0:8\nwritten\n",
        SOON,
    )?;
    let text = fs::read(&raw).context("read what the guest wrote")?;
    ensure!(text.starts_with(b"raw\nnew\nxxx"), "{:?}", text.get(..16));

    world.kill(world.daemon()?)?;
    succeeds(&world.verb(&["state", "guest"])?)?;
    limits_a_device_by_its_numbers_here(world, (major, minor))?;
    writeln!(
        wishes,
        "cat /data/file; echo still >>/data/file; echo there"
    )?;
    guest.wait_for_output("kept\nthere\n", SOON)?;
    keeps_out_a_second_writer(world, &image)?;
    drop(wishes);
    succeeds(&guest.finish(SOON)?)?;

    // The next one has it, as nobody can who is locked out by another.
    let next = world.shell("cat /data/file")?;
    with_mounts(&next, vec![on_disk(&image, "/data", &["ro"])])?;
    let mut run = world.hutch(&["run", "--sandbox", "house", "--bundle"]);
    let outcome = world.run(run.arg(&next).arg("next"), BOOT_LIMIT)?;
    ensure!(outcome.stdout == "kept\nstill\n", "{outcome:?}");
    drop(orders);
    succeeds(&running.finish(SOON)?)?;
    // Nobody on the host has them any more.
    is_whole(&image)?;
    drop(device);
    let left = command::read(Command::new("losetup").arg("-j").arg(&raw))?;
    ensure!(left.is_empty(), "a loop device is held: {left}");
    Ok(())
}

fn is_whole(image: &Path) -> Result<()> {
    let checked = Command::new("fsck.ext4").arg("-fn").arg(image).output();
    let checked = checked.context("check an image")?;
    ensure!(checked.status.success(), "{checked:?}");
    Ok(())
}

/// In the guest it has others; one that the container does not have is said to be none, also if the guest has one like it.
fn limits_a_device_by_its_numbers_here(
    world: &World<'_>,
    (major, minor): (u32, u32),
) -> Result<()> {
    const LIMITS: &str =
        "printf '%d:%d ' $(stat -c '0x%t 0x%T' /dev/xvda); cat /sys/fs/cgroup/io.max";
    let limits = |due: &str| {
        let outcome = world.verb(&["exec", "guest", "/bin/sh", "-c", LIMITS])?;
        succeeds(&outcome)?;
        let (number, found) = outcome.stdout.split_once(' ').context("its number")?;
        let due = format!("{number} {due}\n");
        ensure!(found == due, "{due:?} was due: {outcome:?}");
        Ok(())
    };
    limits("rbps=max wbps=1000000000 riops=max wiops=max")?;
    let resources = world.scratch().join("resources");
    let wishes = json!({ "blockIO": { "throttleReadIOPSDevice": [
        { "major": major, "minor": minor, "rate": 5_000 },
        { "major": 254, "minor": 0, "rate": 1 },
    ] } });
    fs::write(&resources, wishes.to_string()).context("write limits")?;
    let mut update = world.hutch(&["update", "--resources"]);
    let outcome = world.run(update.arg(&resources).arg("guest"), SOON)?;
    succeeds(&outcome)?;
    let said = "the container has no disk that is 254:0 on the host, its limits are ignored";
    ensure!(outcome.stderr.contains(said), "{said}: {outcome:?}");
    limits("rbps=max wbps=1000000000 riops=5000 wiops=max")
}

/// Two that write would destroy it.
fn keeps_out_a_second_writer(world: &World<'_>, image: &Path) -> Result<()> {
    let second = world.shell("true")?;
    with_mounts(&second, vec![on_disk(image, "/data", &[])])?;
    let mut run = world.hutch(&["run", "--sandbox", "house", "--bundle"]);
    let outcome = world.run(run.arg(&second).arg("second"), BOOT_LIMIT)?;
    let said = format!("{image:?} is in use: another vm or container has it");
    let refused = outcome.code() == Some(1) && outcome.stderr.contains(&said);
    ensure!(refused, "{said}: {outcome:?}");
    Ok(())
}

/// What was being plugged is the container's or nobody's: of as many as a VM has slots and one more, none is left.
pub fn pain_1_a_daemon_killed_as_a_disk_is_plugged_leaves_all_or_nothing(
    world: &World<'_>,
) -> Result<()> {
    const TIMES: u32 = 5;
    let house = world.shell(OBEY)?;
    let (running, orders) = obedient(world, "house", &house)?;
    let vms = world.processes("qemu-system")?;
    let [vm] = &vms[..] else {
        bail!("one vm was due: {vms:?}");
    };
    let image = ext4(world.scratch(), "image")?.canonicalize()?;
    let bundle = world.shell("cat /data/file; echo kept >/data/file; echo there")?;
    with_mounts(&bundle, vec![on_disk(&image, "/data", &[])])?;
    for time in 0..TIMES {
        succeeds(&world.verb(&["list"])?)?;
        let daemon = world.daemon()?;
        let id = format!("guest{time}");
        let mut create = world.hutch(&["create", "--sandbox", "house", "--bundle"]);
        let create = world.start_on_files(create.arg(&bundle).arg(&id))?;

        wait_until_open(vm, &image)?;
        world.kill(daemon)?;
        let outcome = create.finish(BOOT_LIMIT)?;

        let list = world.verb(&["list", "--quiet"])?;
        let listed = list.stdout.lines().any(|line| line == id);
        ensure!(
            listed == outcome.status.success(),
            "{outcome:?}, and listed: {list:?}"
        );
        if listed {
            succeeds(&world.verb(&["delete", "--force", &id])?)?;
        }
        ensure!(
            wait_until(|| !has_open(vm, &image), SOON),
            "{outcome:?}, and its disk is still in the vm"
        );
    }
    let mut run = world.hutch(&["run", "--sandbox", "house", "--bundle"]);
    let outcome = world.run(run.arg(&bundle).arg("last"), BOOT_LIMIT)?;
    ensure!(outcome.stdout == "there\n", "{outcome:?}");
    drop(orders);
    succeeds(&running.finish(SOON)?)?;
    is_whole(&image)
}

/// It may be gone.
fn has_open(vm: &Process, file: &Path) -> bool {
    let open = fs::read_dir(format!("/proc/{}/fd", vm.pid()));
    let mut open = open.into_iter().flatten().flatten();
    open.any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == file))
}

/// Looks without a pause: a VMM opens a disk milliseconds before it is plugged, and that is on record as done.
fn wait_until_open(vm: &Process, file: &Path) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < BOOT_LIMIT {
        if has_open(vm, file) {
            return Ok(());
        }
    }
    bail!("no disk was plugged")
}

/// What was written last, and never synced.
const WRITE: &str = "head -c 3000000 /dev/zero | tr '\\0' w | tee /data/file >/file; echo up";
const WRITTEN: usize = 3_000_000;

/// An image that is a container's root, and one that is its volume.
struct Written {
    root: PathBuf,
    volume: PathBuf,
}

impl Written {
    fn new(world: &World<'_>, name: &str) -> Result<Self> {
        let folder = world.scratch().join(name);
        let rootfs = folder.join("rootfs");
        bundle::busybox_rootfs(&rootfs)?;
        fs::create_dir(rootfs.join("data")).context("make a mount point")?;
        let root = folder.join("root");
        let mut mkfs = Command::new("mkfs.ext4");
        command::run(mkfs.args(["-q", "-d"]).arg(&rootfs).arg(&root).arg("32M"))?;
        let volume = ext4(&folder, "volume")?;
        Ok(Self { root, volume })
    }

    /// A bundle whose program writes to both, and then does what `then` says.
    fn bundle(&self, world: &World<'_>, then: &str) -> Result<PathBuf> {
        let bundle = world.shell(&format!("{WRITE}; {then}"))?;
        with_mounts(&bundle, vec![on_disk(&self.volume, "/data", &[])])?;
        bundle::change(&bundle, |config| {
            config["root"] = json!({ "path": self.root, "readonly": false });
        })?;
        Ok(bundle)
    }

    /// Both hold all of it, and were unmounted as they should be.
    fn check(&self, when: &str) -> Result<()> {
        for image in [&self.root, &self.volume] {
            let mut debugfs = Command::new("debugfs");
            let found = debugfs.args(["-R", "cat /file"]).arg(image).output();
            let found = found.context("look into an image")?;
            let complete = found.stdout.iter().filter(|byte| **byte == b'w').count() == WRITTEN;
            let said = String::from_utf8_lossy(&found.stderr);
            let length = found.stdout.len();
            ensure!(complete, "{when}: {image:?} has {length} bytes: {said}");
            is_whole(image).with_context(|| when.to_owned())?;
        }
        Ok(())
    }
}

/// Nobody but its guest can write back what that keeps in memory, and the guest ends with it.
pub fn what_a_container_alone_in_its_vm_wrote_to_its_disks_is_on_them(
    world: &World<'_>,
) -> Result<()> {
    let run = Written::new(world, "run")?;
    let bundle = run.bundle(world, "true")?;
    let mut command = world.hutch(&["run", "--bundle"]);
    succeeds(&world.run(command.arg(&bundle).arg("run"), BOOT_LIMIT)?)?;
    run.check("run to its end")?;

    let deleted = Written::new(world, "deleted")?;
    let bundle = deleted.bundle(world, "sleep 1000")?;
    let running = writing(world, &[], "deleted", &bundle)?;
    succeeds(&world.verb(&["delete", "--force", "deleted"])?)?;
    deleted.check("deleted by force")?;
    running.finish(SOON)?;

    let outlived = Written::new(world, "outlived")?;
    let bundle = outlived.bundle(world, "sleep 1000")?;
    let running = writing(world, &[], "outlived", &bundle)?;
    world.kill(world.daemon()?)?;
    succeeds(&world.verb(&["delete", "--force", "outlived"])?)?;
    outlived.check("deleted by force by a daemon that followed")?;
    running.finish(SOON)?;

    let stopped = Written::new(world, "stopped")?;
    let bundle = stopped.bundle(world, "sleep 1000")?;
    succeeds(&world.verb(&["sandbox", "create", "stopped"])?)?;
    let running = writing(world, &["--sandbox", "stopped"], "inside", &bundle)?;
    succeeds(&world.verb(&["sandbox", "pause", "stopped"])?)?;
    succeeds(&world.verb(&["sandbox", "stop", "--force", "stopped"])?)?;
    stopped.check("stopped by force while it was paused")?;
    running.finish(SOON)?;
    succeeds(&world.verb(&["sandbox", "delete", "--force", "stopped"])?)
}

fn writing(world: &World<'_>, words: &[&str], id: &str, bundle: &Path) -> Result<Running> {
    let mut run = world.hutch(&["run"]);
    let running = world.start(run.args(words).arg("--bundle").arg(bundle).arg(id))?;
    running.wait_for_output("up\n", BOOT_LIMIT)?;
    Ok(running)
}

/// Where a disk is there from the boot on, and where there is none.
pub fn a_disk_of_the_first_container_and_what_is_no_disk(world: &World<'_>) -> Result<()> {
    let image = ext4(world.scratch(), "image")?;
    let bundle = world.shell("echo once >/data/file && cat /data/file")?;
    with_mounts(&bundle, vec![on_disk(&image, "/data", &[])])?;
    let mut run = world.hutch(&["run", "--bundle"]);
    let outcome = world.run(run.arg(&bundle).arg("first"), BOOT_LIMIT)?;
    ensure!(outcome.stdout == "once\n", "{outcome:?}");

    for (mount, devices, said) in [
        (
            on_disk(&world.scratch().join("nowhere"), "/data", &[]),
            json!([]),
            "does not exist",
        ),
        (
            on_disk(world.scratch(), "/data", &[]),
            json!([]),
            "is a directory; a block device or an image is needed",
        ),
        (
            on_disk(&image, "/data", &["ro"]),
            json!([{ "path": "/dev/x", "type": "b", "major": 259, "minor": 4095 }]),
            "linux.devices[0]: source \"/sys/dev/block/259:4095\" does not exist",
        ),
    ] {
        let bundle = world.shell("true")?;
        with_mounts(&bundle, vec![mount])?;
        bundle::change(&bundle, |config| config["linux"]["devices"] = devices)?;
        let mut run = world.hutch(&["run", "--bundle"]);
        let outcome = world.run(run.arg(&bundle).arg("none"), BOOT_LIMIT)?;
        let refused = outcome.code() == Some(1) && outcome.stderr.contains(said);
        ensure!(
            refused && outcome.stderr.lines().count() == 1,
            "{said}: {outcome:?}"
        );
    }
    Ok(())
}
