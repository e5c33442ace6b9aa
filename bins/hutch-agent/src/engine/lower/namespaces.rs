//! Which namespaces a container gets, and from whom.

use super::{invalid, unsupported};
use crate::engine::{
    api::{NamespaceFrom, NamespaceKind},
    error::Result,
};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind};
use std::collections::BTreeMap;

/// No path of a host begins so: they are absolute.
const CONTAINER: &str = "container:";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// CLONE_NEW* for the fork. The mount namespace is always new, and made by the init itself.
    pub clone: u64,
    pub own_cgroup: bool,
    pub own_time: bool,
    /// The container whose pid namespace it shares.
    pub pid_of: Option<String>,
    /// Containers whose namespaces it shares otherwise, with CLONE_NEW* of the kinds.
    pub join: Vec<(String, i32)>,
    /// CLONE_NEW* of all that are not the guest's, but pid: what an exec has to enter.
    pub enter: i32,
    pub uts_is_the_guests: bool,
}

/// # Errors
/// A kind that is there twice, or a namespace that the guest does not have.
pub fn lower_namespaces(
    wanted: &[LinuxNamespace],
    given: &BTreeMap<NamespaceKind, NamespaceFrom>,
) -> Result<Namespaces> {
    for (position, one) in wanted.iter().enumerate() {
        if wanted[..position]
            .iter()
            .any(|other| other.typ() == one.typ())
        {
            return invalid(about(one.typ()), "it is there twice");
        }
    }
    let mut all = Namespaces {
        enter: libc::CLONE_NEWNS,
        uts_is_the_guests: true,
        ..Namespaces::default()
    };
    for (kind, flag, oci) in [
        (NamespaceKind::Pid, libc::CLONE_NEWPID, Kind::Pid),
        (NamespaceKind::Uts, libc::CLONE_NEWUTS, Kind::Uts),
        (NamespaceKind::Ipc, libc::CLONE_NEWIPC, Kind::Ipc),
    ] {
        let from = match given.get(&kind) {
            Some(from) => Some(from.clone()),
            None if of_container(wanted, oci).is_some() => of_container(wanted, oci),
            None if own(wanted, oci)? => None,
            None => Some(NamespaceFrom::Guest),
        };
        all.take(kind, flag, from);
    }
    // Made in any case; one of the host's cannot be had.
    own(wanted, Kind::Mount)?;
    all.own_cgroup = own(wanted, Kind::Cgroup)?;
    all.own_time = own(wanted, Kind::Time)?;
    if own(wanted, Kind::User)? {
        all.clone |= libc::CLONE_NEWUSER as u64;
        all.enter |= libc::CLONE_NEWUSER;
        // Nothing of the guest's cgroups can be mounted by whoever has ids of its own.
        all.own_cgroup = true;
    }
    if all.own_cgroup {
        all.enter |= libc::CLONE_NEWCGROUP;
    }
    if all.own_time {
        all.enter |= libc::CLONE_NEWTIME;
    }
    Ok(all)
}

impl Namespaces {
    /// None: a new one.
    fn take(&mut self, kind: NamespaceKind, flag: i32, from: Option<NamespaceFrom>) {
        let guests = from == Some(NamespaceFrom::Guest);
        match from {
            None => self.clone |= flag as u64,
            Some(NamespaceFrom::Guest) => {}
            Some(NamespaceFrom::Container(id)) if kind == NamespaceKind::Pid => {
                self.pid_of = Some(id);
            }
            Some(NamespaceFrom::Container(id)) => {
                match self.join.iter_mut().find(|(other, _)| *other == id) {
                    Some((_, flags)) => *flags |= flag,
                    None => self.join.push((id, flag)),
                }
            }
        }
        // An exec is born into the pid namespace and cannot enter it.
        if !guests && kind != NamespaceKind::Pid {
            self.enter |= flag;
        }
        if kind == NamespaceKind::Uts {
            self.uts_is_the_guests = guests;
        }
    }
}

/// The container whose namespace of this kind config.json names: hosts that know us put it in the place of a path of theirs.
fn of_container(wanted: &[LinuxNamespace], kind: Kind) -> Option<NamespaceFrom> {
    let found = wanted.iter().find(|one| one.typ() == kind)?;
    let path = found.path().as_ref()?.to_str()?;
    let id = path.strip_prefix(CONTAINER)?;
    Some(NamespaceFrom::Container(id.to_owned()))
}

/// Whether config.json asks for a new one of this kind.
fn own(wanted: &[LinuxNamespace], kind: Kind) -> Result<bool> {
    let Some(found) = wanted.iter().find(|one| one.typ() == kind) else {
        return Ok(false);
    };
    match found.path() {
        None => Ok(true),
        Some(path) if path.as_os_str().is_empty() => Ok(true),
        Some(path) => unsupported(format!("{}: path {path:?} of the host", about(kind))),
    }
}

fn about(kind: Kind) -> String {
    match kind {
        // The one that the library calls otherwise than config.json does.
        Kind::Mount => "mount namespace".to_owned(),
        kind => format!("{kind} namespace"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::Error;

    fn wanted(json: &str) -> Vec<LinuxNamespace> {
        serde_json::from_str(json).unwrap()
    }

    fn flags(flags: &[i32]) -> i32 {
        flags.iter().fold(0, |all, flag| all | flag)
    }

    #[test]
    fn a_usual_container_gets_its_own_but_the_network() {
        let wanted = wanted(
            r#"[{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},
                {"type":"mount"},{"type":"cgroup"}]"#,
        );

        let lowered = lower_namespaces(&wanted, &BTreeMap::new()).unwrap();

        let cloned = [libc::CLONE_NEWPID, libc::CLONE_NEWIPC, libc::CLONE_NEWUTS];
        assert_eq!(lowered.clone, flags(&cloned) as u64);
        // Its init makes that one.
        assert_ne!(lowered.enter & libc::CLONE_NEWNS, 0);
        assert!(lowered.own_cgroup);
        assert_eq!(lowered.enter & libc::CLONE_NEWPID, 0);
        assert_ne!(lowered.enter & libc::CLONE_NEWCGROUP, 0);
    }

    #[test]
    fn whoever_has_ids_of_its_own_has_cgroups_of_its_own() {
        let wanted = wanted(r#"[{"type":"user"},{"type":"mount"}]"#);

        let lowered = lower_namespaces(&wanted, &BTreeMap::new()).unwrap();

        assert!(lowered.own_cgroup);
        assert_ne!(lowered.enter & libc::CLONE_NEWCGROUP, 0);
    }

    #[test]
    fn namespaces_of_a_neighbour_are_joined_together() {
        let neighbour = || NamespaceFrom::Container("pod".to_owned());
        let given = BTreeMap::from([
            (NamespaceKind::Pid, neighbour()),
            (NamespaceKind::Uts, neighbour()),
            (NamespaceKind::Ipc, neighbour()),
        ]);
        let wanted = wanted(r#"[{"type":"ipc","path":"/proc/7/ns/ipc"},{"type":"mount"}]"#);

        let lowered = lower_namespaces(&wanted, &given).unwrap();

        assert_eq!(lowered.pid_of.as_deref(), Some("pod"));
        assert_eq!(
            lowered.join,
            [("pod".to_owned(), libc::CLONE_NEWUTS | libc::CLONE_NEWIPC)]
        );
        assert_eq!(lowered.clone, 0);
    }

    #[test]
    fn a_container_of_the_sandbox_may_stand_in_the_place_of_a_path() {
        let wanted = wanted(
            r#"[{"type":"ipc","path":"container:3"},{"type":"uts","path":"container:3"},
                {"type":"pid"},{"type":"mount"}]"#,
        );

        let lowered = lower_namespaces(&wanted, &BTreeMap::new()).unwrap();

        assert_eq!(
            lowered.join,
            [("3".to_owned(), libc::CLONE_NEWUTS | libc::CLONE_NEWIPC)]
        );
        assert_eq!(lowered.pid_of, None);
    }

    #[test]
    fn a_path_of_the_host_is_refused_by_name() {
        let wanted = wanted(r#"[{"type":"uts","path":"/proc/7/ns/uts"}]"#);

        let refused = lower_namespaces(&wanted, &BTreeMap::new());

        assert!(matches!(refused, Err(Error::Unsupported { what }) if what.contains("/proc/7")));
    }

    #[test]
    fn the_same_kind_twice_is_refused() {
        let wanted = wanted(r#"[{"type":"pid"},{"type":"pid"}]"#);

        let refused = lower_namespaces(&wanted, &BTreeMap::new());

        assert!(matches!(refused, Err(Error::Invalid { .. })));
    }
}
