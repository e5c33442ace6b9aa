//! Cold start: `hutch run` beside a bare QEMU that boots the same thing, and where its time goes.

use super::{
    bare::{Boot, Machine},
    console::{self, Ready},
    meter,
    report::{Measure, Unit},
    scene::{Scene, StoreFigures},
    waterfall::{self, Inspected, Seen, Steps},
};
use crate::e2e::world::{BOOT_LIMIT, World};
use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use std::{
    io::Read,
    path::Path,
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant, SystemTime},
};

const ID: &str = "boot";
const READY_GOAL: f64 = 1.10;
const CPU_GOAL: f64 = 1.10;

pub fn measure(scene: &Scene<'_>) -> Result<Vec<Measure>> {
    let world = scene.world;
    let bundle = world.shell("echo up")?;
    // Translates nothing and caches nothing that counts, but reads every file once.
    let machine = {
        let run = start(world, &bundle)?;
        run.finish(world)?.machine
    };
    let mut samples = Samples::default();
    for _ in 0..scene.runs {
        samples.bare_init.push(machine.boot_to_init()?);
        samples.bare_ready.push(machine.boot_to_agent()?);
        let before = scene.store_figures()?;
        let started = start(world, &bundle)?.finish(world)?;
        samples.store.push(scene.store_figures()?.since(&before));
        samples.hutch.push(started);
    }
    Ok(samples.measures())
}

#[derive(Default)]
struct Samples {
    bare_init: Vec<Boot>,
    bare_ready: Vec<Boot>,
    hutch: Vec<Start>,
    store: Vec<StoreFigures>,
}

impl Samples {
    fn measures(self) -> Vec<Measure> {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let wall =
            |boots: &[Boot]| -> Vec<f64> { boots.iter().map(|boot| ms(boot.wall)).collect() };
        let cpu = |boots: &[Boot]| -> Vec<f64> {
            boots.iter().map(|boot| boot.cpu.as_secs_f64()).collect()
        };
        let ready: Vec<f64> = self.hutch.iter().map(|start| ms(start.ready)).collect();
        let used = self.hutch.iter().map(|start| start.cpu.as_secs_f64());
        let used: Vec<f64> = used.collect();
        let (bare_ready, bare_init) = (wall(&self.bare_ready), cpu(&self.bare_init));
        let ready_ratio = Measure::ratios("boot/ready ratio", &ready, &bare_ready);
        let cpu_ratio = Measure::ratios("boot/cpu ratio", &used, &bare_init);
        let millis = |name, samples, about| Measure::new(name, Unit::Milliseconds, samples, about);
        let seconds = |name, samples, about| Measure::new(name, Unit::CpuSeconds, samples, about);
        let (to_init, to_ready) = (wall(&self.bare_init), cpu(&self.bare_ready));
        let steps: Vec<Steps> = self.hutch.into_iter().map(|start| start.steps).collect();
        let mut measures = vec![
            millis("boot/ready", ready, "request to agent ready"),
            millis("boot/bare ready", bare_ready, "bare QEMU, to agent ready"),
            ready_ratio.at_most(READY_GOAL),
            seconds("boot/cpu ready", used, "of everything, to agent ready"),
            seconds("boot/bare cpu init", bare_init, "bare QEMU, to /init"),
            cpu_ratio.at_most(CPU_GOAL),
            seconds("boot/bare cpu ready", to_ready, "bare QEMU, to agent ready"),
            millis("boot/bare init", to_init, "bare QEMU, to /init"),
        ];
        measures.extend(waterfall::measures(&steps));
        measures.extend(StoreFigures::measures(&self.store));
        measures
    }
}

/// One `hutch run`, from outside.
struct Start {
    ready: Duration,
    cpu: Duration,
    steps: Steps,
    machine: Machine,
}

/// A `hutch run` whose agent is ready.
struct Begun {
    hutch: std::process::Child,
    output: mpsc::Receiver<Instant>,
    at: Instant,
    epoch_ms: u64,
    ready: Duration,
    line: Ready,
    cpu: Duration,
    machine: Machine,
}

fn start(world: &World<'_>, bundle: &Path) -> Result<Begun> {
    let daemon = world.daemon()?;
    let used = |pid| -> Result<Duration> { Ok(meter::cpu_time(pid)? + meter::children_time(pid)?) };
    let before = used(daemon)?;
    let mut command = world.hutch(&["run", "--keep", "--bundle"]);
    command
        .arg(bundle)
        .arg(ID)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let at = Instant::now();
    let mut hutch = command.spawn().context("start hutch run")?;
    let output = first_byte(hutch.stdout.take().context("stdout was asked for")?);
    let root = world.root().to_owned();
    let (line, seen) = console::wait(|| console::of_only_sandbox(&root), Ready::of)?;

    let own = Pid::from_raw(hutch.id().cast_signed());
    let mut cpu = used(daemon)?.saturating_sub(before) + used(own)?;
    for helper in ["qemu", "virtiofsd"] {
        for process in world.processes(helper)? {
            cpu += meter::cpu_time(process.pid())?;
        }
    }
    Ok(Begun {
        hutch,
        output,
        at,
        epoch_ms: u64::try_from(epoch.as_millis())?,
        ready: seen - at,
        line,
        cpu,
        machine: Machine::of_only(world)?,
    })
}

/// When the first byte came; the rest is read and dropped.
fn first_byte(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<Instant> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(1..) = stream.read(&mut buffer) {
            // Only the first is waited for.
            let _ = tell.send(Instant::now());
        }
    });
    told
}

impl Begun {
    fn finish(mut self, world: &World<'_>) -> Result<Start> {
        let output = self
            .output
            .recv_timeout(BOOT_LIMIT)
            .context("no output came")?;
        let status = self.hutch.wait().context("wait for hutch run")?;
        let ended = Instant::now();
        ensure!(status.success(), "hutch run ended with {status}");
        let inspected = world.verb(&["sandbox", "inspect", ID])?;
        let inspected = Inspected::of(&inspected.stdout)?;
        let teardown = delete(world)?;
        let seen = Seen {
            sent_epoch_ms: self.epoch_ms,
            ready: self.ready,
            line: self.line,
            output: output - self.at,
            ended: ended - self.at,
            teardown,
        };
        Ok(Start {
            ready: self.ready,
            cpu: self.cpu,
            steps: waterfall::steps(&seen, &inspected)?,
            machine: self.machine,
        })
    }
}

fn delete(world: &World<'_>) -> Result<Duration> {
    let began = Instant::now();
    let status = world.hutch(&["delete", "--force", ID]).status();
    ensure!(
        status.context("start hutch delete")?.success(),
        "hutch delete failed"
    );
    Ok(began.elapsed())
}
