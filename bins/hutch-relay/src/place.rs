//! Where a relay lives on the host: in the container's cgroup and in the sandbox's network namespace, so that
//! whoever looks at its pid finds both. It goes there once the daemon knows it, and before its pid is told. A command
//! that stands for a process itself goes there for a [`Visit`]: it has things to do afterwards, and may have to start a
//! daemon meanwhile, which must not live there.

use crate::error::RelayError;
use protocols::asynchronous::hutch::AttachResponse;
use rustix::{
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Component, Path, PathBuf},
};

/// As the daemon says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// `cgroup.procs` of the container's cgroup, in every hierarchy.
    pub cgroup_procs: Vec<PathBuf>,
    /// `None`: there is no VM any more, and nobody to be beside.
    pub netns: Option<PathBuf>,
}

impl Place {
    pub fn of(answer: AttachResponse) -> Self {
        let procs = answer.cgroup_procs.into_iter();
        Self {
            cgroup_procs: procs.map(PathBuf::from).collect(),
            netns: Some(answer.netns)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        }
    }

    /// Moves this process there; of the network namespace, the thread that asks.
    ///
    /// # Errors
    /// Names what does not take it.
    pub fn enter(&self) -> Result<(), RelayError> {
        for procs in &self.cgroup_procs {
            // 0 is whoever writes. cgroups(7).
            fs::write(procs, "0").map_err(failed("join", procs))?;
        }
        self.enter_network()
    }

    fn enter_network(&self) -> Result<(), RelayError> {
        let Some(path) = &self.netns else {
            return Ok(());
        };
        let netns = File::open(path).map_err(failed("enter network namespace", path))?;
        enter(&netns, path)
    }

    /// [Enters](Self::enter), and knows the way back.
    ///
    /// # Errors
    /// Names what does not take it; then it is where it was.
    pub fn visit(self) -> Result<Visit, RelayError> {
        let own = Path::new(OWN_NETWORK);
        let mut visit = Visit {
            home: Vec::new(),
            network: File::open(own).map_err(failed("open", own))?,
            place: self,
        };
        let entered = visit.enter_cgroups();
        let entered = entered.and_then(|()| visit.place.enter_network());
        match entered {
            Ok(()) => Ok(visit),
            Err(why) => {
                // What it has not entered it need not leave.
                let _ = visit.leave();
                Err(why)
            }
        }
    }
}

/// The network namespace of whoever asks.
const OWN_NETWORK: &str = "/proc/thread-self/ns/net";
/// A line for each hierarchy: its number, what it is for, and the cgroup. cgroups(7).
const OWN_CGROUPS: &str = "/proc/thread-self/cgroup";

fn enter(netns: &File, path: &Path) -> Result<(), RelayError> {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| failed("enter network namespace", path)(errno.into()))
}

/// A stay at a [`Place`], of one that goes back.
#[derive(Debug)]
pub struct Visit {
    place: Place,
    /// Of each hierarchy in which it was elsewhere.
    home: Vec<WayBack>,
    network: File,
}

/// `cgroup.procs` in one hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct WayBack {
    /// Of where it was.
    home: PathBuf,
    /// Of the hierarchy's root, where everybody may go.
    root: PathBuf,
}

impl Visit {
    fn enter_cgroups(&mut self) -> Result<(), RelayError> {
        let mut before = own_cgroups()?;
        for procs in &self.place.cgroup_procs {
            fs::write(procs, "0").map_err(failed("join", procs))?;
            let after = own_cgroups()?;
            self.home.extend(way_back(procs, &before, &after));
            before = after;
        }
        Ok(())
    }

    /// Back to where it was; of a cgroup that is gone, to the root of its hierarchy.
    ///
    /// # Errors
    /// Names what does not take it.
    pub fn leave(&self) -> Result<(), RelayError> {
        // One that does not take it is no reason to stay in the others.
        let network = enter(&self.network, Path::new(OWN_NETWORK));
        for WayBack { home, root } in &self.home {
            let left = fs::write(home, "0").or_else(|_| fs::write(root, "0"));
            left.map_err(failed("join", root))?;
        }
        network
    }

    /// There again, after it has [left](Self::leave).
    ///
    /// # Errors
    /// Names what does not take it.
    pub fn again(&self) -> Result<(), RelayError> {
        self.place.enter()
    }
}

/// The cgroup in each hierarchy.
type Cgroups = BTreeMap<String, PathBuf>;

fn own_cgroups() -> Result<Cgroups, RelayError> {
    let own = Path::new(OWN_CGROUPS);
    let text = fs::read_to_string(own).map_err(failed("read", own))?;
    Ok(cgroups(&text))
}

fn cgroups(text: &str) -> Cgroups {
    let line = |line: &str| {
        let (hierarchy, rest) = line.split_once(':')?;
        let (_, cgroup) = rest.split_once(':')?;
        Some((hierarchy.to_owned(), PathBuf::from(cgroup)))
    };
    text.lines().filter_map(line).collect()
}

/// From `procs`, which was just written: its hierarchy is the one in which the cgroup is another now. `None`: it was there
/// already.
fn way_back(procs: &Path, before: &Cgroups, after: &Cgroups) -> Option<WayBack> {
    let moved = |(hierarchy, old): (&String, &PathBuf)| {
        let new = after.get(hierarchy)?;
        (new != old).then(|| (old.clone(), new.clone()))
    };
    let (old, new) = before.iter().find_map(moved)?;
    // The path in its hierarchy begins where that is mounted.
    let depth = new.components().filter(is_name).count();
    let mounted = procs.parent()?.ancestors().nth(depth)?;
    let old = old.strip_prefix("/").unwrap_or(&old);
    let procs_of = |cgroup: PathBuf| cgroup.join("cgroup.procs");
    Some(WayBack {
        home: procs_of(mounted.join(old)),
        root: procs_of(mounted.to_owned()),
    })
}

fn is_name(part: &Component<'_>) -> bool {
    matches!(part, Component::Normal(_))
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RelayError {
    let path = path.to_owned();
    move |source| RelayError::Place {
        step,
        path,
        source: Errno::from_io_error(&source).unwrap_or(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_writes_itself_into_every_hierarchy_and_names_the_one_that_does_not_take_it() {
        let folder = tempfile::tempdir().unwrap();
        let procs = ["a", "b"].map(|name| folder.path().join(name));
        let mut place = Place {
            cgroup_procs: procs.to_vec(),
            netns: None,
        };

        place.enter().unwrap();

        for procs in &procs {
            assert_eq!(fs::read_to_string(procs).unwrap(), "0");
        }
        place.cgroup_procs = vec![folder.path().join("none/cgroup.procs")];
        let text = place.enter().unwrap_err().to_string();
        assert!(
            text.starts_with("join ") && text.ends_with("/none/cgroup.procs"),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_network_namespace_is_named() {
        let place = Place {
            cgroup_procs: Vec::new(),
            netns: Some("/proc/self/status".into()),
        };

        let text = place.enter().unwrap_err().to_string();

        assert_eq!(text, "enter network namespace /proc/self/status");
    }

    #[test]
    fn the_way_back_is_told_by_what_changed() {
        let before = cgroups("4:pids:/user/a\n2:cpu,cpuacct:/user\n0::/\n");
        let pids = cgroups("4:pids:/box/c\n2:cpu,cpuacct:/user\n0::/\n");
        let unified = cgroups("4:pids:/box/c\n2:cpu,cpuacct:/user\n0::/box/c\n");
        let to = |home: &str, root: &str| {
            Some(WayBack {
                home: home.into(),
                root: root.into(),
            })
        };

        let procs = Path::new("/sys/fs/cgroup/pids/box/c/cgroup.procs");
        let back = way_back(procs, &before, &pids);
        let due = to(
            "/sys/fs/cgroup/pids/user/a/cgroup.procs",
            "/sys/fs/cgroup/pids/cgroup.procs",
        );
        assert_eq!(back, due);

        let procs = Path::new("/sys/fs/cgroup/unified/box/c/cgroup.procs");
        let back = way_back(procs, &pids, &unified);
        let root = "/sys/fs/cgroup/unified/cgroup.procs";
        assert_eq!(back, to(root, root));

        assert_eq!(way_back(procs, &unified, &unified), None, "it was there");
    }
}
