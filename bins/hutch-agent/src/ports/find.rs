//! Which device a port's name stands for.

use super::{Port, Reactor, uevents};
use crate::error::{Doing, Error};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

const PORTS: &str = "/sys/class/virtio-ports";
/// The host adds a port in milliseconds; a loaded host that emulates us may take seconds.
const PLUG_LIMIT: Duration = Duration::from_secs(10);
/// Names are ours: `hutch.control`, `hutch.stream.N`.
const NAME_MAX: usize = 64;

/// Under which device a name was found before: ports stay, and a search of many costs more than an exec's fork.
type Known = BTreeMap<String, Found>;

struct Found {
    device: OsString,
    /// The kernel's file with the name of this port; of one that was unplugged it cannot be read any more.
    name: File,
}

static KNOWN: Mutex<Known> = Mutex::new(Known::new());

/// Opens the port of that name, waiting for it to be plugged in.
///
/// # Errors
/// No such port in time, or it is open already.
pub async fn open(name: &str, reactor: &Arc<Reactor>) -> Result<Port, Error> {
    let what = format!("port {name:?}");
    let look = || {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        find(Path::new(PORTS), name, &mut known)
    };
    let device = uevents::until(&what, PLUG_LIMIT, look).await?;
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
fn find(ports: &Path, name: &str, known: &mut Known) -> Option<PathBuf> {
    // It may have been unplugged since, and another one be in its place.
    if !known.get(name).is_some_and(|found| says(&found.name, name)) {
        known.insert(name.to_owned(), search(ports, name)?);
    }
    let device = &known.get(name)?.device;
    Some(Path::new("/dev").join(device))
}

fn search(ports: &Path, name: &str) -> Option<Found> {
    let entries = fs::read_dir(ports).ok()?.flatten();
    let mut devices: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    // The newest first: that is whom the host most likely means, and each look costs.
    devices.sort_by_key(|device| std::cmp::Reverse((device.len(), device.clone())));
    devices.into_iter().find_map(|device| {
        let file = File::open(ports.join(&device).join("name")).ok()?;
        says(&file, name).then_some(Found { device, name: file })
    })
}

/// One read: the kernel gives an attribute whole.
fn says(file: &File, name: &str) -> bool {
    let mut text = [0; NAME_MAX + 1];
    let read = file.read_at(&mut text, 0);
    read.is_ok_and(|length| text[..length].trim_ascii_end() == name.as_bytes())
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
        let found = |name| find(sys.path(), name, &mut Known::new());

        assert_eq!(found("hutch.stream.1"), Some("/dev/vport0p2".into()));
        assert_eq!(found("hutch.stream"), None);
        assert_eq!(
            find(Path::new("/nowhere"), "hutch.stream.1", &mut Known::new()),
            None
        );
    }

    #[test]
    fn a_port_that_was_found_before_is_looked_at_alone_unless_another_is_in_its_place() {
        let sys = tempfile::tempdir().unwrap();
        let name = |device: &str, name: &str| {
            fs::create_dir_all(sys.path().join(device)).unwrap();
            fs::write(sys.path().join(device).join("name"), name).unwrap();
        };
        let mut known = Known::new();
        name("vport0p2", "hutch.stream.1\n");
        find(sys.path(), "hutch.stream.1", &mut known).unwrap();
        // A search takes the newest.
        name("vport0p9", "hutch.stream.1\n");
        assert_eq!(
            find(sys.path(), "hutch.stream.1", &mut known),
            Some("/dev/vport0p2".into())
        );

        name("vport0p2", "hutch.stream.7\n");

        assert_eq!(
            find(sys.path(), "hutch.stream.1", &mut known),
            Some("/dev/vport0p9".into())
        );
    }

    #[test]
    fn names_that_no_port_has_are_refused() {
        assert!(valid_name("hutch.stream.12"));
        for name in ["", "../x", "a b", "a/b", "a\n", &"x".repeat(NAME_MAX + 1)] {
            assert!(!valid_name(name), "{name:?}");
        }
    }
}
