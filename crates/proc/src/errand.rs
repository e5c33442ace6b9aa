//! A program that is run for a while and watched meanwhile, started by one who waits for nothing.
//!
//! The standard library's way holds its caller up until the child has entered its folder and become its program. Where
//! either lies on a file system that does not answer, that is for ever, and nobody knows the child whom he could end. So
//! whoever has one thread for everything forks, knows the child from its first moment on, and learns at its end whether
//! it ever was its program.

use crate::{
    berth::close_from,
    departure::{Departed, NOT_RUN, be_as_others, end, fork},
    open_files,
};
use rustix::{
    io::ioctl_fionbio,
    process::{Pid, Signal, chdir, getppid, set_parent_process_death_signal, setpgid},
};
use std::{
    ffi::{CString, c_char},
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

/// What is run, and where.
#[derive(Debug, Clone)]
pub struct Errand {
    /// A path.
    pub program: CString,
    /// The program's own name first.
    pub args: Vec<CString>,
    /// `NAME=value`; nothing else is in its environment.
    pub env: Vec<CString>,
    pub cwd: CString,
}

/// A child on its errand, and our ends of its stdin and stderr. Its stdout leads nowhere. It leads a process group of its
/// own, has an empty signal mask and as many open files as we had at first, and is killed when the thread that sent it ends.
#[derive(Debug)]
pub struct Sent {
    pub child: Departed,
    pub stdin: OwnedFd,
    pub stderr: OwnedFd,
    pub report: Report,
}

/// How far a child came: nothing is in it once it is its program.
#[derive(Debug)]
pub struct Report(OwnedFd);

/// What kept a child from its program.
#[derive(Debug)]
pub enum Kept {
    /// It could not enter its folder.
    Folder(io::Error),
    /// It could not become its program, or not be set up for it.
    Program(io::Error),
}

/// The two kinds of [`Kept`], on their way.
const FOLDER: u8 = 1;
const PROGRAM: u8 = 2;

/// Where a child has what it tells by, right behind stdio.
const TELL: i32 = 3;

/// Starts it. Whether it is its program ever, its [`Report`] knows when it has ended.
///
/// # Errors
/// No process or no descriptor can be had.
pub fn send(errand: &Errand) -> io::Result<Sent> {
    let (stdin, ours_in) = io::pipe()?;
    let (ours_err, stderr) = io::pipe()?;
    let (report, tell) = io::pipe()?;
    // Somebody who is forked beside us may have its other end for a moment: nobody waits for that.
    ioctl_fionbio(&report, true)?;
    let stdout = File::options().write(true).open("/dev/null")?;
    let stdio = [stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
    let (args, env) = (pointers(&errand.args), pointers(&errand.env));
    let sender = rustix::process::getpid();
    match fork()? {
        Some(child) => {
            // Whoever signals its group finds one, also where it has not come that far; it does the same, and the
            // second one of us has nothing to do.
            let _ = setpgid(Some(child), Some(child));
            Ok(Sent {
                child: Departed::of(child),
                stdin: ours_in.into(),
                stderr: ours_err.into(),
                report: Report(report.into()),
            })
        }
        None => {
            let (tell, kept) = match hold_only(stdio, tell.as_raw_fd()) {
                Ok(()) => (TELL, become_program(errand, sender, &args, &env)),
                Err(why) => (tell.as_raw_fd(), Kept::Program(why)),
            };
            tell_by(tell, kept);
            end(NOT_RUN)
        }
    }
}

impl Report {
    /// What kept it from its program, of a child that has ended; `None`: nothing did, or it was ended on its way.
    pub fn kept(&self) -> Option<Kept> {
        let mut told = [0; 5];
        match rustix::io::read(&self.0, &mut told) {
            Ok(5) => {}
            Ok(_) | Err(_) => return None,
        }
        let [kind, a, b, c, d] = told;
        let why = io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]));
        Some(match kind {
            FOLDER => Kept::Folder(why),
            _ => Kept::Program(why),
        })
    }
}

fn pointers(words: &[CString]) -> Vec<*const c_char> {
    let words = words.iter().map(|word| word.as_ptr());
    words.chain([ptr::null()]).collect()
}

/// In the child. It may be long on its way, and holds nothing of ours meanwhile: others wait for the last end of a pipe
/// to close, and the next daemon for the lock of the store.
#[allow(unsafe_code)]
fn hold_only(stdio: [i32; 3], tell: i32) -> io::Result<()> {
    (0..).zip(stdio).try_for_each(|(to, from)| put(from, to))?;
    if tell != TELL {
        // SAFETY: the call takes three numbers; `TELL` is nobody's in this child any more.
        let put = unsafe { libc::dup3(tell, TELL, libc::O_CLOEXEC) };
        if put == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: this child uses stdio and `TELL` from now on, and ends without what a program does at its end.
    unsafe { close_from(TELL.cast_unsigned() + 1) }
    Ok(())
}

/// Whoever does not listen is not told.
#[allow(unsafe_code)]
fn tell_by(tell: i32, kept: Kept) {
    let (kind, why) = match kept {
        Kept::Folder(why) => (FOLDER, why),
        Kept::Program(why) => (PROGRAM, why),
    };
    let [a, b, c, d] = why.raw_os_error().unwrap_or(0).to_ne_bytes();
    // SAFETY: it is open until this child ends.
    let tell = unsafe { BorrowedFd::borrow_raw(tell) };
    let _ = rustix::io::write(tell, &[kind, a, b, c, d]);
}

/// In the child; makes system calls only, and allocates nothing.
fn become_program(
    errand: &Errand,
    sender: Pid,
    args: &[*const c_char],
    env: &[*const c_char],
) -> Kept {
    if let Err(why) = set_up(sender) {
        return Kept::Program(why);
    }
    if let Err(errno) = chdir(errand.cwd.as_c_str()) {
        return Kept::Folder(errno.into());
    }
    Kept::Program(exec(errand, args, env))
}

fn set_up(sender: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Of one that ended before that, no signal comes.
    if getppid() != Some(sender) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    setpgid(None::<Pid>, None::<Pid>)?;
    open_files::put_back()
}

#[allow(unsafe_code)]
fn put(from: i32, to: i32) -> io::Result<()> {
    // SAFETY: the call takes two numbers; `to` is one of stdio, which this child has for nothing else.
    match unsafe { libc::dup2(from, to) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[allow(unsafe_code)]
fn exec(errand: &Errand, args: &[*const c_char], env: &[*const c_char]) -> io::Error {
    be_as_others();
    // SAFETY: all are strings that live as long as this, the lists with a null after the last; what execvpe(3) needs to have
    // a shell run what the kernel does not know as a program, it has on its stack.
    unsafe {
        libc::execvpe(errand.program.as_ptr(), args.as_ptr(), env.as_ptr());
    }
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        os::unix::ffi::OsStringExt,
        path::Path,
    };

    fn word(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    fn shell(script: &str, cwd: &Path) -> Errand {
        Errand {
            program: word("/bin/sh"),
            args: ["sh", "-c", script].map(word).into(),
            env: vec![word("PATH=/usr/bin:/bin"), word("GREETING=a=b c")],
            cwd: CString::new(cwd.as_os_str().to_owned().into_vec()).unwrap(),
        }
    }

    fn said(sent: &Sent) -> String {
        let mut text = String::new();
        let stderr = sent.stderr.try_clone().unwrap();
        File::from(stderr).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_child_has_its_input_its_environment_its_folder_and_a_group_of_its_own() {
        let place = tempfile::tempdir().unwrap();
        let script = "read line; echo $line $GREETING $PWD >&2; \
                      ps() { cut -d ' ' -f 1,5 /proc/$$/stat; }; ps >&2";

        let sent = send(&shell(script, place.path())).unwrap();
        let stdin = sent.stdin.try_clone().unwrap();
        File::from(stdin).write_all(b"hello\n").unwrap();

        let pid = sent.child.pid();
        let at = place.path().display();
        assert_eq!(said(&sent), format!("hello a=b c {at}\n{pid} {pid}\n"));
        assert!(sent.child.wait().unwrap().success());
        assert!(sent.report.kept().is_none());
    }

    #[test]
    fn what_keeps_a_child_from_its_program_is_told_by_its_step() {
        let none = Path::new("/none/such");
        let program = Errand {
            program: word("/none/such"),
            ..shell("", Path::new("/"))
        };

        let [folder, program] = [shell("", none), program].map(|errand| {
            let sent = send(&errand).unwrap();
            assert_eq!(sent.child.wait().unwrap().code(), Some(NOT_RUN));
            sent.report.kept().unwrap()
        });

        let is_missing = |why: &io::Error| why.kind() == io::ErrorKind::NotFound;
        assert!(
            matches!(&folder, Kept::Folder(why) if is_missing(why)),
            "{folder:?}"
        );
        assert!(
            matches!(&program, Kept::Program(why) if is_missing(why)),
            "{program:?}"
        );
    }

    #[test]
    fn a_child_that_lives_is_not_waited_for_and_goes_with_its_thread() {
        let errand = shell("echo here >&2; read line", Path::new("/"));
        let sender = std::thread::spawn(move || {
            let sent = send(&errand).unwrap();
            let mut here = [0; 5];
            let stderr = sent.stderr.try_clone().unwrap();
            File::from(stderr).read_exact(&mut here).unwrap();
            sent
        });

        let sent = sender.join().unwrap();

        let ended = sent.child.wait().unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(ended.signal(), Some(libc::SIGKILL));
        assert!(sent.report.kept().is_none());
    }
}
