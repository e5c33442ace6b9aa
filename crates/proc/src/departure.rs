//! A program that is started by one who does not wait until it is that program.
//!
//! The standard library's way holds its caller up until the kernel has put the new program in place of the old (vfork(2), and
//! a pipe that is closed by exec). On a busy host that takes milliseconds. Whoever has something else to do meanwhile forks,
//! and is told on a descriptor of its own what kept the child from its program.

use rustix::{
    io::FdFlags,
    process::{Pid, WaitOptions, waitpid},
};
use std::{
    ffi::{CString, OsString, c_char},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStringExt, process::ExitStatusExt},
    },
    process::ExitStatus,
    ptr,
};

/// As shells have it of a command that cannot be run.
pub(crate) const NOT_RUN: i32 = 127;

/// A child that runs its program, or soon will.
#[derive(Debug)]
pub struct Departed(Pid);

impl Departed {
    pub fn pid(&self) -> u32 {
        self.0.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn of(pid: Pid) -> Self {
        Self(pid)
    }

    /// How it ended, if it has; it is nobody's number any more then.
    ///
    /// # Errors
    /// Somebody else has waited for it.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let ended = waitpid(Some(self.0), WaitOptions::NOHANG)?;
        Ok(ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw())))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Somebody else has waited for it.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            match waitpid(Some(self.0), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(Some((_, status))) => return Ok(ExitStatus::from_raw(status.as_raw())),
                // Not without NOHANG.
                Ok(None) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Starts the program by its path, or its name in PATH, with our standard files and environment, an empty signal mask, and
/// `inherited`, which nobody else gets: they are closed here. What keeps it from running is written to `tell`, as one line; it
/// has its own code then.
///
/// # Errors
/// A word with a NUL in it, or no process can be made.
pub fn depart(
    words: Vec<OsString>,
    inherited: Vec<OwnedFd>,
    tell: impl AsFd,
) -> io::Result<Departed> {
    let words = words.into_iter().map(|word| CString::new(word.into_vec()));
    let words: Vec<CString> = words.collect::<Result<_, _>>()?;
    let program = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    let by_path = program.to_bytes().contains(&b'/');
    let complaint = format!("start {}: ", program.to_string_lossy());
    let pointers: Vec<*const c_char> = words
        .iter()
        .map(|word| word.as_ptr())
        .chain([ptr::null()])
        .collect();
    let become_program = || -> io::Error {
        for fd in &inherited {
            if let Err(errno) = rustix::io::fcntl_setfd(fd, FdFlags::empty()) {
                return errno.into();
            }
        }
        exec(&pointers, by_path)
    };
    match fork()? {
        Some(child) => Ok(Departed(child)),
        None => {
            let why = become_program();
            let text = format!("{complaint}{why}");
            // Whoever does not listen is not told.
            let _ = rustix::io::write(tell, text.as_bytes());
            end(NOT_RUN)
        }
    }
}

/// None: we are the child.
#[allow(unsafe_code)]
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: what the child does until it is another program or ends allocates at most, which glibc sees to in a forked child
    // (its malloc is taken along unlocked), and takes no lock of ours.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// The signal mask is emptied, and SIGPIPE, which Rust's programs ignore, ends again.
#[allow(unsafe_code)]
pub(crate) fn be_as_others() {
    // SAFETY: the set is initialised before it is used; the calls touch nothing else.
    unsafe {
        let mut none = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Why the program does not run.
#[allow(unsafe_code)]
fn exec(words: &[*const c_char], by_path: bool) -> io::Error {
    be_as_others();
    // SAFETY: `words` are strings that live as long as this, with a null after the last; the calls touch nothing else.
    unsafe {
        match by_path {
            // execvp(3) has a shell run what the kernel does not know as a program.
            true => libc::execv(words[0], words.as_ptr()),
            false => libc::execvp(words[0], words.as_ptr()),
        };
    }
    io::Error::last_os_error()
}

/// Without what a program does at its end: all that is the parent's.
#[allow(unsafe_code)]
pub(crate) fn end(code: i32) -> ! {
    // SAFETY: it takes a number, and does not return.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        io::{PipeReader, PipeWriter, Read},
        os::fd::AsRawFd,
        process::Command,
    };

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    /// As its child finds it. `>&10` is not for every shell.
    fn within(given: &PipeWriter) -> String {
        format!("/proc/self/fd/{}", given.as_raw_fd())
    }

    fn said(mut from: PipeReader) -> String {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_program_has_what_it_is_to_inherit_and_its_words() {
        let (out, given) = io::pipe().unwrap();
        let (told, tell) = io::pipe().unwrap();
        let script = format!("echo \"$1\" >{}; exit 7", within(&given));

        let child = depart(
            words(&["sh", "-c", &script, "sh", "a b"]),
            vec![given.into()],
            &tell,
        )
        .unwrap();
        drop(tell);

        assert_eq!(said(out), "a b\n");
        assert_eq!(child.wait().unwrap().code(), Some(7));
        assert_eq!(said(told), "");
    }

    #[test]
    fn a_program_has_no_signal_blocked_and_ignores_no_broken_pipe() {
        block(libc::SIGUSR1);
        let (out, given) = io::pipe().unwrap();
        let (_told, tell) = io::pipe().unwrap();
        let script = format!(
            "exec grep -E '^Sig(Blk|Ign):' /proc/self/status >{}",
            within(&given)
        );

        let child = depart(words(&["sh", "-c", &script]), vec![given.into()], &tell).unwrap();

        let said = said(out);
        let numbers: Vec<u64> = said
            .lines()
            .map(|line| u64::from_str_radix(line.split_once('\t').unwrap().1, 16).unwrap())
            .collect();
        assert_eq!(numbers[0], 0, "{said}");
        // What else is ignored is so by our caller's will.
        assert_eq!(numbers[1] & 1 << (libc::SIGPIPE - 1), 0, "{said}");
        assert!(child.wait().unwrap().success());
    }

    #[allow(unsafe_code)]
    fn block(number: i32) {
        // SAFETY: the set is initialised before it is used, and the calling thread's mask is its own.
        unsafe {
            let mut one = std::mem::MaybeUninit::uninit();
            libc::sigemptyset(one.as_mut_ptr());
            libc::sigaddset(one.as_mut_ptr(), number);
            libc::pthread_sigmask(libc::SIG_BLOCK, one.as_ptr(), ptr::null_mut());
        }
    }

    #[test]
    fn what_cannot_be_run_is_told_and_ends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "no program").unwrap();
        let path = file.path().display().to_string();
        let foreign = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        // By somebody else: what we write, a child of another test may have open for a moment, and it could not be run.
        let script = format!("echo no program >{0}; chmod 755 {0}", foreign.display());
        let written = Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(written.success());
        let foreign = foreign.display().to_string();
        for (program, why) in [
            ("/none/such", "No such file or directory (os error 2)"),
            (&path, "Permission denied (os error 13)"),
            (&foreign, "Exec format error (os error 8)"),
        ] {
            let (told, tell) = io::pipe().unwrap();

            let child = depart(words(&[program]), Vec::new(), &tell).unwrap();
            drop(tell);

            assert_eq!(said(told), format!("start {program}: {why}"));
            assert_eq!(child.wait().unwrap().code(), Some(NOT_RUN));
        }
        assert!(depart(words(&["a\0b"]), Vec::new(), io::stderr()).is_err());
    }
}
