//! What stays resident: the daemon, and what stands beside it for each sandbox.

use super::{
    meter,
    report::{Measure, Unit},
    scene::Scene,
};
use crate::{daemon, wait::wait_until};
use anyhow::Result;
use nix::unistd::Pid;
use std::time::Duration;

/// What a daemon may have, and what each sandbox may add to it.
pub const DAEMON_KIB: f64 = 12.0 * 1024.0;
pub const SANDBOX_KIB: f64 = 64.0;
const RELAY_KIB: f64 = 1.5 * 1024.0;

const SANDBOXES: usize = 10;
/// Longer than the quiet after which hutchd gives memory back.
const REST: Duration = Duration::from_secs(8);
/// A guest's memory, QEMU's own and virtiofsd's, generously.
const SANDBOX_COSTS_KIB: f64 = 400.0 * 1024.0;

pub fn measure(scene: &Scene<'_>) -> Result<Vec<Measure>> {
    let world = scene.world;
    // One that has just begun: what earlier groups did to it is not what is asked for.
    daemon::stop(world.daemon()?)?;
    scene.timed(&["list"])?;
    let empty = at_rest(world.daemon()?)?;
    let room = (meter::available_kib()? / SANDBOX_COSTS_KIB) as usize;
    let sandboxes = SANDBOXES.min(room);
    let ids: Vec<String> = (0..sandboxes).map(|number| format!("m{number}")).collect();
    for id in &ids {
        scene.reside(id)?;
    }
    let full = at_rest(world.daemon()?)?;
    let of = |program: &str, size: fn(Pid) -> Result<f64>| -> Result<Vec<f64>> {
        let processes = world.processes(program)?;
        processes
            .iter()
            .map(|process| size(process.pid()))
            .collect()
    };
    let relays = of("hutch-relay", meter::pss_kib)?;
    let vmms = of("qemu", meter::rss_kib)?;
    let shares = of("virtiofsd", meter::pss_kib)?;
    for id in &ids {
        scene.timed(&["delete", "--force", id])?;
    }
    let kib = Unit::Kibibytes;
    let goal = DAEMON_KIB + SANDBOX_KIB * sandboxes as f64;
    let share = vec![shares.iter().sum::<f64>() / sandboxes as f64];
    Ok(vec![
        Measure::new(
            "memory/daemon 0",
            kib,
            vec![empty],
            "PSS of hutchd at rest, just started",
        )
        .at_most(DAEMON_KIB),
        Measure::new(
            &format!("memory/daemon {sandboxes}"),
            kib,
            vec![full],
            "PSS of hutchd at rest, with so many real sandboxes",
        )
        .at_most(goal),
        Measure::new("memory/relay", kib, relays, "PSS of a relay at rest").at_most(RELAY_KIB),
        Measure::new(
            "memory/qemu",
            kib,
            vmms,
            "RSS of QEMU, its guest's memory included",
        ),
        Measure::new(
            "memory/virtiofsd",
            kib,
            share,
            "PSS of virtiofsd, a sandbox's mean",
        ),
    ])
}

/// The least within the time: hutchd gives memory back once nothing was asked of it for some seconds.
fn at_rest(daemon: Pid) -> Result<f64> {
    let mut least = meter::pss_kib(daemon)?;
    let mut failure = None;
    wait_until(
        || match meter::pss_kib(daemon) {
            Ok(size) => {
                least = least.min(size);
                false
            }
            Err(error) => {
                failure = Some(error);
                true
            }
        },
        REST,
    );
    failure.map_or(Ok(least), Err)
}
