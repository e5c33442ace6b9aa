//! Stories of bytes: all of them, in order, and in little memory.

use crate::e2e::world::{BOOT_LIMIT, Outcome, SOON, World};
use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use std::{
    fs,
    io::{Read, Write},
    process::{Child, ChildStdin, Stdio},
    thread,
    time::Duration,
};

const MIB: usize = 1024 * 1024;
/// An emulated guest moves some ten MiB a second each way.
const FLOOD_LIMIT: Duration = Duration::from_secs(900);
/// What a relay may need at its worst, however much passes through it.
const RELAY_KIB_MAX: u64 = 32 * 1024;
/// What a flood may add to the daemon, which it does not pass through.
const DAEMON_KIB_MORE_MAX: u64 = 4 * 1024;

pub fn a_gibibyte_goes_in_and_comes_out_unchanged_in_little_memory(
    world: &World<'_>,
) -> Result<()> {
    const MIBS: u64 = 1024;
    const UP: &[u8] = b"up\n";
    let mut run = world.hutch_run("flood", "echo up; exec cat")?;
    let mut run = Ended(
        run.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start hutch run")?,
    );
    let pid = Pid::from_raw(run.0.id().cast_signed());
    let stdin = run.0.stdin.take().context("stdin is piped")?;
    let mut stdout = run.0.stdout.take().context("stdout is piped")?;
    let mut up = [0; UP.len()];
    stdout.read_exact(&mut up).context("read that it is up")?;
    ensure!(up == UP, "it printed {up:?}");
    let daemon_before = peak_kib(world.daemon()?)?;

    let written = thread::spawn(move || write_noise(stdin, MIBS));
    let read = thread::spawn(move || -> Result<_> {
        read_noise(&mut stdout, MIBS)?;
        Ok(stdout)
    });
    ensure!(
        crate::wait::wait_until(|| read.is_finished(), FLOOD_LIMIT),
        "it does not come through"
    );
    let mut stdout = read.join().ok().context("the reader panicked")??;
    let relay = peak_kib(pid)?;
    let daemon = peak_kib(world.daemon()?)?;
    drop(written.join().ok().context("the writer panicked")??);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).context("read the end")?;

    ensure!(rest.is_empty(), "{} bytes came twice", rest.len());
    ensure!(run.0.wait().context("wait for hutch run")?.success());
    ensure!(relay <= RELAY_KIB_MAX, "the relay had {relay} KiB");
    ensure!(
        daemon <= daemon_before + DAEMON_KIB_MORE_MAX,
        "hutchd had {daemon} KiB, and {daemon_before} KiB before"
    );
    Ok(())
}

/// A child that does not outlive the story.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail if it ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The n-th MiB: noise that no other looks like.
fn noise(number: u64) -> Vec<u8> {
    let mut block = vec![0; MIB];
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    // A page of noise again and again, each with its place: quick to make, and nothing fits anywhere else.
    for page in block.chunks_exact_mut(4096) {
        for word in page.chunks_exact_mut(256) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word[..8].copy_from_slice(&state.to_le_bytes());
        }
    }
    block
}

/// The input stays open: whoever drops what is returned ends it.
fn write_noise(mut stdin: ChildStdin, mibs: u64) -> Result<ChildStdin> {
    for number in 0..mibs {
        stdin.write_all(&noise(number)).context("write noise")?;
    }
    Ok(stdin)
}

fn read_noise(stdout: &mut impl Read, mibs: u64) -> Result<()> {
    let mut block = vec![0; MIB];
    for number in 0..mibs {
        let about = || format!("read MiB {number}");
        stdout.read_exact(&mut block).with_context(about)?;
        ensure!(block == noise(number), "MiB {number} is another one");
    }
    Ok(())
}

/// The most memory that a process ever had, in KiB.
fn peak_kib(pid: Pid) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("{path} has no VmHWM"))
}

/// Not once: what is lost at an end is lost in one of many.
pub fn pain_8_of_twenty_last_words_none_is_lost(world: &World<'_>) -> Result<()> {
    const TIMES: u32 = 20;
    const BYTES: usize = 100_000;
    let house = world.start(&mut world.hutch_run("house", "echo up; read end; exit 0")?)?;
    house.wait_for_output("up\n", BOOT_LIMIT)?;

    for time in 0..TIMES {
        let script = format!("head -c {BYTES} /dev/zero | tr '\\0' x; echo {time} >&2; exit 3");
        let last = world.verb(&["exec", "house", "/bin/sh", "-c", &script])?;

        ensure!(last.code() == Some(3), "{time}: {last:?}");
        ensure!(
            last.stdout == "x".repeat(BYTES) && last.stderr == format!("{time}\n"),
            "{time}: {} bytes came of {BYTES}, and {:?}",
            last.stdout.len(),
            last.stderr
        );
    }
    super::lifecycle::succeeds(&house.finish(SOON)?)
}

/// Of one process, and of many side by side that close their ends in every order: no byte is lost, and nobody hangs.
pub fn pain_7_the_end_of_input_is_not_the_end_of_output(world: &World<'_>) -> Result<()> {
    let script = "cat; echo all read; sleep 1; echo still here >&2; echo and here; exit 6";
    let mut half = world.start(&mut world.hutch_run("half", script)?)?;
    let mut stdin = half.stdin().context("stdin is piped")?;
    stdin.write_all(b"in\n").context("write")?;
    half.wait_for_output("in\n", BOOT_LIMIT)?;

    many_close_one_end_first(world)?;
    drop(stdin);
    let outcome = half.finish(SOON)?;

    ensure!(outcome.code() == Some(6), "exit code: {outcome:?}");
    ensure!(
        outcome.stdout == "in\nall read\nand here\n" && outcome.stderr == "still here\n",
        "{outcome:?}"
    );
    Ok(())
}

/// As many at a time as a VM has ports for, and each time all live before the first end is closed. The order of the ends is
/// another than that of the beginnings.
fn many_close_one_end_first(world: &World<'_>) -> Result<()> {
    const ROUNDS: usize = 2;
    (0..ROUNDS).try_for_each(|round| close_one_end_first(world, round))
}

fn close_one_end_first(world: &World<'_>, round: usize) -> Result<()> {
    const TIMES: usize = 20;
    /// Has no divisor in common with the number of execs.
    const STEP: usize = 7;
    let mut execs = Vec::new();
    for time in 0..TIMES {
        let half = HalfClosed::of(round * TIMES + time);
        let mut exec =
            world.start(&mut world.hutch(&["exec", "half", "sh", "-c", &half.script]))?;
        let stdin = exec.stdin().context("stdin is piped")?;
        execs.push(Some((half, exec, stdin)));
    }
    for (half, exec, stdin) in execs.iter_mut().flatten() {
        exec.wait_for_errors("up\n", BOOT_LIMIT)?;
        // One that reads no more may hear that nobody does.
        let written = stdin.write_all(&vec![b'x'; half.bytes]);
        ensure!(written.is_ok() || !half.reads, "{written:?}");
    }
    let order = (0..TIMES).map(|time| time * STEP % TIMES);
    for time in order {
        let taken = execs[time].take();
        let (half, exec, stdin) = taken.context("each has one end")?;
        let ended = if half.reads {
            drop(stdin);
            exec.finish(BOOT_LIMIT)?
        } else {
            let ended = exec.finish(BOOT_LIMIT)?;
            drop(stdin);
            ended
        };
        half.judge(&ended)?;
    }
    Ok(())
}

/// An exec of which one end is closed before the others.
struct HalfClosed {
    /// Says on its errors when it is up.
    script: String,
    /// What it is given; less than a pipe holds, so that nobody waits for it to be read.
    bytes: usize,
    /// Whether it reads what it is given, to the end.
    reads: bool,
    stdout: String,
    stderr: String,
    code: i32,
}

impl HalfClosed {
    fn of(time: usize) -> Self {
        let bytes = 1 + time * 1_000;
        let (script, reads, stdout, stderr) = match time % 4 {
            // Its output follows the end of its input.
            0 => (
                format!("echo up >&2; wc -c; head -c {bytes} /dev/zero | tr '\\0' y"),
                true,
                format!("{bytes}\n{}", "y".repeat(bytes)),
                "up\n".to_owned(),
            ),
            // Its output ends first.
            1 => (
                "exec >&-; echo up >&2; wc -c >&2".to_owned(),
                true,
                String::new(),
                format!("up\n{bytes}\n"),
            ),
            // Its errors end first.
            2 => (
                "echo up >&2; exec 2>&-; cat".to_owned(),
                true,
                "x".repeat(bytes),
                "up\n".to_owned(),
            ),
            // It closes its input, and ends while the caller's is open.
            _ => (
                format!("exec <&-; echo up >&2; head -c {bytes} /dev/zero | tr '\\0' y"),
                false,
                "y".repeat(bytes),
                "up\n".to_owned(),
            ),
        };
        let code = 1 + i32::try_from(time).unwrap_or_default();
        Self {
            script: format!("{script}; exit {code}"),
            bytes,
            reads,
            stdout,
            stderr,
            code,
        }
    }

    fn judge(&self, ended: &Outcome) -> Result<()> {
        let script = &self.script;
        ensure!(
            ended.code() == Some(self.code),
            "{script}: {:?}",
            ended.status
        );
        ensure!(
            ended.stdout == self.stdout && ended.stderr == self.stderr,
            "{script}: {} bytes came of {}, and {:?}",
            ended.stdout.len(),
            self.stdout.len(),
            ended.stderr
        );
        Ok(())
    }
}
