//! What containers bring from the host, as checkers see it: every mount and every copy below a share is
//! on record, and at rest what is on record is there, each copy followed by one.

use super::World;
use devices::{
    DevicesRecord,
    steps::{Bind, Shape},
};
use runtime_core::{ids::SandboxUid, records::decode, sandbox::SandboxRecord};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

fn share(folder: &Path) -> PathBuf {
    folder.join("share")
}

fn target(bind: &Bind) -> PathBuf {
    share(&bind.folder).join(&bind.place)
}

/// The binds on record of a sandbox.
fn recorded(world: &World, uid: SandboxUid) -> Vec<Bind> {
    let row = world.on_disk().remove(&DevicesRecord::key(uid));
    let record = row.and_then(|row| decode::<DevicesRecord>(&row).ok());
    let plans = record.into_iter().flat_map(|record| record.containers);
    plans.flat_map(|(_, plan)| plan.binds.clone()).collect()
}

pub fn check_on_record(world: &World, after: &str) {
    let below_shares = world
        .premises
        .mounts()
        .into_iter()
        .chain(world.shares.copies());
    let mut known: BTreeMap<SandboxUid, BTreeSet<PathBuf>> = BTreeMap::new();
    for place in below_shares {
        let Some(uid) = super::uid_in(&place) else {
            continue;
        };
        let folder = PathBuf::from(super::ROOT).join("s").join(uid.to_string());
        if !place.starts_with(share(&folder)) || place == share(&folder) {
            continue;
        }
        let known = known
            .entry(uid)
            .or_insert_with(|| recorded(world, uid).iter().map(target).collect());
        if !known.contains(&place) {
            let place = place.display();
            world.violated(format_args!(
                "after {after}: {place} is bound and on no record"
            ));
        }
    }
}

pub fn check_at_rest(world: &World, record: &SandboxRecord) {
    let uid = record.spec.uid;
    let binds = recorded(world, uid);
    if !record.phase.is_up() {
        if let Some(bind) = binds.first() {
            let place = target(bind).display().to_string();
            world.violated(format_args!(
                "at rest {uid} does not run, and {place} is on record"
            ));
        }
        return;
    }
    for bind in binds {
        let place = target(&bind);
        let there = match bind.shape {
            Shape::Directory | Shape::File => world.premises.is_mounted(&place),
            Shape::Copies => world.shares.followers(&place) == 1,
        };
        if !there {
            let place = place.display();
            world.violated(format_args!(
                "at rest {place} is on record, and not as it should be"
            ));
        }
    }
}
