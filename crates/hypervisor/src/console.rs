//! Logs that a VMM writes without bound: their last lines, what a kernel says of its own end, and keeping them small.
//!
//! QEMU appends to them for as long as it lives and never truncates. Whoever owns the folder
//! gives the space of old bytes back by punching a hole where they were: the writer's offset stays
//! right, nothing is lost between reading and cutting, and the end is untouched. While the daemon
//! is down nobody does so.

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek},
    path::Path,
};

/// What a log may occupy before it is cut: a guest that prints in a loop fills it in about a
/// second under emulation.
pub const LOG_BYTES_MAX: u64 = 1024 * 1024;

/// What is left of it then.
pub const LOG_BYTES_KEPT: u64 = 256 * 1024;

/// How much of the end of a log goes into an error or a notice.
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 8;

/// How much of the end of a console is looked through for what a kernel said of its own end: its report of a fault has
/// some sixty lines, and a fault while it reports is followed by another.
const REPORT_BYTES: u64 = 16 * 1024;
/// How a kernel begins to speak of a fault (kernel/panic.c, lib/bug.c, and dumpstack.c, traps.c and fault.c of arch/x86 of Linux).
const FAULTS: [&str; 8] = [
    "BUG: ",
    "kernel BUG at ",
    "Oops: ",
    "general protection fault",
    "invalid opcode: ",
    "divide error: ",
    "double fault: ",
    "Kernel panic",
];
/// How many functions, beside the one that failed, say how it came there.
const CALLERS_MAX: usize = 6;

/// Holes are made of whole blocks.
const BLOCK: u64 = 4096;

/// The last lines of a log, made fit for a terminal: whatever a guest prints is untrusted. Empty
/// when there is no log.
pub fn tail(path: &Path) -> String {
    last(&last_lines(path, TAIL_BYTES))
}

/// What a guest said as it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What went wrong, in which function, and by which others it came there. The last lines, if nothing is said of that.
    pub gist: String,
    /// All that its kernel said of a fault, if there was one.
    pub whole: Option<String>,
}

/// Of the console of a guest that ended by itself; fit for a terminal as [`tail`] is.
pub fn report(path: &Path) -> Report {
    let lines = last_lines(path, REPORT_BYTES);
    let is_fault = |line: &&String| FAULTS.iter().any(|fault| line.contains(fault));
    let said = lines.iter().position(|line| is_fault(&line));
    let said = said.map_or(&[][..], |first| &lines[first..]);
    let mut gist: Vec<&str> = said
        .iter()
        .filter(is_fault)
        .take(TAIL_LINES)
        .map(String::as_str)
        .collect();
    if gist.is_empty() {
        let (gist, whole) = (last(&lines), None);
        return Report { gist, whole };
    }
    let place = said.iter().find(|line| line.contains("RIP: "));
    let callers = said.iter().filter(|line| is_caller(line));
    let way = place.into_iter().chain(callers.take(CALLERS_MAX));
    gist.splice(1..1, way.map(String::as_str));
    Report {
        gist: gist.join("\n"),
        whole: Some(said.join("\n")),
    }
}

/// `[    1.234567]  function+0x12/0x34`; with a question mark before it, it is a guess.
fn is_caller(line: &str) -> bool {
    let entry = line.split_once("]  ").map(|(_, entry)| entry);
    entry.is_some_and(|entry| entry.contains("+0x") && !entry.starts_with(['?', ' ']))
}

fn last(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn last_lines(path: &Path, count: u64) -> Vec<String> {
    let bytes = last_bytes(path, count).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(printable);
    lines.filter(|line| !line.trim().is_empty()).collect()
}

/// Drops escape sequences and control characters.
fn printable(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).collect()
}

fn last_bytes(path: &Path, count: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(len.saturating_sub(count)))?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Gives back the space of all but the last [`LOG_BYTES_KEPT`] of a log that occupies more than
/// [`LOG_BYTES_MAX`]. A log that is not there is small enough.
///
/// # Errors
/// The log cannot be opened or cut.
pub fn keep_small(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let len = file.metadata()?.len();
    let first = first_byte(&file)?;
    if len - first <= LOG_BYTES_MAX {
        return Ok(());
    }
    let cut = (len - LOG_BYTES_KEPT) / BLOCK * BLOCK;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(&file, hole, 0, cut) {
        Ok(()) => Ok(()),
        // A file system without holes: the writer appends, so it goes on at the new end.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(0),
        Err(error) => Err(error.into()),
    }
}

/// Where the log's first byte is that was not cut.
///
/// # Errors
/// The file cannot be read.
pub fn first_byte(file: &File) -> io::Result<u64> {
    match seek(file, SeekFrom::Data(0)) {
        Ok(offset) => Ok(offset),
        // Nothing but a hole, or nothing at all.
        Err(rustix::io::Errno::NXIO) => Ok(file.metadata()?.len()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write, os::unix::fs::MetadataExt};

    #[test]
    fn a_tail_is_the_last_lines_without_escape_sequences() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let mut text: String = (0..10_000).map(|n| format!("line {n}\r\n")).collect();
        text.push_str("\x1b[31mKernel panic\x07\n\n");
        fs::write(&path, text).unwrap();

        let tail = tail(&path);

        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("line 9993\n"), "{tail}");
        assert!(tail.ends_with("[31mKernel panic"), "{tail}");
    }

    #[test]
    fn a_kernel_that_died_says_of_what_and_where() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let registers: String = (0..30)
            .map(|n| format!("[   62.107689] R{n}: ffff888003432638\r\n"))
            .collect();
        let said = [
            "hutch-agent 0.1.0: ready 900 ms after boot\n",
            "[   62.107001] BUG: unable to handle page fault for address: \u{1b}[31mffffc9\r\n",
            "[   62.107002] Oops: 0000 [#1] PREEMPT\r\n",
            "[   62.107003] RIP: 0010:iput+0x1e/0x200\r\n",
            &registers,
            "[   62.107004] Call Trace:\r\n",
            "[   62.107005]  <TASK>\r\n",
            "[   62.107006]  ? guessed+0x1/0x2\r\n",
            "[   62.107007]  fuse_release_end+0x12/0x30\r\n",
            &registers,
            "[   62.107008] RIP: 0010:iput+0x1e/0x200\r\n",
            &registers,
            "[   62.108286] Kernel panic - not syncing: Fatal exception\r\n",
        ];
        fs::write(&path, said.concat()).unwrap();

        let Report { gist, whole } = report(&path);

        assert_eq!(
            gist,
            "[   62.107001] BUG: unable to handle page fault for address: [31mffffc9\n\
             [   62.107003] RIP: 0010:iput+0x1e/0x200\n\
             [   62.107007]  fuse_release_end+0x12/0x30\n\
             [   62.107002] Oops: 0000 [#1] PREEMPT\n\
             [   62.108286] Kernel panic - not syncing: Fatal exception"
        );
        let whole = whole.unwrap();
        assert!(whole.starts_with("[   62.107001] BUG: "), "{whole}");
        assert_eq!(whole.lines().count(), 99);
    }

    #[test]
    fn a_guest_that_said_nothing_of_its_end_is_quoted_as_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        fs::write(&path, "one\ntwo\n").unwrap();

        let (gist, whole) = (tail(&path), None);
        assert_eq!(report(&path), Report { gist, whole });
    }

    #[test]
    fn a_log_that_is_missing_has_an_empty_tail_and_is_small() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");

        assert_eq!(tail(&path), "");
        keep_small(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_log_is_cut_while_its_writer_goes_on_and_keeps_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let mut options = OpenOptions::new();
        let mut writer = options.append(true).create(true).open(&path).unwrap();
        writer.write_all(&vec![b'x'; 3 * 1024 * 1024]).unwrap();
        writer.write_all(b"before\n").unwrap();

        keep_small(&path).unwrap();
        writer.write_all(b"after\n").unwrap();

        assert!(fs::metadata(&path).unwrap().blocks() * 512 <= LOG_BYTES_KEPT + 3 * BLOCK);
        assert!(tail(&path).ends_with("before\nafter"), "{}", tail(&path));
    }

    #[test]
    fn a_log_below_its_bound_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        fs::write(&path, vec![b'x'; usize::try_from(LOG_BYTES_MAX).unwrap()]).unwrap();

        keep_small(&path).unwrap();

        assert_eq!(first_byte(&File::open(&path).unwrap()).unwrap(), 0);
    }
}
