//! What a caller waits for in a sandbox that runs: a query, an exec, and a further container.

use super::{
    report::{Measure, Unit},
    scene::Scene,
};
use anyhow::Result;

const ID: &str = "bed";

pub fn measure(scene: &Scene<'_>) -> Result<Vec<Measure>> {
    scene.reside(ID)?;
    let bundle = scene.world.bundle(&["/bin/true"])?;
    let bundle = bundle.to_string_lossy();
    let further = |id: &str| -> Result<f64> {
        let words = ["create", "--sandbox", ID, "--bundle", &bundle, id];
        Ok(scene.timed(&words)? + scene.timed(&["start", id])?)
    };
    // The first of each translates code in the guest and fills caches on both sides.
    scene.timed(&["exec", ID, "/bin/true"])?;
    further("c0")?;
    scene.timed(&["delete", "--force", "c0"])?;

    let (mut state, mut exec, mut create, mut delete) = (vec![], vec![], vec![], vec![]);
    for number in 1..=scene.runs {
        let id = format!("c{number}");
        state.push(scene.timed(&["state", ID])?);
        exec.push(scene.timed(&["exec", ID, "/bin/true"])?);
        create.push(further(&id)?);
        delete.push(scene.timed(&["delete", "--force", &id])?);
    }
    scene.timed(&["delete", "--force", ID])?;
    let ms = Unit::Milliseconds;
    Ok(vec![
        Measure::new(
            "exec/state",
            ms,
            state,
            "`hutch state`: a query, for comparison",
        ),
        Measure::new(
            "exec/true",
            ms,
            exec,
            "`hutch exec ID /bin/true`, to its exit code",
        ),
        Measure::new(
            "exec/further container",
            ms,
            create,
            "`hutch create --sandbox` and `hutch start` of /bin/true",
        ),
        Measure::new("exec/delete further", ms, delete, "`hutch delete` of it"),
    ])
}
