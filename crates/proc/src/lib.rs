//! What tells one process of the host from every other: its pid with its start time, within one boot.
//!
//! Reads /proc; it watches and ends no process. Of other crates it has system calls alone, so that
//! the relay can afford it. [`berth`] is where a program that somebody starts
//! finds itself, [`departure`] and [`errand`] start one without a wait, [`memory`] and [`open_files`] are about this process itself,
//! [`dismissal`] is what a relay is told by.

pub mod berth;
pub mod departure;
pub mod dismissal;
pub mod errand;
pub mod memory;
pub mod open_files;

use std::{fs, io};

/// The kernel's ESRCH: the process ended between open and read.
const NO_SUCH_PROCESS: i32 = 3;

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub life: Life,
    /// Field 22: clock ticks since boot.
    pub start_time: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Living,
    /// Living, and stands still until somebody continues it: by SIGSTOP, from a terminal, or by a tracer.
    Stopped,
    /// Ended, and not yet waited for by its parent.
    Zombie,
}

/// `None`: there is no such process.
///
/// # Errors
/// /proc does not read.
pub fn stat(pid: u32) -> io::Result<Option<Stat>> {
    let text = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "no start time in stat");
    parse(&text).ok_or_else(unknown).map(Some)
}

/// When the process started; a zombie is still there.
///
/// # Errors
/// /proc does not read.
pub fn start_time(pid: u32) -> io::Result<Option<u64>> {
    Ok(stat(pid)?.map(|stat| stat.start_time))
}

/// Changes with every boot of the host: processes of another boot are gone.
///
/// # Errors
/// /proc does not read.
pub fn boot_id() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_PROCESS)
}

/// proc(5): `pid (command) state ppid …`. The command may hold anything, brackets and line ends
/// too; the last bracket ends it.
fn parse(text: &[u8]) -> Option<Stat> {
    let command_end = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(command_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // The state is field 3 and was taken: fields 20 and 22 follow.
    let threads: u64 = fields.nth(16)?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    let life = match state {
        // A first thread that has ended before the others is a zombie of a living process.
        "Z" | "X" | "x" if threads <= 1 => Life::Zombie,
        "T" | "t" => Life::Stopped,
        _ => Life::Living,
    };
    Some(Stat { life, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_brackets_and_blanks_does_not_hide_the_start_time() {
        let stat = b"7 (a) Z) 1 (x\n) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";

        let parsed = parse(stat).unwrap();

        let expected = Stat {
            life: Life::Living,
            start_time: 4711,
        };
        assert_eq!(parsed, expected);
        assert_eq!(parse(b"7 (a) S 1 7"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn a_process_whose_first_thread_ended_before_the_others_lives() {
        let zombie = "7 (a) Z 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        let crippled = zombie.replace(" 20 0 1 0 ", " 20 0 3 0 ");

        let life = |stat: &str| parse(stat.as_bytes()).unwrap().life;

        assert_eq!(life(&zombie.replace('Z', "T")), Life::Stopped);
        assert_eq!(life(zombie), Life::Zombie);
        assert_eq!(life(&crippled), Life::Living);
    }

    #[test]
    fn this_process_has_one_start_time_and_no_process_none() {
        let ours = start_time(std::process::id()).unwrap().unwrap();
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();

        assert!(ours > 0 && ours as f64 / 100.0 <= seconds);
        assert_eq!(start_time(std::process::id()).unwrap(), Some(ours));
        assert_eq!(start_time(u32::MAX).unwrap(), None);
    }

    #[test]
    fn a_boot_has_one_id() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
