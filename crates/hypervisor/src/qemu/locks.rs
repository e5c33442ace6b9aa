//! Who holds an image: QEMU locks bytes of it for as long as it has it open, and what it says of a lock that it does not
//! get names neither the image nor the holder. Looks, and takes no lock.

use rustix::fs::{CWD, Mode, OFlags, openat};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

/// From QEMU's block/file-posix.c: bytes from here on say what a holder does, and from 200 on what it lets nobody else do.
const FIRST: libc::off_t = 100;
const COUNT: libc::off_t = 200;

/// Whether anybody holds it. False also where nobody can know: then QEMU's words have to do.
pub fn is_held(image: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat(CWD, image, flags, Mode::empty()).is_ok_and(|image| is_locked(&image))
}

#[allow(unsafe_code)]
fn is_locked(image: &OwnedFd) -> bool {
    let mut asked = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: FIRST,
        l_len: COUNT,
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
    fn an_image_is_held_as_long_as_a_byte_of_qemus_is_locked() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let other = File::open(image.path()).unwrap();

        assert!(!is_held(image.path()));
        lock(&other, 5);
        assert!(!is_held(image.path()), "no lock of QEMU's");
        lock(&other, 201);
        assert!(is_held(image.path()));
        drop(other);
        assert!(!is_held(image.path()));
    }

    #[test]
    fn what_cannot_be_opened_is_held_by_nobody_that_is_known() {
        assert!(!is_held(Path::new("/no/such/image")));
    }
}
