//! How fast bytes travel between a caller's pipe and a container's, and that all of them arrive.

use super::{
    report::{Measure, Unit},
    scene::Scene,
};
use crate::e2e::world::BOOT_LIMIT;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::Instant,
};

/// More than every window and buffer on the way, and little enough for a small guest's memory.
const BYTES: usize = 32 * 1024 * 1024;
/// As `cat` and `dd` move them.
const PIECE: usize = 64 * 1024;

/// The payload goes to the guest's memory first, so that the share is not what is measured.
const SERVE: &str = "cat /payload >/dev/shm/p; echo ready; \
    while read line; do cat /dev/shm/p; done";
const TAKE: &str = "echo ready; while read line; do \
    dd bs=65536 count=512 iflag=fullblock of=/dev/shm/p 2>/dev/null; \
    echo got; sha256sum </dev/shm/p; done";

pub fn measure(scene: &Scene<'_>) -> Result<Vec<Measure>> {
    let mut payload = vec![0; BYTES];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut payload))
        .context("make a payload")?;
    let sum = hex(&Sha256::digest(&payload));
    let bundle = scene.world.shell(SERVE)?;
    fs::write(bundle.join("rootfs/payload"), &payload).context("write a payload")?;
    let to_host = with_deadline(scene, &bundle, |pipe| pipe.drain(&sum))?;
    let bundle = scene.world.shell(TAKE)?;
    let to_guest = with_deadline(scene, &bundle, |pipe| pipe.fill(&payload, &sum))?;
    let unit = Unit::MegabytesPerSecond;
    Ok(vec![
        Measure::new(
            "stdio/guest to host",
            unit,
            to_host,
            "`hutch run … cat FILE | …`, checked",
        ),
        Measure::new(
            "stdio/host to guest",
            unit,
            to_guest,
            "`… | hutch run … dd`, checked",
        ),
    ])
}

/// Both ends of a `hutch run`.
struct Pipe {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Each run within the time that a boot may take; a stream that hangs is ended with its `hutch`.
fn with_deadline(
    scene: &Scene<'_>,
    bundle: &Path,
    once: impl Fn(&mut Pipe) -> Result<f64> + Send,
) -> Result<Vec<f64>> {
    let mut command = scene.world.hutch(&["run", "--bundle"]);
    command.arg(bundle).arg("stdio");
    let mut hutch = start(&mut command)?;
    let mut pipe = Pipe {
        input: hutch.stdin.take().context("stdin was asked for")?,
        output: BufReader::new(hutch.stdout.take().context("stdout was asked for")?),
    };
    let runs = scene.runs;
    let (tell, told) = mpsc::channel();
    let measured = std::thread::scope(|scope| {
        scope.spawn(move || {
            let all = pipe.expect("ready").and_then(|()| {
                // The first translates code.
                once(&mut pipe)?;
                (0..runs).map(|_| once(&mut pipe)).collect()
            });
            // End of input ends the command.
            drop(pipe);
            let _ = tell.send(all);
        });
        let limit = BOOT_LIMIT * (2 + u32::try_from(runs).unwrap_or(u32::MAX));
        let measured = told.recv_timeout(limit);
        if measured.is_err() {
            // Its end closes the pipes, and so ends the thread.
            let _ = hutch.kill();
        }
        measured.context("the stream hangs")?
    });
    let status = hutch.wait().context("wait for hutch run")?;
    let measured: Vec<f64> = measured?;
    ensure!(status.success(), "hutch run ended with {status}");
    Ok(measured)
}

fn start(command: &mut Command) -> Result<Child> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start hutch run")
}

impl Pipe {
    fn expect(&mut self, expected: &str) -> Result<()> {
        let said = self.line()?;
        ensure!(said == expected, "the container said {said:?}");
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("read a line")?;
        Ok(line.trim_end().to_owned())
    }

    /// From the asking line until the last byte.
    fn drain(&mut self, sum: &str) -> Result<f64> {
        let mut pieces: Vec<u8> = Vec::with_capacity(BYTES);
        let began = Instant::now();
        self.input.write_all(b"\n").context("ask for the payload")?;
        (&mut self.output)
            .take(BYTES as u64)
            .read_to_end(&mut pieces)
            .context("read the payload")?;
        let rate = rate(began);
        let got = hex(&Sha256::digest(&pieces));
        ensure!(got == sum, "{} bytes came, with sum {got}", pieces.len());
        Ok(rate)
    }

    /// From the first byte until the guest says that it has all of them.
    fn fill(&mut self, payload: &[u8], sum: &str) -> Result<f64> {
        self.input
            .write_all(b"\n")
            .context("announce the payload")?;
        let began = Instant::now();
        for piece in payload.chunks(PIECE) {
            self.input.write_all(piece).context("write the payload")?;
        }
        self.expect("got")?;
        let rate = rate(began);
        let said = self.line()?;
        ensure!(said.starts_with(sum), "the guest has {said}, and not {sum}");
        Ok(rate)
    }
}

/// Megabytes, not mebibytes, a second.
fn rate(began: Instant) -> f64 {
    BYTES as f64 / 1e6 / began.elapsed().as_secs_f64()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
