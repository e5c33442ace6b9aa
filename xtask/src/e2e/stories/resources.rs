//! Stories of a container that runs: held and let go, given less, counted, killed for want of memory, told to end.

use super::lifecycle::{json_of, state, status, succeeds};
use crate::{
    bundle,
    e2e::{
        terminal::Terminal,
        world::{BOOT_LIMIT, Running, SOON, World},
    },
    wait::wait_until,
};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

const MIB: u64 = 1 << 20;
/// 128 and SIGKILL.
const KILLED: i32 = 137;
/// What exec answers where no program was run.
const NOT_RUN: i32 = 255;
/// 128 and SIGINT.
const INTERRUPTED: i32 = 130;
/// What a terminal does before each table.
const CLEARED: &str = "\u{1b}[H\u{1b}[2J";
const OOM: &str = "\"type\":\"oom\"";
const STATS: &str = "\"type\":\"stats\"";

/// A bundle whose container may use this much memory.
fn bundle(world: &World<'_>, script: &str, memory: u64) -> Result<PathBuf> {
    let bundle = world.shell(script)?;
    let limits = json!({ "memory": { "limit": memory, "swap": memory } });
    bundle::change(&bundle, |config| config["linux"]["resources"] = limits)?;
    Ok(bundle)
}

fn run_detached(world: &World<'_>, bundle: &Path, id: &str) -> Result<()> {
    succeeds(&world.detached(&["run", "--detach"], bundle, id)?)
}

/// What the container wrote; nothing where it did not yet.
fn written(bundle: &Path, name: &str) -> String {
    fs::read_to_string(bundle.join("rootfs").join(name)).unwrap_or_default()
}

pub fn a_running_container_is_held_and_counted_and_given_less(world: &World<'_>) -> Result<()> {
    let counts = "i=0; while :; do i=$((i+1)); echo $i >/n.new; mv /n.new /n; sleep 0.05; done";
    let bundle = bundle(world, counts, 256 * MIB)?;
    run_detached(world, &bundle, "one")?;
    let count = || written(&bundle, "n");
    ensure!(wait_until(|| !count().is_empty(), SOON), "it does not run");

    succeeds(&world.verb(&["pause", "one"])?)?;
    let held = count();
    ensure!(status(world, "one")? == "paused");
    let exec = world.verb(&["exec", "one", "true"])?;
    ensure!(
        exec.code() == Some(NOT_RUN) && exec.stderr.contains("paused"),
        "{exec:?}"
    );
    // Two looks at what it uses lie between.
    let top = json_of(world, &["top", "--once", "--format", "json"])?;
    ensure!(
        top[0]["id"] == "one" && top[0]["status"] == "paused",
        "{top}"
    );
    ensure!(count() == held, "it counts while it is paused");
    succeeds(&world.verb(&["resume", "one"])?)?;
    ensure!(wait_until(|| count() != held, SOON), "it stays paused");

    succeeds(&world.verb(&["update", "--memory", "128M", "--pids-limit", "50", "one"])?)?;
    let limits = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    let inside = world.verb(&["exec", "one", "sh", "-c", limits])?;
    ensure!(
        inside.stdout == format!("{}\n50\n", 128 * MIB),
        "{inside:?}"
    );
    let figures = json_of(world, &["events", "--stats", "one"])?;
    let memory = &figures["data"]["memory"]["usage"];
    ensure!(
        memory["limit"] == 128 * MIB && memory["usage"].as_u64() > Some(0),
        "{figures}"
    );
    ensure!(figures["data"]["pids"]["limit"] == 50, "{figures}");
    let refused = world.verb(&["update", "--cpuset-cpus", "77", "--pids-limit", "60", "one"])?;
    ensure!(
        refused.code() == Some(1) && refused.stderr.contains("no cpu 77"),
        "{refused:?}"
    );
    let figures = json_of(world, &["events", "--stats", "one"])?;
    ensure!(
        figures["data"]["pids"]["limit"] == 50,
        "half of what was refused is done: {figures}"
    );
    is_shown_again_and_again(world)?;
    is_counted_until_its_end(world)
}

/// A line for each look where nobody watches, and on a terminal a table in place of the last; until it is told to end.
fn is_shown_again_and_again(world: &World<'_>) -> Result<()> {
    let mut top = world.hutch(&["top", "--interval", "100ms", "--format", "json"]);
    let listening = world.start(&mut top)?;
    let looks = || -> Vec<String> { listening.stdout().lines().map(str::to_owned).collect() };
    let renews = || changes(looks());
    ensure!(wait_until(renews, SOON), "shown: {:?}", looks());
    world.signal(listening.pid(), Signal::SIGINT)?;
    let ended = listening.finish(SOON)?;
    ensure!(
        ended.status.signal() == Some(Signal::SIGINT as i32) && ended.stderr.is_empty(),
        "{ended:?}"
    );
    for line in ended.stdout.lines() {
        let look: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(look[0]["id"] == "one" && look[0]["pids"].is_u64(), "{look}");
    }

    let top = world.hutch(&["top", "--interval", "100ms"]);
    let (terminal, person) = Terminal::run(&top, 24, 80)?;
    let tables = || -> Vec<String> {
        let shown = terminal.shown();
        let tables = shown.split(CLEARED).skip(1);
        tables.map(str::to_owned).collect()
    };
    let renews = || changes(tables());
    ensure!(wait_until(renews, SOON), "shown: {:?}", terminal.shown());
    let one = world.processes("hutch")?;
    let one = one.iter().find(|process| process.command.contains(" top "));
    world.signal(one.context("no `hutch top`")?.pid(), Signal::SIGINT)?;
    terminal.wait_for_end(INTERRUPTED, SOON)?;
    terminal.enter("\n")?;
    person.finish(SOON).map(drop)
}

/// At least three of them, whose last may not be whole yet, and not all the same.
fn changes(mut looks: Vec<String>) -> bool {
    looks.pop();
    looks.len() >= 3 && looks.iter().any(|look| *look != looks[0])
}

/// At the pace that was asked for.
fn is_counted_until_its_end(world: &World<'_>) -> Result<()> {
    let watching = world.start(&mut world.hutch(&["events", "--interval", "100ms", "one"]))?;
    let told = || watching.stdout().matches(STATS).count();
    ensure!(
        wait_until(|| told() >= 3, SOON),
        "told: {:?}",
        watching.stdout()
    );

    succeeds(&world.verb(&["delete", "--force", "one"])?)?;

    succeeds(&watching.finish(SOON)?)
}

/// The kill is told to whoever listens, and to whoever asks afterwards, though the daemon has died in between.
pub fn pain_10_a_kill_for_want_of_memory_is_told_and_kept(world: &World<'_>) -> Result<()> {
    let bed = bundle(world, "exec sleep 100000", 32 * MIB)?;
    run_detached(world, &bed, "bed")?;
    let events = |world: &World<'_>| world.hutch(&["events", "--interval", "1h", "bed"]);
    let ooms = |events: &Running| events.stdout().matches(OOM).count();
    let listening = world.start(&mut events(world))?;

    let eater = world.verb(&["exec", "bed", "tail", "/dev/zero"])?;

    ensure!(eater.code() == Some(KILLED), "{eater:?}");
    ensure!(
        wait_until(|| ooms(&listening) == 1, SOON),
        "told: {:?}",
        listening.stdout()
    );
    ensure!(status(world, "bed")? == "running", "its init died too");

    let hungry = bundle(world, "exec tail /dev/zero", 32 * MIB)?;
    let path = hungry.to_str().context("a path of text")?;
    let mut run = world.hutch(&[
        "run",
        "--keep",
        "--sandbox",
        "bed",
        "--bundle",
        path,
        "hungry",
    ]);
    let run = world.start(&mut run)?.finish(BOOT_LIMIT)?;
    ensure!(run.code() == Some(KILLED), "{run:?}");
    world.kill(world.daemon()?)?;

    let exit = state(world, "hungry")?["exit"].clone();
    ensure!(
        exit["code"] == KILLED && exit["reason"] == "oom",
        "the reason is lost: {exit}"
    );
    let late = world.start(&mut events(world))?;
    ensure!(
        wait_until(|| ooms(&late) == 1, SOON),
        "told afterwards: {:?}",
        late.stdout()
    );
    succeeds(&world.verb(&["kill", "bed", "KILL"])?)?;
    let late = late.finish(SOON)?;
    ensure!(
        late.stdout.matches(OOM).count() == 1,
        "it is told twice: {late:?}"
    );
    drop(listening);
    succeeds(&world.verb(&["delete", "--force", "hungry"])?)?;
    succeeds(&world.verb(&["delete", "--force", "bed"])?)
}

/// Signals reach the init alone, nothing follows them, and the end that was asked for comes in its time.
pub fn pain_9_a_signal_reaches_the_init_alone_and_the_end_comes_when_asked_for(
    world: &World<'_>,
) -> Result<()> {
    let bundle = world.shell(
        "mkfifo /p; exec 3<>/p; trap 'echo init >>/heard' TERM
        (trap 'echo child >>/heard' TERM; : >/up; while :; do read x <&3; done) &
        while :; do wait; done",
    )?;
    run_detached(world, &bundle, "deaf")?;
    let is_up = || bundle.join("rootfs/up").exists();
    ensure!(wait_until(is_up, SOON), "it does not run");

    succeeds(&world.verb(&["kill", "deaf"])?)?;
    let heard = || written(&bundle, "heard");
    ensure!(
        wait_until(|| heard() == "init\n", SOON),
        "heard: {:?}",
        heard()
    );
    ensure!(status(world, "deaf")? == "running", "something followed");

    succeeds(&world.verb(&["kill", "--escalate", "1s", "deaf", "TERM"])?)?;
    ensure!(
        status(world, "deaf")? == "stopped",
        "it returned before the end"
    );
    ensure!(heard() == "init\ninit\n", "heard: {:?}", heard());
    let exit = state(world, "deaf")?["exit"].clone();
    ensure!(exit["code"] == KILLED, "{exit}");
    succeeds(&world.verb(&["delete", "deaf"])?)
}
