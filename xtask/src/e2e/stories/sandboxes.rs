//! Stories of sandboxes of their own, and of many containers in one.

use super::{
    lifecycle::{json_of, state, status, succeeds},
    spending::{is_what_its_host_spends, pids},
};
use crate::{
    bundle,
    e2e::world::{BOOT_LIMIT, Outcome, SOON, World},
    wait::wait_until,
};
use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt};

const POD: &str = "pod";
/// What a container that lost its VM exits with.
const VM_LOST: i32 = 255;
/// 128 and SIGKILL.
const KILLED: i32 = 137;
/// What a verb answers that was refused.
const REFUSED: i32 = 1;
/// Containers that heed SIGTERM, and what they exit with.
const HEEDED: [(&str, i32); 2] = [("one", 5), ("two", 6)];

fn sandbox(world: &World<'_>, words: &[&str]) -> Result<Outcome> {
    world.verb(&[&["sandbox"], words].concat())
}

fn asked(world: &World<'_>, words: &[&str]) -> Result<String> {
    let outcome = sandbox(world, words)?;
    succeeds(&outcome)?;
    Ok(outcome.stdout.trim_end().to_owned())
}

fn inspected(world: &World<'_>) -> Result<Value> {
    serde_json::from_str(&asked(world, &["inspect", POD])?).context("read what is inspected")
}

/// A container that runs in the pod.
fn join(world: &World<'_>, id: &str, script: &str) -> Result<()> {
    let bundle = world.shell(script)?;
    succeeds(&world.detached(&["run", "--detach", "--sandbox", POD], &bundle, id)?)
}

fn exit(world: &World<'_>, id: &str) -> Result<(i64, String)> {
    let stops = || status(world, id).is_ok_and(|status| status == "stopped");
    ensure!(wait_until(stops, SOON), "{id} does not stop");
    let exit = state(world, id)?["exit"].clone();
    let code = exit["code"].as_i64().context("it has no code")?;
    let reason = exit["reason"].as_str().unwrap_or_default();
    Ok((code, reason.to_owned()))
}

pub fn a_vm_that_dies_takes_its_containers_along_and_its_sandbox_starts_again(
    world: &World<'_>,
) -> Result<()> {
    let sized = ["run", "--vcpus", "2", "--memory", "384"];
    asked(
        world,
        &[&sized[..], &["--annotation", "team=blue", POD]].concat(),
    )?;
    let watching = world.start(&mut world.hutch(&["sandbox", "monitor", POD]))?;
    for id in ["c0", "c1", "c2", "c3", "c4"] {
        join(world, id, "exec sleep 1000")?;
    }
    is_as_large_as_asked(world, "c0")?;
    costs_what_its_host_spends(world)?;
    is_held_as_a_whole(world)?;
    processes_are_shared_on_request(world)?;
    // The first goes, and the others do not notice.
    succeeds(&world.verb(&["delete", "--force", "c0"])?)?;
    join(world, "c5", "exec sleep 1000")?;
    let vmm = inspected(world)?["vmmPid"].as_i64().context("no VMM")?;

    world.kill(Pid::from_raw(i32::try_from(vmm).context("its pid")?))?;

    for id in ["c1", "c2", "c3", "c4", "c5"] {
        let ended = exit(world, id)?;
        ensure!(
            ended == (VM_LOST.into(), "vm-lost".to_owned()),
            "{id}: {ended:?}"
        );
    }
    let is_stopped = || asked(world, &["status", POD]).is_ok_and(|status| status == "stopped");
    ensure!(wait_until(is_stopped, SOON), "the sandbox is not stopped");
    ensure!(inspected(world)?["reason"] != "", "nobody said why");

    asked(world, &["start", POD])?;
    ensure!(asked(world, &["status", POD])? == "running");
    let old = world.verb(&["start", "c1"])?;
    ensure!(old.code() == Some(REFUSED), "a container is final: {old:?}");
    let again = world.shell("echo again")?;
    let mut run = world.hutch(&["run", "--sandbox", POD, "--bundle"]);
    run.arg(&again).arg("c6");
    let again = world.run(&mut run, BOOT_LIMIT)?;
    ensure!(
        again.code() == Some(0) && again.stdout == "again\n",
        "{again:?}"
    );
    join(world, "c7", "exec sleep 1000")?;
    is_as_large_as_asked(world, "c7")?;
    ensure!(asked(world, &["annotation", "get", POD, "team"])? == "blue");
    asked(world, &["delete", "--force", POD])?;
    was_watched(&watching.finish(SOON)?)
}

/// Folders and sockets of the root, and those of a sandbox.
fn is_its_owners_alone(world: &World<'_>) -> Result<()> {
    let info = inspected(world)?;
    let uid = info["uid"].as_str().context("no uid")?;
    let own = format!("s/{uid}");
    for (name, mode) in [
        ("", 0o700),
        ("hutchd.sock", 0o600),
        ("store", 0o700),
        ("s", 0o700),
        (own.as_str(), 0o700),
    ] {
        let path = world.root().join(name);
        let found = fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?;
        let found = found.permissions().mode() & 0o7777;
        ensure!(found == mode, "{}: {found:o}", path.display());
    }
    let socket = world.root().join(&own).join("qmp.sock");
    ensure!(socket.exists(), "no {}", socket.display());
    Ok(())
}

/// It goes by its uid, and is nothing to any other.
pub fn a_sandbox_without_an_id_goes_by_its_uid(world: &World<'_>) -> Result<()> {
    let made = asked(world, &["create"])?;

    let info: Value = serde_json::from_str(&asked(world, &["inspect", &made])?)
        .context("read what is inspected")?;
    ensure!(info["uid"] == made && info["id"] == made, "{made}: {info}");
    ensure!(
        made.len() == 16 && made.bytes().all(|one| one.is_ascii_hexdigit()),
        "{made}"
    );
    let bundle = world.shell("echo here")?;
    let mut run = world.hutch(&["run", "--sandbox", &made, "--bundle"]);
    run.arg(&bundle).arg("one");
    let run = world.run(&mut run, BOOT_LIMIT)?;
    ensure!(run.code() == Some(0) && run.stdout == "here\n", "{run:?}");
    ensure!(asked(world, &["list", "--quiet"])? == made);
    asked(world, &["delete", "--force", &made])?;
    ensure!(asked(world, &["list", "--quiet"])?.is_empty());
    Ok(())
}

/// By its guest's own account, whose kernel keeps some of the memory.
fn is_as_large_as_asked(world: &World<'_>, id: &str) -> Result<()> {
    let counts = "grep -c ^processor /proc/cpuinfo; sed -n 's/^MemTotal: *//p' /proc/meminfo";
    let told = world.verb(&["exec", id, "sh", "-c", counts])?;
    succeeds(&told)?;
    let (vcpus, kib) = told.stdout.split_once('\n').context("two lines")?;
    let kib: u64 = kib.trim_end_matches(" kB\n").parse().context("a size")?;
    ensure!(vcpus == "2", "{told:?}");
    ensure!((300 << 10..=384 << 10).contains(&kib), "{told:?}");
    let later = sandbox(world, &["annotation", "set", POD, "dev.hutch.vcpus=4"])?;
    ensure!(
        later.code() == Some(REFUSED) && later.stderr.contains("creation"),
        "{later:?}"
    );
    Ok(())
}

/// Its parts are told one by one: the VMM, what serves its files, and a relay for each container.
fn costs_what_its_host_spends(world: &World<'_>) -> Result<()> {
    let relays = pids(world, "hutch-relay")?;
    ensure!(relays.len() == 5, "a relay for each: {relays:?}");
    let parts = [
        ("vmm", pids(world, "qemu-system")?),
        ("helpers", pids(world, "virtiofsd")?),
        ("relays", relays),
    ];
    is_what_its_host_spends(world, POD, &parts)
}

fn is_held_as_a_whole(world: &World<'_>) -> Result<()> {
    asked(world, &["pause", POD])?;
    ensure!(asked(world, &["status", POD])? == "paused");
    let exec = world.verb(&["exec", "c0", "true"])?;
    ensure!(
        exec.code() == Some(VM_LOST) && exec.stderr.contains("paused"),
        "{exec:?}"
    );
    // What no guest tells of now is shown without figures, and nothing waits for it.
    let top = json_of(world, &["top", "--once", "--format", "json"])?;
    let lines = top.as_array().context("a list")?;
    let c0 = lines.iter().find(|line| line["id"] == "c0");
    ensure!(
        c0.is_some_and(|line| line["memoryBytes"].is_null() && line["pids"].is_null()),
        "{top}"
    );
    asked(world, &["resume", POD])?;
    let exec = world.verb(&["exec", "c0", "true"])?;
    succeeds(&exec)
}

/// Whoever names the pid namespace of a neighbour's pid file lives in it, and as long as its first process at most.
fn processes_are_shared_on_request(world: &World<'_>) -> Result<()> {
    let pid_file = world.scratch().join("owner.pid");
    let named = pid_file.to_str().context("a path of ours is text")?;
    let owner = world.shell("trap ': >/heard' USR1; : >/up; while :; do sleep 0.05; done")?;
    let words = ["run", "--detach", "--sandbox", POD, "--pid-file", named];
    succeeds(&world.detached(&words, &owner, "owner")?)?;
    let made = |name: &str| owner.join("rootfs").join(name).exists();
    ensure!(wait_until(|| made("up"), SOON), "the owner does not run");
    let pid = fs::read_to_string(&pid_file).context("read the pid file")?;
    let joiner = world.shell("echo $$ >/pid; exec sleep 4321")?;
    bundle::change(&joiner, |config| {
        let spaces = config["linux"]["namespaces"].as_array_mut();
        for space in spaces.into_iter().flatten().filter(|s| s["type"] == "pid") {
            space["path"] = json!(format!("/proc/{}/ns/pid", pid.trim_end()));
        }
    })?;
    let joins = |id, by| world.detached(&["run", "--detach", "--sandbox", by], &joiner, id);
    succeeds(&joins("joiner", "owner")?)?;
    let told = || fs::read_to_string(joiner.join("rootfs/pid")).unwrap_or_default();
    ensure!(
        wait_until(|| told().ends_with('\n'), SOON),
        "it says no pid"
    );
    let its = told().trim_end().to_owned();

    ensure!(its != "1", "it is alone");
    let of_first = world.verb(&["exec", "joiner", "grep", "-c", "/heard", "/proc/1/cmdline"])?;
    ensure!(of_first.stdout == "1\n", "it sees no owner: {of_first:?}");
    let its_words = format!("/proc/{its}/cmdline");
    let of_joiner = world.verb(&["exec", "owner", "grep", "-c", "4321", &its_words])?;
    ensure!(of_joiner.stdout == "1\n", "nobody sees it: {of_joiner:?}");
    succeeds(&world.verb(&["exec", "joiner", "kill", "-USR1", "1"])?)?;
    ensure!(
        wait_until(|| made("heard"), SOON),
        "the owner hears nothing"
    );
    // It goes alone, and what has joined goes with whom it joined.
    succeeds(&world.verb(&["kill", "joiner", "KILL"])?)?;
    ensure!(exit(world, "joiner")?.0 == i64::from(KILLED));
    ensure!(status(world, "owner")? == "running", "the owner went too");
    // By the sandbox's own id, as any container of it.
    succeeds(&joins("second", POD)?)?;
    succeeds(&world.verb(&["kill", "owner", "KILL"])?)?;
    for id in ["owner", "second"] {
        let ended = exit(world, id)?;
        ensure!(
            ended == (KILLED.into(), "signaled".to_owned()),
            "{id}: {ended:?}"
        );
    }
    ["joiner", "second", "owner"]
        .iter()
        .try_for_each(|id| succeeds(&world.verb(&["delete", id])?))
}

/// Every state and every exit, once, by its number.
fn was_watched(watched: &Outcome) -> Result<()> {
    succeeds(watched)?;
    let events = watched.stdout.lines().map(serde_json::from_str);
    let events: Vec<Value> = events.collect::<Result<_, _>>().context("read events")?;
    let numbers: Vec<u64> = events.iter().filter_map(|e| e["number"].as_u64()).collect();
    ensure!(
        numbers.len() == events.len() && numbers.is_sorted_by(|one, next| one < next),
        "{watched:?}"
    );
    let states: Vec<&str> = events.iter().filter_map(|e| e["status"].as_str()).collect();
    for expected in ["paused", "running", "stopped"] {
        ensure!(
            states.contains(&expected),
            "{expected} is missing: {states:?}"
        );
    }
    let exits = |id: &str| {
        events
            .iter()
            .filter(|event| event["container"] == id)
            .count()
    };
    for id in ["c0", "c1", "c2", "c3", "c4", "c5", "c6"] {
        ensure!(
            exits(id) == 1,
            "{id} ended {} times: {watched:?}",
            exits(id)
        );
    }
    Ok(())
}

/// SIGTERM for what runs, and its end with the VM for what waits for its start; how each ended is told apart.
pub fn a_sandbox_that_is_stopped_lets_its_containers_end(world: &World<'_>) -> Result<()> {
    asked(world, &["run", POD])?;
    is_its_owners_alone(world)?;
    for (id, code) in HEEDED {
        let heeds = format!("trap 'exit {code}' TERM; : >/up; while :; do sleep 0.05; done");
        join(world, id, &heeds)?;
    }
    let create = world.shell("exec sleep 1000")?;
    succeeds(&world.detached(&["create", "--sandbox", POD], &create, "created")?)?;
    for (id, _) in HEEDED {
        let is_up = || {
            let up = world.verb(&["exec", id, "test", "-e", "/up"]);
            up.is_ok_and(|up| up.status.success())
        };
        ensure!(wait_until(is_up, SOON), "{id} does not run");
    }

    asked(world, &["stop", POD])?;

    ensure!(asked(world, &["status", POD])? == "stopped");
    for (id, code) in HEEDED.into_iter().chain([("created", KILLED)]) {
        let ended = exit(world, id)?;
        ensure!(ended.0 == i64::from(code), "{id}: {ended:?}");
    }
    ensure!(
        world.processes("qemu-system")?.is_empty(),
        "its VM lives on"
    );
    let late = world.verb(&["exec", "created", "true"])?;
    ensure!(late.code() == Some(VM_LOST), "{late:?}");
    for id in ["one", "two", "created"] {
        succeeds(&world.verb(&["delete", id])?)?;
    }
    asked(world, &["delete", POD])?;
    ensure!(asked(world, &["list", "--quiet"])?.is_empty());
    Ok(())
}
