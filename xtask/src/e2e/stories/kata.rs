//! Stories of a guest whose agent offers what a stock one of Kata's does: our own, told so by its kernel's command line.

use super::lifecycle::succeeds;
use crate::{
    bundle, command,
    e2e::{
        terminal::Terminal,
        world::{BOOT_LIMIT, SOON, World},
    },
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{fs, io::Write, path::PathBuf, process::Command, thread};

/// runc's code for a verb that failed.
const REFUSED: i32 = 1;

/// The serial channel serves an agent that is ours; one of Kata's own needs vsock.
fn configure(world: &World<'_>, default: &str) -> Result<()> {
    let assets = world.fixtures().assets.folder.display();
    world.configure(&format!(
        "[guest]\nprofile = \"{default}\"\n[kata]\nkernel = \"{assets}/vmlinux\"\n\
         initrd = \"{assets}/initrd.img\"\nkernel_params = [\"hutch.features=stock\"]\n\
         memory_mib = 256\nchannel = \"serial\"\n"
    ))
}

/// A root file system with our agent as its first program, and what that mounts on; nothing in it is ever written.
fn image(world: &World<'_>) -> Result<PathBuf> {
    let fixtures = world.fixtures();
    let root = world.scratch().join("root");
    for folder in ["dev", ".root"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("create {folder}"))?;
    }
    fs::copy(&fixtures.assets.binaries.agent, root.join("init")).context("copy the agent")?;
    let image = world.scratch().join("image");
    let mut mkfs = Command::new("mkfs.ext4");
    command::run(mkfs.args(["-q", "-d"]).arg(&root).arg(&image).arg("64M"))?;
    Ok(image)
}

/// Two guests of one image at once, as no guest may write to it; over the channel that a stock agent listens on.
pub fn stock_guests_boot_of_one_image_and_answer_over_vsock(world: &World<'_>) -> Result<()> {
    let image = image(world)?;
    let before = fs::read(&image).context("read the image")?;
    world.configure(&format!(
        "[guest]\nprofile = \"kata\"\n[kata]\nkernel = \"{}/vmlinux\"\nimage = \"{}\"\n\
         kernel_params = [\"root=/dev/vda\", \"ro\", \"init=/init\", \"hutch.features=stock\"]\n\
         memory_mib = 256\nchannel = \"hybrid-vsock\"\n",
        world.fixtures().assets.folder.display(),
        image.display()
    ))?;
    let script = "echo up; cat; exit 7";
    let mut first = world.start(&mut world.hutch_run("first", script)?)?;
    first.wait_for_output("up\n", BOOT_LIMIT)?;
    let second = world.run(
        &mut world.hutch_run("second", "echo too; exit 3")?,
        BOOT_LIMIT,
    )?;
    ensure!(
        second.code() == Some(3) && second.stdout == "too\n",
        "a second guest of it: {second:?}"
    );

    world.execs_lose_nothing("first", 3)?;
    let mut stdin = first.stdin().context("stdin is piped")?;
    stdin.write_all(b"in\n").context("write")?;
    // What is being written to such a guest may be lost with the daemon that writes it.
    first.wait_for_output("in\n", SOON)?;
    world.kill(world.daemon()?)?;
    // Whoever asks starts the next one.
    ensure!(status(world, "first")? == "running");
    drop(stdin);
    let outcome = first.finish(SOON)?;

    ensure!(
        outcome.code() == Some(7) && outcome.stdout == "up\nin\n",
        "{outcome:?}"
    );
    ensure!(
        fs::read(&image).context("read the image")? == before,
        "a guest wrote to its image"
    );
    Ok(())
}

/// Bytes go both ways by the agent's calls, also while the daemon that makes them dies.
pub fn a_stock_guest_carries_stdio_by_calls_and_outlives_a_killed_daemon(
    world: &World<'_>,
) -> Result<()> {
    configure(world, "kata")?;
    let mut house = world.start(&mut world.hutch_run("house", "echo up; cat; exit 7")?)?;
    house.wait_for_output("up\n", BOOT_LIMIT)?;

    world.execs_lose_nothing("house", 3)?;
    let mut stdin = house.stdin().context("stdin is piped")?;
    stdin.write_all(b"before\n").context("write")?;
    house.wait_for_output("before\n", SOON)?;
    world.kill(world.daemon()?)?;
    // Whoever asks starts the next one, which takes the process over.
    let exec = world.verb(&["exec", "house", "/bin/sh", "-c", "echo inside; exit 5"])?;
    ensure!(
        exec.code() == Some(5) && exec.stdout == "inside\n",
        "exec: {exec:?}"
    );
    let written = thread::spawn(move || stdin.write_all(b"after\n"));
    written.join().ok().context("the writer panicked")??;
    let outcome = house.finish(BOOT_LIMIT)?;

    ensure!(outcome.code() == Some(7), "exit code: {outcome:?}");
    ensure!(
        outcome.stdout == "up\nbefore\nafter\n",
        "output: {outcome:?}"
    );
    Ok(())
}

pub fn a_sandbox_that_asks_for_a_stock_guest_lives_a_whole_life(world: &World<'_>) -> Result<()> {
    configure(world, "hutch")?;
    let none = world.verb(&["sandbox", "create", "--guest-profile", "windows", "box"])?;
    ensure!(
        none.code() == Some(REFUSED) && none.stderr.contains("windows"),
        "a profile that is none: {none:?}"
    );
    succeeds(&world.verb(&["sandbox", "create", "--guest-profile", "kata", "box"])?)?;

    lives_and_is_killed(world)?;
    is_paused_and_limited(world)?;
    has_a_terminal(world)?;

    succeeds(&world.verb(&["delete", "--force", "stays"])?)?;
    succeeds(&world.verb(&["sandbox", "delete", "--force", "box"])?)
}

fn create_in_box(world: &World<'_>, id: &str, script: &str) -> Result<()> {
    let folder = world.shell(script)?;
    succeeds(&world.detached(&["create", "--sandbox", "box"], &folder, id)?)
}

fn status(world: &World<'_>, id: &str) -> Result<String> {
    let state = world.verb(&["state", id])?;
    let state: Value = serde_json::from_str(&state.stdout).context("read state")?;
    Ok(state["status"].as_str().unwrap_or_default().to_owned())
}

/// An init without handlers does not heed SIGTERM; such an agent kills it instead, and tells a bare number.
fn lives_and_is_killed(world: &World<'_>) -> Result<()> {
    let folder = world.shell("echo up; exec sleep 1000")?;
    let mut run = world.hutch(&["run", "--sandbox", "box", "--bundle"]);
    run.arg(&folder).arg("heeds");
    let run = world.start(&mut run)?;
    run.wait_for_output("up\n", BOOT_LIMIT)?;
    ensure!(status(world, "heeds")? == "running");

    succeeds(&world.verb(&["kill", "heeds", "TERM"])?)?;
    let outcome = run.finish(SOON)?;

    ensure!(outcome.code() == Some(137), "{outcome:?}");
    Ok(())
}

fn is_paused_and_limited(world: &World<'_>) -> Result<()> {
    create_in_box(world, "stays", "exec sleep 1000")?;
    ensure!(status(world, "stays")? == "created");
    succeeds(&world.verb(&["start", "stays"])?)?;
    succeeds(&world.verb(&["pause", "stays"])?)?;
    ensure!(status(world, "stays")? == "paused");
    succeeds(&world.verb(&["resume", "stays"])?)?;
    succeeds(&world.verb(&["update", "--pids-limit", "50", "stays"])?)?;
    let limit = world.verb(&["exec", "stays", "/bin/cat", "/sys/fs/cgroup/pids.max"])?;
    ensure!(limit.stdout == "50\n", "the limit is not there: {limit:?}");
    let ps = world.verb(&["ps", "stays"])?;
    ensure!(
        ps.code() == Some(REFUSED) && ps.stderr.contains("list pids"),
        "what such an agent lacks: {ps:?}"
    );
    Ok(())
}

fn has_a_terminal(world: &World<'_>) -> Result<()> {
    let folder = world.scratch().join("terminal");
    let args = ["/bin/sh".to_owned()];
    let process = bundle::Process {
        args: &args,
        terminal: true,
    };
    bundle::busybox(&folder, &process)?;
    let mut run = world.hutch(&["run", "--sandbox", "box", "--bundle"]);
    run.arg(&folder).arg("shell");

    let (terminal, shell) = Terminal::run(&run, 24, 80)?;
    terminal.wait_for("/ # ", BOOT_LIMIT)?;
    terminal.resize(50, 132)?;
    terminal
        .enter("while [ \"$(stty size)\" != '50 132' ]; do sleep 0.1; done; echo resi''zed\n")?;
    terminal.wait_for("\r\nresized\r\n", SOON)?;
    terminal.enter("exit 6\n")?;
    terminal.wait_for_end(6, SOON)?;
    terminal.enter("\n")?;
    shell.finish(SOON)?;
    Ok(())
}
