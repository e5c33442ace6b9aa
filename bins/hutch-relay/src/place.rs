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
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::AsFd, unix::fs::MetadataExt as _},
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
            join(procs)?;
        }
        match &self.netns {
            Some(path) => enter(&open(path)?, path),
            None => Ok(()),
        }
    }

    /// [Enters](Self::enter) whatever it can leave again; and the first that it cannot, or that does not take it.
    pub fn visit(&self) -> (Visit, Result<(), RelayError>) {
        let mut visit = Visit::default();
        let cgroups = self.cgroup_procs.iter();
        let mut outcomes: Vec<_> = cgroups.map(|procs| visit.enter_cgroup(procs)).collect();
        if let Some(path) = &self.netns {
            outcomes.push(visit.enter_network(path));
        }
        (visit, outcomes.into_iter().collect())
    }
}

/// The network namespace of whoever asks.
const OWN_NETWORK: &str = "/proc/thread-self/ns/net";
/// A line for each hierarchy: its number, what it is for, and the cgroup. cgroups(7).
const OWN_CGROUPS: &str = "/proc/thread-self/cgroup";
const PROCS: &str = "cgroup.procs";

/// A stay at a [`Place`], of one that goes back.
#[derive(Debug, Default)]
pub struct Visit {
    cgroups: Vec<Stay>,
    network: Option<Networks>,
}

/// In one hierarchy.
#[derive(Debug)]
struct Stay {
    /// `cgroup.procs` of where it is.
    procs: PathBuf,
    /// The cgroup where it was.
    home: PathBuf,
    /// Where the hierarchy is mounted.
    top: PathBuf,
}

/// Held open: the one of a VM has no name any more when that is gone.
#[derive(Debug)]
struct Networks {
    own: File,
    there: File,
}

impl Visit {
    fn enter_cgroup(&mut self, procs: &Path) -> Result<(), RelayError> {
        let (home, top) = way_back(procs).map_err(failed("find the way back from", procs))?;
        join(procs)?;
        let procs = procs.to_owned();
        self.cgroups.push(Stay { procs, home, top });
        Ok(())
    }

    fn enter_network(&mut self, path: &Path) -> Result<(), RelayError> {
        let own = open(Path::new(OWN_NETWORK))?;
        let there = open(path)?;
        enter(&there, path)?;
        self.network = Some(Networks { own, there });
        Ok(())
    }

    /// Back to where it was; of a cgroup that is gone, to the nearest above it.
    ///
    /// # Errors
    /// Names the first that does not take it; it is back in the others.
    pub fn leave(&self) -> Result<(), RelayError> {
        let mut outcome = Ok(());
        for Stay { home, top, .. } in &self.cgroups {
            let above = home.ancestors().take_while(|one| one.starts_with(top));
            let left = above.map(|one| join(&one.join(PROCS)));
            outcome = outcome.and(first_well(left));
        }
        match &self.network {
            Some(network) => outcome.and(enter(&network.own, Path::new(OWN_NETWORK))),
            None => outcome,
        }
    }

    /// There again, after it has [left](Self::leave).
    ///
    /// # Errors
    /// Names the first that does not take it; it is in the others.
    pub fn again(&self) -> Result<(), RelayError> {
        let cgroups = self.cgroups.iter().map(|stay| join(&stay.procs));
        let outcome = cgroups.fold(Ok(()), Result::and);
        match &self.network {
            Some(network) => outcome.and(enter(&network.there, Path::new("of the vm"))),
            None => outcome,
        }
    }
}

/// Nobody makes a file where a cgroup has none.
fn join(procs: &Path) -> Result<(), RelayError> {
    // 0 is whoever writes. cgroups(7).
    let opened = File::options().write(true).open(procs);
    let joined = opened.and_then(|mut file| file.write_all(b"0"));
    joined.map_err(failed("join", procs))
}

fn open(netns: &Path) -> Result<File, RelayError> {
    File::open(netns).map_err(failed("enter network namespace", netns))
}

fn enter(netns: &File, path: &Path) -> Result<(), RelayError> {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| failed("enter network namespace", path)(errno.into()))
}

/// Tries no more than it needs; the last error where none is well.
fn first_well<E>(tries: impl Iterator<Item = Result<(), E>>) -> Result<(), E> {
    let mut outcome = Ok(());
    for tried in tries {
        outcome = tried;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// The cgroup where this process is in the hierarchy of `procs`, and where that is mounted.
fn way_back(procs: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let there = procs.parent().unwrap_or(procs);
    let top = top_of(there)?;
    let own = fs::read_to_string(OWN_CGROUPS)?;
    let myself = std::process::id().to_string();
    let is_home = |folder: &PathBuf| {
        let members = fs::read_to_string(folder.join(PROCS)).unwrap_or_default();
        members.lines().any(|member| member == myself)
    };
    let home = candidates(&own, &top).find(is_home);
    home.map(|home| (home, top)).ok_or_else(|| {
        let why = "this process is nowhere in it that it could see";
        io::Error::new(io::ErrorKind::NotFound, why)
    })
}

/// A hierarchy is a file system of its own.
fn top_of(folder: &Path) -> io::Result<PathBuf> {
    let device = fs::metadata(folder)?.dev();
    let same = |folder: &&Path| fs::metadata(folder).is_ok_and(|found| found.dev() == device);
    let top = folder.ancestors().take_while(same).last();
    Ok(top.unwrap_or(folder).to_owned())
}

/// Where a process with these cgroups may be below `top`. What is mounted there may be any cgroup of the hierarchy, and
/// the names are as whoever made our cgroup namespace sees them: each end of each name is one.
fn candidates(own: &str, top: &Path) -> impl Iterator<Item = PathBuf> {
    let names = own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let ends = |name: &str| {
        let parts: Vec<_> = Path::new(name).components().filter(is_name).collect();
        let ends = 0..=parts.len();
        let end = |from: usize| parts[from..].iter().collect::<PathBuf>();
        ends.map(end).collect::<Vec<_>>()
    };
    names.flat_map(ends).map(|end| top.join(end))
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
        for procs in &procs {
            fs::write(procs, "").unwrap();
        }
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
    fn whoever_goes_away_comes_back_to_where_its_pid_is() {
        let own = "4:pids:/user/a\n2:cpu,cpuacct:/user\n0::/\n";
        let all: Vec<_> = candidates(own, Path::new("/top")).collect();
        for place in ["/top/user/a", "/top/a", "/top/user", "/top"] {
            assert!(all.contains(&PathBuf::from(place)), "{place}: {all:?}");
        }
        let outside: Vec<_> = candidates("0::/../x\n", Path::new("/top")).collect();
        assert_eq!(outside, [Path::new("/top/x"), Path::new("/top")]);
    }

    #[test]
    fn who_knows_no_way_back_does_not_go() {
        let folder = tempfile::tempdir().unwrap();
        let procs = folder.path().join("cgroup.procs");
        fs::write(&procs, "").unwrap();
        let place = Place {
            cgroup_procs: vec![procs.clone()],
            netns: Some("/proc/self/ns/net".into()),
        };

        let (visit, outcome) = place.visit();

        let text = outcome.unwrap_err().to_string();
        assert!(text.starts_with("find the way back from "), "{text}");
        assert!(visit.cgroups.is_empty());
        assert_eq!(fs::read_to_string(&procs).unwrap(), "", "it has gone");
        visit.leave().unwrap();
    }

    #[test]
    fn of_a_cgroup_that_is_gone_the_nearest_above_it_is_home() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        fs::create_dir_all(top.join("a")).unwrap();
        for place in [folder.path(), &top, &top.join("a")] {
            fs::write(place.join(PROCS), "").unwrap();
        }
        let stay = |home: &str| Stay {
            procs: "/".into(),
            home: top.join(home),
            top: top.clone(),
        };
        let visit = Visit {
            cgroups: vec![stay("a/gone")],
            network: None,
        };

        visit.leave().unwrap();

        let said = |place: &Path| fs::read_to_string(place.join(PROCS)).unwrap();
        assert_eq!(said(&top.join("a")), "0");
        assert_eq!([said(&top), said(folder.path())], ["", ""]);
    }
}
