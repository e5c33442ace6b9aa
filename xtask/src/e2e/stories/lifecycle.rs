//! Stories of the verbs that make, look at and end a container, one at a time and at once.

use crate::{
    bundle, daemon,
    e2e::world::{BOOT_LIMIT, Outcome, SOON, World},
    wait::wait_until,
};
use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// runc's code for a verb that failed.
const REFUSED: i32 = 1;

pub fn a_container_goes_through_its_states_and_is_gone_at_the_end(world: &World<'_>) -> Result<()> {
    let bundle = world.shell("exec sleep 1000")?;
    bundle::change(&bundle, |config| {
        config["linux"]["intelRdt"] = json!({ "closID": "guaranteed" });
        config["process"]["apparmorProfile"] = json!("strict");
    })?;

    let created = world.create("life", &bundle)?.finish(BOOT_LIMIT)?;
    succeeds(&created)?;
    let warned = |field: &str| {
        let lines = created.stderr.lines();
        let warnings = lines.filter(|line| line.starts_with("hutch: warning: "));
        warnings.filter(|line| line.contains(field)).count()
    };
    ensure!(
        created.stdout.is_empty() && warned("intelRdt") == 1 && warned("apparmorProfile") == 1,
        "what the guest lacks is not said once: {created:?}"
    );
    ensure!(status(world, "life")? == "created");
    // As with runc: there is something to enter before the init runs its program.
    exec_warns_in_its_log(world)?;
    succeeds(&world.verb(&["start", "life"])?)?;
    ensure!(status(world, "life")? == "running");
    let early = world.verb(&["delete", "life"])?;
    ensure!(
        early.code() == Some(REFUSED),
        "a running container was deleted: {early:?}"
    );
    let exec = world.verb(&["exec", "life", "/bin/sh", "-c", "echo inside; exit 5"])?;
    ensure!(
        exec.code() == Some(5) && exec.stdout == "inside\n",
        "exec: {exec:?}"
    );
    succeeds(&world.verb(&["kill", "life", "KILL"])?)?;
    ensure!(
        wait_until(
            || status(world, "life").is_ok_and(|status| status == "stopped"),
            SOON
        ),
        "it does not stop"
    );
    succeeds(&world.verb(&["delete", "life"])?)?;

    let state = world.verb(&["state", "life"])?;
    ensure!(
        state.code() == Some(REFUSED) && state.stderr.contains("life"),
        "state of what is gone: {state:?}"
    );
    let again = world.verb(&["delete", "life"])?;
    ensure!(again.code() == Some(REFUSED), "deleted twice: {again:?}");
    Ok(())
}

/// The exec has the init's process object, and with it what the guest lacks of that.
fn exec_warns_in_its_log(world: &World<'_>) -> Result<()> {
    let log = world.scratch().join("log");
    let path = log.to_str().context("a path of ours is text")?;
    let words = ["--log", path, "--log-format", "json"];
    let exec = world.verb(&[&words[..], &["exec", "life", "/bin/true"]].concat())?;

    succeeds(&exec)?;
    ensure!(exec.stderr.is_empty(), "{exec:?}");
    let text = fs::read_to_string(&log).context("read the log of the exec")?;
    let entry: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(
        entry["level"] == "warning" && text.contains("apparmorProfile"),
        "{text}"
    );
    Ok(())
}

pub fn of_two_creates_with_one_id_one_wins_and_the_other_says_so(world: &World<'_>) -> Result<()> {
    let bundle = world.shell("exec sleep 1000")?;

    let creates = [
        world.create("twin", &bundle)?,
        world.create("twin", &bundle)?,
    ];
    let outcomes = creates
        .into_iter()
        .map(|create| create.finish(BOOT_LIMIT))
        .collect::<Result<Vec<_>>>()?;

    let (winners, losers): (Vec<_>, Vec<_>) = outcomes
        .iter()
        .partition(|outcome| outcome.status.success());
    ensure!(winners.len() == 1 && losers.len() == 1, "{outcomes:?}");
    ensure!(
        losers[0].code() == Some(REFUSED)
            && losers[0].stderr.contains("twin")
            && losers[0].stderr.contains("exists"),
        "the other does not say so: {:?}",
        losers[0]
    );
    succeeds(&world.verb(&["delete", "--force", "twin"])?)
}

/// After a restart the container is whole or it is gone; there is nothing between.
pub fn a_daemon_killed_during_create_leaves_all_or_nothing(world: &World<'_>) -> Result<()> {
    let bundle = world.shell("echo ran")?;
    let create = world.create("half", &bundle)?;
    let is_booting = || {
        world
            .processes("qemu-system")
            .is_ok_and(|vms| !vms.is_empty())
    };
    ensure!(wait_until(is_booting, BOOT_LIMIT), "no VM was started");

    world.kill(world.daemon()?)?;
    let outcome = create.finish(BOOT_LIMIT)?;

    let list = world.verb(&["list", "--quiet"])?;
    succeeds(&list)?;
    if outcome.status.success() {
        ensure!(list.stdout == "half\n", "created, and not listed: {list:?}");
        ensure!(status(world, "half")? == "created");
        succeeds(&world.verb(&["delete", "--force", "half"])?)?;
    } else {
        ensure!(list.stdout.is_empty(), "refused, and listed: {list:?}");
    }
    Ok(())
}

pub fn a_delete_by_force_ends_a_container_that_is_still_starting(world: &World<'_>) -> Result<()> {
    let bundle = world.shell("exec sleep 1000")?;
    let create = world.create("early", &bundle)?;
    let is_booting = || {
        world
            .processes("qemu-system")
            .is_ok_and(|vms| !vms.is_empty())
    };
    ensure!(wait_until(is_booting, BOOT_LIMIT), "no VM was started");

    succeeds(&world.verb(&["delete", "--force", "early"])?)?;
    create.finish(BOOT_LIMIT)?;

    // It may have waited for the creation, or ended it; in both cases nothing is left to delete.
    succeeds(&world.verb(&["delete", "--force", "early"])?)?;
    let list = world.verb(&["list", "--quiet"])?;
    ensure!(list.stdout.is_empty(), "still listed: {list:?}");
    Ok(())
}

/// Whoever waits for the pid in the pid file waits for the container.
pub fn the_pid_in_the_pid_file_lives_as_long_as_its_container(world: &World<'_>) -> Result<()> {
    let bundle = world.shell("exec sleep 1000")?;
    let file = bundle.join("pid");
    let named = file.to_str().context("a path of text")?;

    succeeds(&world.detached(&["create", "--pid-file", named], &bundle, "life")?)?;
    let text = std::fs::read_to_string(&file).context("read the pid file")?;
    let pid = Pid::from_raw(text.parse().context("the pid file holds a number alone")?);
    ensure!(
        daemon::is_alive(pid),
        "it is dead while the container is created"
    );
    ensure!(state(world, "life")?["pid"] == pid.as_raw(), "another pid");
    succeeds(&world.verb(&["start", "life"])?)?;
    ensure!(daemon::is_alive(pid), "it is dead while the container runs");
    ensure!(state(world, "life")?["pid"] == pid.as_raw(), "another pid");
    succeeds(&world.verb(&["kill", "life", "KILL"])?)?;

    ensure!(
        wait_until(|| !daemon::is_alive(pid), SOON),
        "it outlives the container"
    );
    ensure!(
        wait_until(
            || status(world, "life").is_ok_and(|status| status == "stopped"),
            SOON
        ),
        "it does not stop"
    );
    ensure!(state(world, "life")?["pid"] == 0, "the pid of nobody");
    succeeds(&world.verb(&["delete", "life"])?)
}

pub(super) fn state(world: &World<'_>, id: &str) -> Result<Value> {
    let outcome = world.verb(&["state", id])?;
    succeeds(&outcome)?;
    serde_json::from_str(&outcome.stdout).context("read the state")
}

pub(super) fn status(world: &World<'_>, id: &str) -> Result<String> {
    let state = state(world, id)?;
    let status = state["status"].as_str();
    Ok(status.context("the state has no status")?.to_owned())
}

pub(super) fn succeeds(outcome: &Outcome) -> Result<()> {
    ensure!(outcome.status.success(), "{outcome:?}");
    Ok(())
}

/// What a verb prints that prints JSON.
pub(super) fn json_of(world: &World<'_>, words: &[&str]) -> Result<Value> {
    let outcome = world.verb(words)?;
    succeeds(&outcome)?;
    serde_json::from_str(&outcome.stdout).with_context(|| format!("{words:?} said {outcome:?}"))
}

/// Also while the daemon that was asked is killed: the next one asks nobody a second time.
pub fn a_container_that_is_stopped_has_its_time_and_no_more(world: &World<'_>) -> Result<()> {
    let code_of = |id: &str| -> Result<String> {
        let waited = world.verb(&["wait", id])?;
        ensure!(waited.code() == Some(0), "wait: {waited:?}");
        Ok(waited.stdout)
    };
    succeeds(&world.verb(&["sandbox", "create", "box"])?)?;
    let join = |id: &str, script: &str| -> Result<PathBuf> {
        let bundle = world.shell(script)?;
        succeeds(&world.detached(&["run", "--detach", "--sandbox", "box"], &bundle, id)?)?;
        Ok(bundle)
    };
    // A trap is set once it is up.
    let up = |bundle: &Path| wait_until(|| bundle.join("rootfs/up").exists(), SOON);
    let heeds = join(
        "heeds",
        "trap 'exit 5' USR1; : >/up; while :; do sleep 0.1; done",
    )?;
    let deaf = join(
        "deaf",
        "trap 'echo heard >>/heard' TERM; : >/up; while :; do sleep 0.1; done",
    )?;
    ensure!(up(&heeds) && up(&deaf), "they do not run");

    succeeds(&world.verb(&["stop", "--signal", "USR1", "--time", "1m", "heeds"])?)?;
    ensure!(code_of("heeds")? == "5\n", "it had its time");
    succeeds(&world.verb(&["stop", "heeds"])?)?;
    let waits = world.start(&mut world.hutch(&["wait", "deaf"]))?;
    let stops = world.start(&mut world.hutch(&["stop", "--time", "5s", "deaf"]))?;
    let heard = || fs::read_to_string(deaf.join("rootfs/heard")).unwrap_or_default();
    ensure!(
        wait_until(|| heard() == "heard\n", SOON),
        "it hears nothing"
    );
    world.kill(world.daemon()?)?;
    succeeds(&stops.finish(SOON)?)?;
    let waits = waits.finish(SOON)?;

    let watches = world.start(&mut world.hutch(&["sandbox", "monitor", "--new", "box"]))?;
    for turn in 0..5 {
        let bundle = world.shell("exit 9")?;
        let mut run = world.hutch(&["run", "--sandbox", "box", "--bundle"]);
        let ended = world.run(run.arg(&bundle).arg(format!("ends-{turn}")), SOON)?;
        ensure!(ended.code() == Some(9), "{ended:?}");
    }
    let told = || watches.stdout().matches("\"code\":9").count();
    ensure!(
        wait_until(|| told() == 5, SOON),
        "what was deleted at once: {}",
        watches.stdout()
    );

    ensure!(heard() == "heard\n", "asked twice: {:?}", heard());
    ensure!(waits.stdout == "137\n", "wait: {waits:?}");
    let none = world.verb(&["stop", "nobody"])?;
    ensure!(
        none.code() == Some(REFUSED) && none.stderr.contains("stop container \"nobody\""),
        "{none:?}"
    );
    succeeds(&world.verb(&["delete", "heeds"])?)?;
    succeeds(&world.verb(&["delete", "deaf"])?)?;
    succeeds(&world.verb(&["sandbox", "delete", "--force", "box"])?)?;
    succeeds(&watches.finish(SOON)?)
}

/// Each has a stream of its own, which is made while the others' are in use.
pub fn fifty_execs_live_at_once_in_one_vm(world: &World<'_>) -> Result<()> {
    const EXECS: usize = 50;
    let bed = world.shell("exec sleep 1000")?;
    succeeds(&world.detached(&["run", "--detach"], &bed, "bed")?)?;
    let mut execs = (0..EXECS)
        .map(|turn| {
            let script = format!("echo up; read line; echo $line; exit {turn}");
            world.start(&mut world.hutch(&["exec", "bed", "/bin/sh", "-c", &script]))
        })
        .collect::<Result<Vec<_>>>()?;
    for exec in &execs {
        exec.wait_for_output("up\n", BOOT_LIMIT)?;
    }

    for (turn, exec) in execs.iter_mut().enumerate() {
        let mut stdin = exec.stdin().context("stdin is piped")?;
        writeln!(stdin, "{turn}").context("write")?;
    }
    for (turn, exec) in execs.into_iter().enumerate() {
        let outcome = exec.finish(SOON)?;
        ensure!(
            outcome.code() == i32::try_from(turn).ok() && outcome.stdout == format!("up\n{turn}\n"),
            "{turn}: {outcome:?}"
        );
    }
    succeeds(&world.verb(&["delete", "--force", "bed"])?)
}

/// Its cgroups are its own to write to.
fn may_divide(config: &mut Value) {
    let mounts = config["mounts"].as_array_mut().into_iter().flatten();
    let own = mounts.filter(|mount| mount["destination"] == "/sys/fs/cgroup");
    own.for_each(|mount| mount["options"] = json!(["nosuid", "noexec", "nodev"]));
}

/// As systemd does it, and whoever runs containers in a container: processes are below, and the top takes none.
pub fn an_exec_is_where_its_container_has_put_its_processes(world: &World<'_>) -> Result<()> {
    let divides = "mkdir /sys/fs/cgroup/init.scope /sys/fs/cgroup/work && \
                   echo 1 >/sys/fs/cgroup/init.scope/cgroup.procs && \
                   echo +pids >/sys/fs/cgroup/cgroup.subtree_control && echo up; exec sleep 1000";
    let bundle = world.shell(divides)?;
    bundle::change(&bundle, may_divide)?;
    let run = world.start(
        world
            .hutch(&["run", "--bundle"])
            .arg(&bundle)
            .arg("divided"),
    )?;
    run.wait_for_output("up\n", BOOT_LIMIT)?;
    let place = |flags: &[&str]| {
        let words = [
            &["exec"],
            flags,
            &["divided", "grep", "^0:", "/proc/self/cgroup"],
        ];
        world.verb(&words.concat())
    };

    for (flags, expected) in [
        (&[][..], "0::/init.scope\n"),
        (&["--cgroup", "work"], "0::/work\n"),
        (&["--cgroup", "memory:/work"], "0::/work\n"),
    ] {
        let found = place(flags)?;
        ensure!(found.stdout == expected, "{flags:?}: {found:?}");
    }
    let missing = place(&["--cgroup", "none"])?;
    ensure!(
        missing.code() == Some(255)
            && missing
                .stderr
                .contains("cgroup \"none\" of the container: no such file"),
        "{missing:?}"
    );
    succeeds(&world.verb(&["kill", "divided", "KILL"])?)?;
    ensure!(run.finish(SOON)?.code() == Some(137));
    Ok(())
}

/// Not even after another that has no cgroup namespace of its own, as with Podman on hosts of the first version: what it
/// mounts says for the whole guest who may write what.
pub fn a_container_that_may_divide_its_cgroup_lifts_no_limit_of_it(
    world: &World<'_>,
) -> Result<()> {
    succeeds(&world.verb(&["sandbox", "run", "box"])?)?;
    let other = world.shell("exec sleep 1000")?;
    bundle::change(&other, |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut();
        namespaces
            .into_iter()
            .for_each(|all| all.retain(|one| one["type"] != "cgroup"));
    })?;
    succeeds(&world.detached(&["run", "--detach", "--sandbox", "box"], &other, "other")?)?;
    let lifts = "cd /sys/fs/cgroup; for file in pids.max memory.max; do \
                 (echo max >$file) 2>/dev/null && echo lifted $file; done; \
                 mkdir below && echo divided && cat pids.max";
    let bundle = world.shell(lifts)?;
    bundle::change(&bundle, |config| {
        may_divide(config);
        config["linux"]["resources"] = json!({ "pids": { "limit": 50 } });
    })?;

    let mut run = world.hutch(&["run", "--sandbox", "box", "--bundle"]);
    let outcome = world.run(run.arg(&bundle).arg("divides"), BOOT_LIMIT)?;

    ensure!(outcome.stdout == "divided\n50\n", "{outcome:?}");
    succeeds(&world.verb(&["sandbox", "delete", "--force", "box"])?)
}
