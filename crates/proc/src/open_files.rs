//! How many files this process may have open: as many as it is allowed, while the programs that it starts have what it
//! began with.
//!
//! A soft limit of 1,024 is what programs begin with nearly everywhere, for those that use select(2), which knows no
//! descriptor above that. A daemon needs several for each VM. So it raises its own, and puts the limit back in every
//! child between fork and exec: whether a child can live with more is for the child to say.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{io, sync::OnceLock};

/// What this process began with; empty where nothing was raised.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of this process to its hard one; both, as they are then. `None`: there is no limit.
///
/// # Errors
/// The kernel refuses; the limit is as before.
pub fn raise() -> io::Result<Option<u64>> {
    let found = getrlimit(Resource::Nofile);
    if found.current != found.maximum {
        let raised = Rlimit {
            current: found.maximum,
            ..found
        };
        setrlimit(Resource::Nofile, raised)?;
        // Raised twice, it is what was there at first.
        let _ = BEFORE.set(found);
    }
    Ok(found.maximum)
}

/// Puts the soft limit back, in a child of a process that raised it. Async-signal-safe: it reads what was written once,
/// and makes one system call.
///
/// # Errors
/// The kernel refuses.
pub fn put_back() -> io::Result<()> {
    match BEFORE.get() {
        Some(before) => Ok(setrlimit(Resource::Nofile, *before)?),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::berth::{self, Berth};
    use std::process::Command;

    /// Few, and more than the tests beside this one have open.
    const FEW: u64 = 500;

    fn limits_of(mut command: Command) -> String {
        command.args(["-c", "ulimit -Sn; ulimit -Hn"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// One test: the limit is the whole process's.
    #[test]
    fn a_raised_limit_is_this_processs_own_and_its_children_have_what_was_before() {
        let found = getrlimit(Resource::Nofile);
        let few = Rlimit {
            current: Some(FEW),
            ..found
        };
        setrlimit(Resource::Nofile, few).unwrap();

        let raised = raise().unwrap();
        let again = raise().unwrap();

        assert_eq!((raised, again), (found.maximum, found.maximum));
        let ours = getrlimit(Resource::Nofile);
        assert_eq!(ours.current, ours.maximum);
        let hard = found
            .maximum
            .map_or("unlimited".to_owned(), |n| n.to_string());
        for arrange in [
            (|command| berth::arrange(command, Berth::default())) as fn(&mut Command),
            berth::die_with_us,
        ] {
            let mut command = Command::new("sh");
            arrange(&mut command);
            assert_eq!(limits_of(command), format!("{FEW}\n{hard}\n"));
        }
    }
}
