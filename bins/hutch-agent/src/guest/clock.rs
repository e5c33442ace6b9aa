//! Time and randomness, which a guest that slept or was cloned has wrong.

use crate::error::{Doing, Error};
use nix::{
    sys::time::{TimeSpec, TimeValLike},
    time::{ClockId, clock_gettime, clock_settime},
};
use std::{fs::OpenOptions, io, os::fd::AsRawFd, time::Duration};

/// The kernel mixes any amount; nobody has more to give in one call.
const ENTROPY_MAX: usize = 4096;

nix::ioctl_none!(random_reseed, b'R', 0x07);
nix::ioctl_write_ptr!(random_add, b'R', 0x03, [libc::c_int; 2]);

/// Sets the realtime clock.
///
/// # Errors
/// A time that is none, or the kernel refuses.
pub fn set(sec: i64, nsec: i64) -> Result<(), Error> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(sec, nsec))
        .doing(|| format!("set the clock to {sec}.{nsec:09}"))
}

/// Milliseconds since the epoch, as the guest believes.
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME);
    now.map_or(0, |now| now.num_milliseconds().try_into().unwrap_or(0))
}

/// For how long the guest's kernel has been running.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Mixes bytes into the random pool, counts them as random, and has the generator use them.
///
/// # Errors
/// Too many bytes, or the kernel refuses.
pub fn stir(bytes: &[u8]) -> Result<(), Error> {
    if bytes.is_empty() {
        return Ok(());
    }
    let step = || "stir the random pool".to_owned();
    if bytes.len() > ENTROPY_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).doing(step);
    }
    let pool = OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .doing(step)?;
    add(pool.as_raw_fd(), bytes).doing(step)?;
    reseed(pool.as_raw_fd()).doing(step)
}

/// struct rand_pool_info: bits, bytes, then the bytes.
#[allow(unsafe_code)]
fn add(pool: i32, bytes: &[u8]) -> nix::Result<()> {
    let mut request = vec![0_u8; 8 + ENTROPY_MAX];
    let length = bytes.len().min(ENTROPY_MAX);
    let count = i32::try_from(length).unwrap_or(0);
    request[..4].copy_from_slice(&(count * 8).to_ne_bytes());
    request[4..8].copy_from_slice(&count.to_ne_bytes());
    request[8..8 + length].copy_from_slice(&bytes[..length]);
    // SAFETY: the kernel reads two integers and as many bytes as the second says, all of which
    // the request holds; it asks for no alignment.
    unsafe { random_add(pool, request.as_ptr().cast()) }.map(drop)
}

#[allow(unsafe_code)]
fn reseed(pool: i32) -> nix::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { random_reseed(pool) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_bytes_are_refused_and_none_is_nothing_to_do() {
        assert!(stir(&vec![1; ENTROPY_MAX + 1]).is_err());
        assert!(stir(&[]).is_ok());
    }

    #[test]
    fn a_pool_that_is_none_refuses_both_requests() {
        let file = tempfile::tempfile().unwrap();

        assert_eq!(add(file.as_raw_fd(), b"x"), Err(nix::errno::Errno::ENOTTY));
        assert_eq!(reseed(file.as_raw_fd()), Err(nix::errno::Errno::ENOTTY));
    }

    #[test]
    fn a_time_that_is_none_is_refused() {
        assert!(set(0, 2_000_000_000).is_err());
        assert!(now_ms() > 1_500_000_000_000);
    }
}
