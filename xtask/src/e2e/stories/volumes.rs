//! Stories of what containers bring from the host: directories, files, and volumes that are published whole.

use super::{guest, lifecycle::succeeds};
use crate::{
    bundle, command,
    e2e::world::{BOOT_LIMIT, Running, SOON, World},
    wait::wait_until,
};
use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{ChildStdin, Command},
};

/// A bind of the host's `source`.
pub(super) fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({ "type": "bind", "source": source, "destination": destination, "options": options })
}

/// Adds mounts after those that every bundle has.
pub(super) fn with_mounts(bundle: &Path, mounts: Vec<Value>) -> Result<()> {
    bundle::change(bundle, |config| {
        if let Some(all) = config["mounts"].as_array_mut() {
            all.extend(mounts);
        }
    })
}

fn volume(bundle: &Path, name: &str) -> Result<PathBuf> {
    let folder = bundle.join(name);
    fs::create_dir(&folder).context("make a volume")?;
    Ok(folder)
}

/// Publishes a set of two keys, and takes the one before away, as Kubernetes does.
fn publish(volume: &Path, number: u32) -> Result<()> {
    let doing = || format!("publish set {number}");
    let set = format!("..set{number}");
    fs::create_dir(volume.join(&set)).with_context(doing)?;
    for key in ["a", "b"] {
        fs::write(volume.join(&set).join(key), number.to_string()).with_context(doing)?;
    }
    symlink(&set, volume.join("..data_tmp")).with_context(doing)?;
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).with_context(doing)?;
    match number {
        0 => ["a", "b"]
            .iter()
            .try_for_each(|key| symlink(format!("..data/{key}"), volume.join(key)))
            .with_context(doing),
        later => fs::remove_dir_all(volume.join(format!("..set{}", later - 1))).with_context(doing),
    }
}

/// Runs a shell that reads its orders; each is answered by what it prints.
pub(super) fn obedient(
    world: &World<'_>,
    id: &str,
    bundle: &Path,
) -> Result<(Running, ChildStdin)> {
    let mut run = world.hutch(&["run", "--bundle"]);
    let mut running = world.start(run.arg(bundle).arg(id))?;
    let orders = running.stdin().context("its standard input")?;
    running.wait_for_output("up\n", BOOT_LIMIT)?;
    Ok((running, orders))
}

pub(super) const OBEY: &str = "echo up; while read -r order; do eval \"$order\"; done";

/// No reader ever finds a key missing or two sets mixed, and inotify tells of each set.
pub fn pain_16_a_volume_that_is_renewed_is_seen_whole_and_heard_of(
    world: &World<'_>,
) -> Result<()> {
    const SETS: u32 = 5;
    let script = format!(
        "/bin/hear /config ..data {SETS} & last=
         while [ \"$last\" != {SETS} ]; do
           now=$(cat /config/a) || echo missing
           (cd -P /config/..data && [ \"$(cat a)\" = \"$(cat b)\" ]) || echo mixed
           [ \"$now\" = \"$last\" ] || echo \"saw $now\"
           last=$now
         done; wait; ls -A /config; echo x > /config/new || echo refused"
    );
    let bundle = world.shell(&script)?;
    guest::put_program(&world.fixtures().examples.hear, &bundle, "bin/hear")?;
    let config = volume(&bundle, "config")?;
    publish(&config, 0)?;
    with_mounts(
        &bundle,
        vec![bind(&config, "/config", &["rbind", "ro", "rprivate"])],
    )?;
    let mut run = world.hutch(&["run", "--bundle"]);
    let reader = world.start(run.arg(&bundle).arg("reader"))?;
    reader.wait_for_output("saw 0\n", BOOT_LIMIT)?;
    reader.wait_for_output("listening\n", SOON)?;

    for number in 1..=SETS {
        publish(&config, number)?;
        reader.wait_for_output(&format!("saw {number}\n"), SOON)?;
    }
    let outcome = reader.finish(SOON)?;

    let heard = outcome.stdout.matches("heard ..data\n").count();
    ensure!(heard == SETS as usize, "heard of {heard} sets: {outcome:?}");
    for wrong in ["missing", "mixed"] {
        ensure!(!outcome.stdout.contains(wrong), "{wrong}: {outcome:?}");
    }
    ensure!(
        outcome.stdout.ends_with("refused\n"),
        "it was written to: {outcome:?}"
    );
    ensure!(
        outcome.stdout.contains(&format!("..set{SETS}\n")),
        "no such set: {outcome:?}"
    );
    Ok(())
}

/// What is attached stays attached, and volumes are followed by whoever is the daemon.
pub fn volumes_outlive_the_daemon_that_attached_them(world: &World<'_>) -> Result<()> {
    let bundle = world.shell(OBEY)?;
    let (config, data) = (volume(&bundle, "config")?, volume(&bundle, "data")?);
    publish(&config, 0)?;
    let mounts = vec![
        bind(&config, "/config", &["bind", "ro"]),
        bind(&data, "/data", &["bind"]),
    ];
    with_mounts(&bundle, mounts)?;
    let (running, mut orders) = obedient(world, "lives", &bundle)?;

    world.kill(world.daemon()?)?;
    publish(&config, 1)?;
    writeln!(orders, "echo written > /data/file; cat /config/a; echo")?;
    running.wait_for_output("\n0\n", SOON)?;
    succeeds(&world.verb(&["state", "lives"])?)?;
    publish(&config, 2)?;

    writeln!(
        orders,
        "until [ \"$(cat /config/a)\" = 2 ]; do :; done; echo two"
    )?;
    running.wait_for_output("two\n", SOON)?;
    let text = fs::read_to_string(data.join("file")).context("read what the guest wrote")?;
    ensure!(text == "written\n", "the guest wrote {text:?}");
    drop(orders);
    succeeds(&running.finish(SOON)?)
}

/// The files that Podman and Kubernetes give every container, in a root that may not be written, on paths that are not there.
pub fn pain_18_files_of_the_host_are_seen_as_runc_shows_them(world: &World<'_>) -> Result<()> {
    let bundle = world.shell(OBEY)?;
    let files = volume(&bundle, "files")?;
    let names = [
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/run/.containerenv",
        "/no/such/file",
    ];
    let own = |name: &str| files.join(name.replace('/', "_"));
    for name in names {
        fs::write(own(name), format!("{name} of the host\n")).context("write a file")?;
    }
    let mounts = names.map(|name| bind(&own(name), name, &["bind", "rprivate"]));
    with_mounts(&bundle, mounts.to_vec())?;
    bundle::change(&bundle, |config| config["root"]["readonly"] = json!(true))?;
    let (running, mut orders) = obedient(world, "files", &bundle)?;

    writeln!(
        orders,
        "cat {}; echo guest >> /etc/hosts; echo x > /etc/new || echo refused",
        names.join(" ")
    )?;
    for name in names {
        running.wait_for_output(&format!("{name} of the host\n"), SOON)?;
    }
    running.wait_for_output("refused\n", SOON)?;
    let hosts = fs::read_to_string(own("/etc/hosts")).context("read hosts")?;
    ensure!(
        hosts == "/etc/hosts of the host\nguest\n",
        "the guest wrote {hosts:?}"
    );

    // In place: the same file.
    fs::write(own("/etc/hosts"), "written in place\n").context("write hosts")?;
    writeln!(orders, "until grep 'in place' /etc/hosts; do :; done")?;
    running.wait_for_output("written in place\n", SOON)?;
    // By rename: another file, of which a mount knows nothing.
    fs::write(own("new"), "another\n").context("write hosts")?;
    fs::rename(own("new"), own("/etc/hosts")).context("replace hosts")?;
    writeln!(orders, "sleep 2; cat /etc/hosts; echo so")?;
    running.wait_for_output("written in place\nso\n", SOON)?;
    drop(orders);
    succeeds(&running.finish(SOON)?)
}

/// A file system on the host, as long as this is held.
struct Mounted(PathBuf);

impl Mounted {
    fn memory(at: PathBuf) -> Result<Self> {
        fs::create_dir(&at).context("make a mount point")?;
        mount(
            Some("none"),
            &at,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .context("mount memory")?;
        Ok(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whoever holds it is the leak to be found.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Tells of all that [`options`] mounts.
const LOOK_AT_ALL: &str = "\
    cat /flat/in /deep/in/inner /link /sub 2>&1
    echo x > /deep/in/new; echo x > /flat/new || echo flat refused
    echo x > /over/new || echo over refused; cat /over/nested
    cat /twice/one/file /twice/two/file
    for place in /tmp/small /dev/shm; do
      dd if=/dev/zero of=$place/file bs=64k count=32 2>/dev/null || echo $place is full
      stat -c '%n %s' $place/file
    done
    grep ' /attr ' /proc/self/mountinfo; grep -c /shared /proc/self/mountinfo
    /attr/run || echo no program";

fn options(source: &Path) -> Vec<Value> {
    let tmpfs = |destination: &str| {
        let options = ["size=1m", "nosuid"];
        json!({ "type": "tmpfs", "source": "tmpfs", "destination": destination, "options": options })
    };
    let read_only = ["remount", "ro"];
    vec![
        bind(source, "/flat", &["bind", "ro"]),
        bind(source, "/deep", &["rbind", "rprivate"]),
        bind(&source.join("link"), "/link", &["bind"]),
        bind(&source.join("sub/path"), "/sub", &["bind", "rslave"]),
        // A mount over another one, and one in another one's destination.
        bind(source, "/over", &["bind"]),
        tmpfs("/over"),
        bind(&source.join("file"), "/over/nested", &["bind", "ro"]),
        json!({ "type": "none", "source": "none", "destination": "/over", "options": read_only }),
        bind(source, "/twice/one", &["bind"]),
        bind(source, "/twice/two", &["bind", "ro"]),
        tmpfs("/tmp/small"),
        bind(
            source,
            "/attr",
            &["bind", "nosuid", "nodev", "noexec", "noatime"],
        ),
        bind(source, "/shared", &["rbind", "rshared"]),
    ]
}

/// Options, order and depth are those of config.json, and sizes hold.
pub fn pain_17_mounts_are_what_their_options_say(world: &World<'_>) -> Result<()> {
    let bundle = world.shell(LOOK_AT_ALL)?;
    let source = volume(&bundle, "source")?;
    fs::write(source.join("file"), "file\n")?;
    fs::write(source.join("run"), "#!/bin/sh\necho ran\n")?;
    fs::set_permissions(source.join("run"), fs::Permissions::from_mode(0o700))?;
    symlink("file", source.join("link"))?;
    let inner = Mounted::memory(source.join("in"))?;
    fs::write(inner.0.join("inner"), "inner\n")?;
    fs::create_dir(source.join("sub"))?;
    fs::write(source.join("sub/path"), "sub path\n")?;
    with_mounts(&bundle, options(&source))?;
    bundle::change(&bundle, |config| {
        for mount in config["mounts"].as_array_mut().into_iter().flatten() {
            if mount["destination"] == "/dev/shm" {
                mount["options"] = json!(["nosuid", "nodev", "mode=1777", "size=1024k"]);
            }
        }
    })?;
    let mut run = world.hutch(&["run", "--bundle"]);
    let outcome = world.run(run.arg(&bundle).arg("options"), BOOT_LIMIT)?;

    for expected in [
        "inner\n",
        "sub path\n",
        "flat refused\n",
        "over refused\n",
        "file\nfile\nfile\n",
        "/tmp/small is full\n/tmp/small/file 1048576\n",
        "/dev/shm is full\n/dev/shm/file 1048576\n",
        "rw,nosuid,nodev,noexec,noatime",
        "no program\n",
    ] {
        ensure!(
            outcome.stdout.contains(expected),
            "{expected:?}: {outcome:?}"
        );
    }
    let below = inner.0.join("new").exists();
    ensure!(below, "it was not written to the mount below: {outcome:?}");
    Ok(())
}

/// What cannot cross the border of a VM is said by name, before anything is made.
pub fn what_cannot_enter_a_guest_is_refused_with_the_reason(world: &World<'_>) -> Result<()> {
    let bundle = world.shell("echo ran")?;
    let things = volume(&bundle, "things")?;
    command::run(
        Command::new(bundle::BUSYBOX)
            .arg("mkfifo")
            .arg(things.join("fifo")),
    )?;
    let _listener = UnixListener::bind(things.join("socket")).context("make a socket")?;
    symlink("fifo", things.join("link")).context("make a link")?;
    let whole = fs::read(bundle.join("config.json"))?;
    for (name, why) in [
        ("fifo", "a fifo, which cannot enter a VM"),
        ("socket", "a socket, which cannot enter a VM"),
        ("link", "a fifo, which cannot enter a VM"),
        ("missing", "does not exist"),
    ] {
        fs::write(bundle.join("config.json"), &whole)?;
        with_mounts(&bundle, vec![bind(&things.join(name), "/thing", &["bind"])])?;

        let mut run = world.hutch(&["run", "--bundle"]);
        let outcome = world.run(run.arg(&bundle).arg("refused"), BOOT_LIMIT)?;

        let says = outcome.stderr.contains(why) && outcome.stderr.trim_end().lines().count() == 1;
        ensure!(outcome.code() == Some(1) && says, "{name}: {outcome:?}");
    }
    Ok(())
}

/// As many as anybody has, and on a path as long as Linux takes.
pub fn a_hundred_binds_and_a_long_path_are_no_trouble(world: &World<'_>) -> Result<()> {
    const COUNT: usize = 100;
    let bundle = world.shell(
        "cat /many/*/file | sort -n | tail -n 1; cat /many/*/file | wc -l; find /long -name end",
    )?;
    let source = volume(&bundle, "source")?;
    let mut mounts = Vec::new();
    for number in 0..COUNT {
        let folder = source.join(number.to_string());
        fs::create_dir(&folder)?;
        fs::write(folder.join("file"), format!("{number}\n"))?;
        mounts.push(bind(&folder, &format!("/many/{number}"), &["rbind", "ro"]));
    }
    let long = format!("/long/{}", "0123456789abcdef/".repeat(200));
    mounts.push(bind(
        &source.join("0/file"),
        &format!("{long}end"),
        &["bind"],
    ));
    with_mounts(&bundle, mounts)?;
    let mut run = world.hutch(&["run", "--bundle"]);
    let outcome = world.run(run.arg(&bundle).arg("many"), BOOT_LIMIT)?;

    ensure!(outcome.stdout.starts_with("99\n100\n/long/"), "{outcome:?}");
    Ok(())
}

fn mounts_below(folder: &Path) -> Result<Vec<String>> {
    let table =
        fs::read_to_string("/proc/thread-self/mountinfo").context("read the mount table")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let folder = folder.to_str().context("a path of text")?;
    Ok(points
        .filter(|point| point.starts_with(folder))
        .map(str::to_owned)
        .collect())
}

/// The mounts of a container go with it, while its sandbox lives on.
pub fn pain_6_fifty_containers_come_and_go_and_leave_no_mount(world: &World<'_>) -> Result<()> {
    const TIMES: u32 = 50;
    let house = world.shell(OBEY)?;
    let (running, orders) = obedient(world, "house", &house)?;
    let bundle = world.shell("cat /data/file /config/a /file")?;
    let (config, data) = (volume(&bundle, "config")?, volume(&bundle, "data")?);
    publish(&config, 0)?;
    fs::write(data.join("file"), "1")?;
    let mounts = vec![
        bind(&data, "/data", &["rbind"]),
        bind(&config, "/config", &["rbind", "ro"]),
        bind(&data.join("file"), "/file", &["bind", "ro"]),
    ];
    with_mounts(&bundle, mounts)?;
    let before = mounts_below(world.root())?;

    for time in 0..TIMES {
        let mut run = world.hutch(&["run", "--sandbox", "house", "--bundle"]);
        let run = run.arg(&bundle).arg(format!("guest{time}"));
        let outcome = world.run(run, BOOT_LIMIT)?;
        ensure!(
            outcome.code() == Some(0) && outcome.stdout == "101",
            "{time}: {outcome:?}"
        );
    }

    let mut now = Vec::new();
    let as_before = wait_until(
        || {
            now = mounts_below(world.root()).unwrap_or_default();
            now == before
        },
        SOON,
    );
    ensure!(as_before, "mounts before: {before:#?}, now: {now:#?}");
    let shares: Vec<_> = find(world.root(), "share")?;
    let [share] = &shares[..] else {
        anyhow::bail!("shares: {shares:?}");
    };
    let left: Vec<_> = fs::read_dir(share)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<std::io::Result<_>>()?;
    ensure!(left.len() == 1, "in the share: {left:?}");
    whole_lives_leave_no_descriptor(world, &bundle)?;
    drop(orders);
    succeeds(&running.finish(SOON)?)
}

/// Created, started, entered and deleted in the same sandbox again and again: whoever works for it has then as many
/// descriptors as after the first time.
fn whole_lives_leave_no_descriptor(world: &World<'_>, bundle: &Path) -> Result<()> {
    const TIMES: u32 = 10;
    let args = json!(["sleep", "1000"]);
    bundle::change(bundle, |config| config["process"]["args"] = args)?;
    let live = |time: u32| -> Result<()> {
        let id = format!("life{time}");
        let create = ["create", "--sandbox", "house"];
        succeeds(&world.detached(&create, bundle, &id)?)?;
        succeeds(&world.verb(&["start", &id])?)?;
        let exec = world.verb(&["exec", &id, "echo", "here"])?;
        ensure!(
            exec.code() == Some(0) && exec.stdout == "here\n",
            "{exec:?}"
        );
        succeeds(&world.verb(&["delete", "--force", &id])?)
    };
    live(0)?;
    let before = descriptors(world)?;

    for time in 1..=TIMES {
        live(time)?;
    }

    let mut now = Vec::new();
    // What is closed is closed a moment later, and virtiofsd's when the guest has looked again; what was still open after
    // the first time may be gone as well.
    let as_before = || {
        now = descriptors(world).unwrap_or_default();
        now.len() == before.len() && now.iter().zip(&before).all(|(now, old)| now.1 <= old.1)
    };
    let as_before = wait_until(as_before, SOON);
    ensure!(as_before, "descriptors before: {before:?}, now: {now:?}");
    Ok(())
}

/// How many each process has that works for the sandboxes of this world.
fn descriptors(world: &World<'_>) -> Result<Vec<(String, usize)>> {
    let mut counts = Vec::new();
    for program in ["hutchd", "qemu-system", "virtiofsd"] {
        let processes = world.processes(program)?;
        ensure!(!processes.is_empty(), "no {program}");
        for process in processes {
            let pid = process.pid();
            let open = fs::read_dir(format!("/proc/{pid}/fd")).context("list descriptors")?;
            counts.push((format!("{program} {pid}"), open.count()));
        }
    }
    Ok(counts)
}

/// Folders of this name, one to four below.
fn find(root: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut level = vec![root.to_owned()];
    for _ in 0..4 {
        let mut next = Vec::new();
        for folder in level {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() && path.file_name().is_some_and(|own| own == name) {
                    found.push(path);
                } else if path.is_dir() {
                    next.push(path);
                }
            }
        }
        level = next;
    }
    Ok(found)
}
