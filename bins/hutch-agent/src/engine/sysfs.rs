//! The guest's sysfs in the place of one that a container may not mount.
//!
//! A sysfs belongs to a network, and the network of all containers is the guest's: the kernel lets nobody mount one who
//! rules over ids of its own alone. Such a container is shown one that the guest has mounted, which cannot be written. Its
//! mount namespace is a copy of the guest's, and what was read-only in the guest stays so in the copy, whatever the
//! container may do.

use super::{
    error::{Error, Result},
    plan::{InitPlan, MountWhat},
};
use std::path::Path;

/// # Errors
/// The guest's is at a path that no plan can have.
pub fn stand_in(plan: &mut InitPlan, guests: &Path) -> Result<()> {
    if !plan.root.user_namespace {
        return Ok(());
    }
    for step in &mut plan.mounts {
        let is_sysfs = matches!(&step.what, MountWhat::FileSystem { kind, .. } if kind == "sysfs");
        if is_sysfs {
            let shown = guests.to_str().ok_or_else(|| Error::Invalid {
                what: format!("mount {} on {:?}", step.index, step.destination),
                why: "the guest's sysfs is at a path that is not UTF-8".to_owned(),
            })?;
            step.what = MountWhat::Sysfs {
                shown: shown.to_owned(),
            };
        }
    }
    Ok(())
}
