//! Who holds an image: QEMU locks bytes of it for as long as it has it open, and what it says of a lock that it does not
//! get names neither the image nor the holder. Looks, and takes no lock.

use rustix::fs::{CWD, Mode, OFlags, openat};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

/// From QEMU's block/file-posix.c: a holder locks byte 100 + N for what it does, and byte 200 + N for what it lets nobody
/// else do. This is to write.
const WRITES: libc::off_t = 101;
const NOBODY_MAY_WRITE: libc::off_t = 201;

/// Whether somebody who holds it keeps another one away, who would only read, or write too. False also where nobody can
/// know: then QEMU's words have to do.
pub fn is_held(image: &Path, would_only_read: bool) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(image) = openat(CWD, image, flags, Mode::empty()) else {
        return false;
    };
    is_locked(&image, WRITES) || !would_only_read && is_locked(&image, NOBODY_MAY_WRITE)
}

#[allow(unsafe_code)]
fn is_locked(image: &OwnedFd, byte: libc::off_t) -> bool {
    let mut asked = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the whole call, and `asked` is a live flock of the kernel's layout, which the
    // kernel reads and writes.
    let done = unsafe { libc::fcntl(image.as_raw_fd(), libc::F_OFD_GETLK, &raw mut asked) };
    done == 0 && i32::from(asked.l_type) != libc::F_UNLCK
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // Tests may.

    use super::*;
    use std::fs::File;

    /// As QEMU does: shared locks, of a single byte each.
    #[allow(unsafe_code)]
    fn lock(file: &File, byte: libc::off_t) {
        let wanted = libc::flock {
            l_type: libc::F_RDLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: as above; the kernel only reads `wanted`.
        let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const wanted) };
        assert_eq!(done, 0);
    }

    #[test]
    fn a_writer_keeps_everybody_away_and_a_reader_who_writes() {
        for (byte, from_readers, from_writers) in [
            (5, false, false),
            (100, false, false),
            (WRITES, true, true),
            (NOBODY_MAY_WRITE, false, true),
        ] {
            let image = tempfile::NamedTempFile::new().unwrap();
            let other = File::open(image.path()).unwrap();
            assert!(!is_held(image.path(), false));

            lock(&other, byte);

            assert_eq!(is_held(image.path(), true), from_readers, "{byte}");
            assert_eq!(is_held(image.path(), false), from_writers, "{byte}");
            drop(other);
            assert!(!is_held(image.path(), false));
        }
    }

    #[test]
    fn what_cannot_be_opened_is_held_by_nobody_that_is_known() {
        assert!(!is_held(Path::new("/no/such/image"), false));
    }
}
