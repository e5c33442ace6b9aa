//! Mounts that a stock host asks for by driver: shared folders, memory, disks.
//!
//! One mount point may be asked for by several containers: it is mounted once, and unmounted
//! with the last.

use crate::error::{Doing, Error};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Hosts mount below it; whatever else there is belongs to the guest.
const ROOT: &str = "/run";

/// What the host asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub driver: String,
    pub source: String,
    pub kind: String,
    pub options: Vec<String>,
    pub mount_point: PathBuf,
}

/// A mount of ours; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

#[derive(Debug, Default)]
pub struct Mounts {
    known: Mutex<BTreeMap<PathBuf, Weak<Mounted>>>,
}

impl Mounts {
    /// Mounts it, or shares the mount that is there.
    ///
    /// # Errors
    /// A driver that is not known, a place that is not allowed, or the kernel refuses.
    pub fn mount(&self, wanted: &Wanted) -> Result<Option<Arc<Mounted>>, Error> {
        let place = &wanted.mount_point;
        let inside = place.starts_with(ROOT)
            && place != Path::new(ROOT)
            && !place.components().any(|part| part == Component::ParentDir);
        if !inside {
            return Err(Error::Invalid {
                what: format!("mount {} on {place:?}", wanted.driver),
                why: "is not below /run",
            });
        }
        let (kind, source) = match wanted.driver.as_str() {
            "virtio-fs" => ("virtiofs", wanted.source.as_str()),
            "ephemeral" => ("tmpfs", "tmpfs"),
            "blk" if wanted.source.starts_with("/dev/") => {
                (wanted.kind.as_str(), wanted.source.as_str())
            }
            "local" => {
                fs::create_dir_all(place).doing(|| format!("make {}", place.display()))?;
                return Ok(None);
            }
            _ => {
                return Err(Error::Invalid {
                    what: format!("storage driver {:?} of {:?}", wanted.driver, wanted.source),
                    why: "is not supported by this agent",
                });
            }
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, mounted| mounted.strong_count() > 0);
        if let Some(mounted) = known.get(place).and_then(Weak::upgrade) {
            return Ok(Some(mounted));
        }
        let mounted = Arc::new(mount_one(kind, source, wanted)?);
        known.insert(place.clone(), Arc::downgrade(&mounted));
        Ok(Some(mounted))
    }
}

fn mount_one(kind: &str, source: &str, wanted: &Wanted) -> Result<Mounted, Error> {
    let place = &wanted.mount_point;
    fs::create_dir_all(place).doing(|| format!("make {}", place.display()))?;
    let (flags, data) = flags(&wanted.options);
    mount(Some(source), place, Some(kind), flags, Some(data.as_str()))
        .doing(|| format!("mount {kind} {source:?} on {}", place.display()))?;
    Ok(Mounted(place.clone()))
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: whoever still looks in must not keep it for ever.
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            crate::error!("unmount {}: {error}", self.0.display());
        }
    }
}

/// Options that are flags of mount(2), and the rest, which is the file system's own.
fn flags(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut rest = Vec::new();
    for option in options {
        match option.as_str() {
            "defaults" | "rw" => {}
            "ro" => flags |= MsFlags::MS_RDONLY,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            own => rest.push(own),
        }
    }
    (flags, rest.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(driver: &str, mount_point: &str) -> Wanted {
        Wanted {
            driver: driver.to_owned(),
            source: "x".to_owned(),
            kind: String::new(),
            options: Vec::new(),
            mount_point: mount_point.into(),
        }
    }

    #[test]
    fn a_mount_outside_of_run_is_refused() {
        for place in ["/", "/etc", "/run", "run/x", "/run/../etc", "/runaway"] {
            let refused = Mounts::default()
                .mount(&wanted("ephemeral", place))
                .unwrap_err();

            assert!(
                refused.to_string().contains("not below /run"),
                "{place}: {refused}"
            );
        }
    }

    #[test]
    fn a_driver_that_is_not_known_is_named() {
        let refused = Mounts::default()
            .mount(&wanted("9p", "/run/x"))
            .unwrap_err();

        assert!(
            refused.to_string().contains(r#"storage driver "9p""#),
            "{refused}"
        );
    }

    #[test]
    fn flags_are_told_from_the_file_systems_own_options() {
        let options = ["ro", "nodev", "dax", "size=1m"].map(str::to_owned);

        assert_eq!(
            flags(&options),
            (
                MsFlags::MS_RDONLY | MsFlags::MS_NODEV,
                "dax,size=1m".to_owned()
            )
        );
    }
}
