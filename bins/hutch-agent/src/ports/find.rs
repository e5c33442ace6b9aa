//! Which device a port's name stands for.

use super::{Port, Reactor, uevents};
use crate::error::{Doing, Error};
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const PORTS: &str = "/sys/class/virtio-ports";
/// The host adds a port in milliseconds; a loaded host that emulates us may take seconds.
const PLUG_LIMIT: Duration = Duration::from_secs(10);
/// Names are ours: `hutch.control`, `hutch.stream.N`.
const NAME_MAX: usize = 64;

/// Opens the port of that name, waiting for it to be plugged in.
///
/// # Errors
/// No such port in time, or it is open already.
pub async fn open(name: &str, reactor: &Arc<Reactor>) -> Result<Port, Error> {
    let what = format!("port {name:?}");
    let device = uevents::until(&what, PLUG_LIMIT, || find(Path::new(PORTS), name)).await?;
    open_device(&device)
        .and_then(|file| Port::new(file, reactor))
        .doing(|| format!("open {what} ({})", device.display()))
}

/// Whether a name from the host can name a port at all.
pub fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

fn open_device(device: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(device)
}

/// The device of the port with that name, if it is there. A port gets its name a moment after
/// it appears.
fn find(ports: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(ports).ok()?.flatten();
    let mut devices: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    // The newest first: that is whom the host most likely means, and each look costs.
    devices.sort_by_key(|device| std::cmp::Reverse((device.len(), device.clone())));
    let named = |device: &OsString| {
        let named = fs::read_to_string(ports.join(device).join("name"));
        named.is_ok_and(|named| named.trim_end() == name)
    };
    let device = devices.into_iter().find(named)?;
    Some(Path::new("/dev").join(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_by_its_whole_name() {
        let sys = tempfile::tempdir().unwrap();
        for (device, name) in [
            ("vport0p1", "hutch.control\n"),
            ("vport0p2", "hutch.stream.1\n"),
        ] {
            fs::create_dir(sys.path().join(device)).unwrap();
            fs::write(sys.path().join(device).join("name"), name).unwrap();
        }
        fs::create_dir(sys.path().join("vport0p3")).unwrap();

        assert_eq!(
            find(sys.path(), "hutch.stream.1"),
            Some(PathBuf::from("/dev/vport0p2"))
        );
        assert_eq!(find(sys.path(), "hutch.stream"), None);
        assert_eq!(find(Path::new("/nowhere"), "hutch.stream.1"), None);
    }

    #[test]
    fn names_that_no_port_has_are_refused() {
        assert!(valid_name("hutch.stream.12"));
        for name in ["", "../x", "a b", "a/b", "a\n", &"x".repeat(NAME_MAX + 1)] {
            assert!(!valid_name(name), "{name:?}");
        }
    }
}
