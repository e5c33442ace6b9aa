//! Stories of the verbs that make, look at and end a container, one at a time and at once.

use crate::{
    e2e::world::{BOOT_LIMIT, Outcome, SOON, World},
    wait::wait_until,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// runc's code for a verb that failed.
const REFUSED: i32 = 1;

pub fn a_container_goes_through_its_states_and_is_gone_at_the_end(world: &World<'_>) -> Result<()> {
    let bundle = world.shell("exec sleep 1000")?;

    succeeds(&world.create("life", &bundle)?.finish(BOOT_LIMIT)?)?;
    ensure!(status(world, "life")? == "created");
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

pub fn a_bundle_without_a_config_is_refused_by_name(world: &World<'_>) -> Result<()> {
    let bundle = world.shell("true")?;
    std::fs::remove_file(bundle.join("config.json")).context("take the config away")?;
    let mut run = world.hutch(&["run", "--bundle"]);
    run.arg(&bundle).arg("none");

    let outcome = world.run(&mut run, BOOT_LIMIT)?;

    ensure!(outcome.code() == Some(REFUSED), "exit code: {outcome:?}");
    ensure!(
        outcome.stderr.trim_end().lines().count() == 1 && outcome.stderr.contains("config.json"),
        "one line that names it: {outcome:?}"
    );
    Ok(())
}

fn status(world: &World<'_>, id: &str) -> Result<String> {
    let outcome = world.verb(&["state", id])?;
    succeeds(&outcome)?;
    let state: Value = serde_json::from_str(&outcome.stdout).context("read the state")?;
    let status = state["status"]
        .as_str()
        .context("the state has no status")?;
    Ok(status.to_owned())
}

pub(super) fn succeeds(outcome: &Outcome) -> Result<()> {
    ensure!(outcome.status.success(), "{outcome:?}");
    Ok(())
}
