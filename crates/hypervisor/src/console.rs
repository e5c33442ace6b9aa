//! Logs that a VMM writes without bound: their last lines, and keeping them small.
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

/// Holes are made of whole blocks.
const BLOCK: u64 = 4096;

/// The last lines of a log, made fit for a terminal: whatever a guest prints is untrusted. Empty
/// when there is no log.
pub fn tail(path: &Path) -> String {
    let bytes = last_bytes(path, TAIL_BYTES).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text
        .lines()
        .map(printable)
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
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
