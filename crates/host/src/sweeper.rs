//! The sweeper: at the start of a daemon, whatever is on the host in its name and in no record is
//! killed, unmounted, removed, and reported.
//!
//! It knows two signs of ours: a folder below `<root>/s`, and a cgroup right below `/hutch` that
//! is marked with this root. Another daemon's sandboxes have neither. What a known sandbox claims
//! is never touched. The caller must not sweep when its records were lost: see
//! [`HostPremises::claims`].

use crate::{
    Error,
    cgroup::{CgroupPath, KILL_LIMIT, REMOVE_LIMIT},
    folder, mounts,
    premises::{Cleared, HostPremises, House, cgroups, default_spec},
};
use runtime_core::{
    error::{Fault, fault},
    ids::SandboxUid,
    kit::Work,
    premises::PremisesSpec,
};
use std::{collections::BTreeSet, path::Path};

/// One thing that no record knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// The sandbox's uid, if the name is one.
    pub name: String,
    pub cleared: Cleared,
    /// What could not be done; the next sweep tries again.
    pub fault: Option<Fault>,
}

impl HostPremises {
    /// Sweeps everything that does not belong to a `known` sandbox. What could not be removed is
    /// part of the report.
    pub fn sweep(&self, known: BTreeSet<SandboxUid>) -> Work<Result<Vec<Swept>, Fault>> {
        self.blocking(move |house| house.sweep(&known))
    }
}

impl House {
    fn sweep(&self, known: &BTreeSet<SandboxUid>) -> Result<Vec<Swept>, Error> {
        let is_known = |name: &str| {
            let uid = name.parse::<SandboxUid>();
            uid.is_ok_and(|uid| known.contains(&uid))
        };
        let taken = self.taken(known)?;
        let mut report = Vec::new();
        for folder in folder::list(&self.sandboxes())? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            if !is_known(&name) {
                report.push(self.sweep_folder(&folder, &name, &taken));
            }
        }
        for (name, cgroup) in self.hierarchies.marked(&self.root)? {
            if !is_known(&name) {
                report.push(self.sweep_cgroup(name, &cgroup));
            }
        }
        for swept in &report {
            tracing::warn!(
                name = swept.name,
                killed = ?swept.cleared.killed,
                unmounted = ?swept.cleared.unmounted,
                fault = swept.fault.as_ref().map(tracing::field::display),
                "swept what no record knows"
            );
        }
        Ok(report)
    }

    /// One that is on record, and whose record does not read: whatever it is found by.
    pub fn evict(&self, uid: SandboxUid, others: &BTreeSet<SandboxUid>) -> Result<(), Fault> {
        let taken = self.taken(others).map_err(|error| fault(&error))?;
        let folder = default_spec(&self.root, uid).folder;
        let swept = self.sweep_folder(&folder, &uid.to_string(), &taken);
        tracing::warn!(%uid, killed = ?swept.cleared.killed, unmounted = ?swept.cleared.unmounted, "evicted");
        let marked = self.hierarchies.marked(&self.root);
        let marked = marked.map_err(|error| fault(&error))?;
        let mine = marked
            .into_iter()
            .filter(|(name, _)| *name == uid.to_string());
        let left = mine.filter_map(|(name, cgroup)| self.sweep_cgroup(name, &cgroup).fault);
        Fault::join(swept.fault.into_iter().chain(left).collect())
    }

    /// The cgroups of the known sandboxes.
    fn taken(&self, known: &BTreeSet<SandboxUid>) -> Result<Vec<CgroupPath>, Error> {
        let mut taken = Vec::new();
        for &uid in known {
            let spec = default_spec(&self.root, uid);
            let claim = self.claim(&spec.folder).unwrap_or(spec);
            taken.extend(cgroups(&claim)?);
        }
        Ok(taken)
    }

    fn sweep_folder(&self, folder: &Path, name: &str, taken: &[CgroupPath]) -> Swept {
        let swept = |cleared, fault| Swept {
            name: name.to_owned(),
            cleared,
            fault,
        };
        let Ok(uid) = name.parse::<SandboxUid>() else {
            let (cleared, errors) = remove_stray(folder);
            return swept(cleared, told(errors));
        };
        let spec = self
            .claim(folder)
            .unwrap_or_else(|| default_spec(&self.root, uid));
        match overlap(&spec, taken) {
            Some(error) => swept(Cleared::default(), Some(fault(&error))),
            None => {
                let (cleared, errors) = self.clear(&spec);
                swept(cleared, told(errors))
            }
        }
    }

    /// Its folder is gone, or was never there.
    fn sweep_cgroup(&self, name: String, cgroup: &CgroupPath) -> Swept {
        let mut cleared = Cleared::default();
        let mut errors = Vec::new();
        match self.hierarchies.kill(cgroup, KILL_LIMIT) {
            Ok(killed) => cleared.killed = killed,
            Err(error) => errors.push(error),
        }
        errors.extend(self.hierarchies.remove(cgroup, REMOVE_LIMIT).err());
        Swept {
            name,
            cleared,
            fault: told(errors),
        }
    }
}

/// Something below `<root>/s` that is no sandbox's.
fn remove_stray(path: &Path) -> (Cleared, Vec<Error>) {
    let mut cleared = Cleared::default();
    let mut errors = Vec::new();
    match mounts::detach_below(path) {
        Ok(unmounted) => cleared.unmounted = unmounted,
        Err(error) => errors.push(error),
    }
    errors.extend(folder::remove_tree(path).err());
    (cleared, errors)
}

/// A claim on what a known sandbox holds is not believed.
fn overlap(spec: &PremisesSpec, taken: &[CgroupPath]) -> Option<Error> {
    let claimed = match cgroups(spec) {
        Ok(claimed) => claimed,
        Err(error) => return Some(error),
    };
    let meets = |claimed: &CgroupPath, taken: &CgroupPath| {
        claimed.contains(taken) || taken.contains(claimed)
    };
    let cgroup = claimed
        .iter()
        .find(|claimed| taken.iter().any(|taken| meets(claimed, taken)))?;
    Some(Error::ClaimedTwice {
        uid: spec.uid,
        cgroup: cgroup.to_string(),
    })
}

fn told(errors: Vec<Error>) -> Option<Fault> {
    Error::join(errors).err().map(|error| fault(&error))
}
