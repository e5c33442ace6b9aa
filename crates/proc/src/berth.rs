//! Where a program that outlives us is put, and the way there: between fork and exec it joins its
//! cgroup, begins a session of its own, and lets go of everything it was not given.
//!
//! It starts nothing; whoever does arranges it here, so that there is one such way.

use crate::open_files;
use rustix::{
    fs::Mode,
    io::FdFlags,
    process::{
        Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit, setsid, umask,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

/// What a program finds itself with. Everything was opened before the fork: what is not there is
/// known before there is a process.
#[derive(Debug, Default)]
pub struct Berth {
    /// `cgroup.procs` of its cgroup, in every hierarchy.
    pub cgroup: Vec<File>,
    /// The network namespace that it enters; `None`: ours.
    pub netns: Option<File>,
    /// What it inherits beside stdio.
    pub inherited: Vec<OwnedFd>,
}

impl Berth {
    /// Async-signal-safe: system calls only, no memory is allocated. The signal mask is empty
    /// already: the standard library saw to it.
    fn enter(&self) -> io::Result<()> {
        // First of all: from here on whoever knows the cgroup finds us, whatever happens to our
        // parent.
        for hierarchy in &self.cgroup {
            rustix::io::write(hierarchy, b"0")?;
        }
        setsid()?;
        umask(Mode::RWXG | Mode::RWXO);
        // A core file would hold the guest's memory.
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(Resource::Core, none)?;
        open_files::put_back()?;
        if let Some(netns) = &self.netns {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        close_the_rest_on_exec();
        for fd in &self.inherited {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    }
}

/// Has the program that `command` starts enter `berth` before it is itself.
#[allow(unsafe_code)]
pub fn arrange(command: &mut Command, berth: Berth) {
    // SAFETY: the closure runs in a forked child of a process with threads; it makes system calls
    // on descriptors it owns, and neither allocates, locks nor panics.
    unsafe {
        command.pre_exec(move || berth.enter());
    }
}

/// Has the program that `command` starts killed when the thread that starts it ends; it may have as many files open as
/// we might at first.
#[allow(unsafe_code)]
pub fn die_with_us(command: &mut Command) {
    // SAFETY: the closure makes two system calls in a forked child; it neither allocates, locks nor
    // panics.
    unsafe {
        command.pre_exec(|| {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            open_files::put_back()
        });
    }
}

/// Marks every descriptor but stdio as closed on exec: ours are already, a library's or our caller's
/// may not be. A kernel before 5.11 does not know how, and then ours have to do.
#[allow(unsafe_code)]
pub fn close_the_rest_on_exec() {
    const FIRST_AFTER_STDIO: libc::c_uint = 3;
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: it closes nothing now, so no descriptor that is in use becomes invalid.
    unsafe { close_range(FIRST_AFTER_STDIO, CLOSE_RANGE_CLOEXEC) }
}

/// Closes every descriptor from this one on, in a child that was forked; a kernel before 5.9 cannot, and closes none.
///
/// # Safety
/// Nobody in this process uses any of them again.
#[allow(unsafe_code)]
pub(crate) unsafe fn close_from(first: libc::c_uint) {
    // SAFETY: as the caller promises.
    unsafe { close_range(first, 0) }
}

/// # Safety
/// As for [`close_from`], unless `flags` say that nothing is closed now.
#[allow(unsafe_code)]
unsafe fn close_range(first: libc::c_uint, flags: libc::c_uint) {
    // SAFETY: the call takes three integers and touches no memory; of what it closes, see above.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Seek, os::fd::AsRawFd, path::PathBuf};

    /// A file of this test, gone from its folder already.
    fn file(name: &str) -> File {
        let path: PathBuf = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true);
        let file = file.open(&path).unwrap();
        fs::remove_file(path).unwrap();
        file
    }

    fn said(script: &str, berth: Berth) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        arrange(&mut command, berth);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn it_joins_its_cgroup_and_leads_a_session_of_its_own() {
        let mut procs = file("procs");
        let berth = Berth {
            cgroup: vec![procs.try_clone().unwrap()],
            ..Berth::default()
        };

        let said = said("echo $$ $(cut -d ' ' -f 6 /proc/$$/stat)", berth);

        let words: Vec<&str> = said.split_whitespace().collect();
        procs.rewind().unwrap();
        assert_eq!(words[0], words[1], "pid and session");
        assert_eq!(io::read_to_string(procs).unwrap(), "0");
    }

    #[test]
    fn it_has_what_it_was_given_and_nothing_else() {
        let [given, kept] = ["given", "kept"].map(file);
        let (given_fd, kept_fd) = (given.as_raw_fd(), kept.as_raw_fd());
        // As a careless library's would be.
        rustix::io::fcntl_setfd(&kept, FdFlags::empty()).unwrap();
        let berth = Berth {
            inherited: vec![given.into()],
            ..Berth::default()
        };
        let has = |fd| format!("test -e /proc/$$/fd/{fd} && echo yes || echo no;");

        let said = said(&format!("{} {}", has(given_fd), has(kept_fd)), berth);

        assert_eq!(said, "yes\nno\n");
    }

    #[test]
    fn its_files_are_private_and_it_dumps_no_core() {
        let said = said("umask; ulimit -c; ulimit -Hc", Berth::default());

        assert_eq!(said, "0077\n0\n0\n");
    }

    #[test]
    fn a_cgroup_that_takes_nobody_is_an_error_and_nothing_is_started() {
        let read_only = File::open("/proc/self/stat").unwrap();
        let berth = Berth {
            cgroup: vec![read_only],
            ..Berth::default()
        };
        let mut command = Command::new("true");
        arrange(&mut command, berth);

        assert!(command.spawn().is_err());
    }
}
