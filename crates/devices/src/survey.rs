//! What the host has where a container's paths point. Reads only.

use crate::{
    error::Error,
    follow::open_tree,
    plan::{Habit, Nature, Source, Survey},
    tree::Tree,
};
use runtime_core::{
    agent::{DeviceNumber, FsType},
    devices::{BindSpec, ContainerDevices, Purpose},
};
use rustix::fs::{major, makedev, minor};
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

/// Both magic numbers lie in the superblock, which begins 1,024 bytes into the device.
const SUPERBLOCK_AT: u64 = 1024;
/// ext4: `s_magic`, 0xEF53, at 0x38 of the superblock (Documentation/filesystems/ext4/super.rst).
const EXT4_MAGIC: (usize, [u8; 2]) = (0x38, [0x53, 0xef]);
/// erofs: `magic`, 0xE0F5E1E2, first in the superblock (Documentation/filesystems/erofs.rst).
const EROFS_MAGIC: [u8; 4] = [0xe2, 0xe1, 0xf5, 0xe0];

/// # Errors
/// The bundle cannot be resolved. What else is missing or odd is part of the survey.
pub fn survey(devices: &ContainerDevices) -> Result<Survey, Error> {
    let bundle = fs::canonicalize(&devices.bundle)
        .map_err(Error::path("resolve bundle", &devices.bundle))?;
    let bind = |bind: &BindSpec| -> Result<Source, Error> {
        let found = match bind.purpose {
            Purpose::Device => device(&bind.source)?,
            Purpose::Mount | Purpose::HookProgram | Purpose::FileSystem => {
                source(&bundle.join(&bind.source))?
            }
        };
        let habit = match (found.nature, bind.read_only) {
            (Nature::Directory, true) => habit(&found.path),
            _ => Habit::Unknown,
        };
        Ok(Source { habit, ..found })
    };
    Ok(Survey {
        root: source(&bundle.join(&devices.root))?,
        binds: devices.binds.iter().map(bind).collect::<Result<_, _>>()?,
        bundle,
    })
}

fn habit(path: &Path) -> Habit {
    let copied = open_tree(path)
        .is_ok_and(|root| Tree::is_published(root.as_fd()) && Tree::scan(root.as_fd()).is_ok());
    match copied {
        true => Habit::Published,
        // Whatever is wrong with it, binding it will tell.
        false => Habit::Unknown,
    }
}

/// The node of a device, by its folder in sysfs.
fn device(folder: &Path) -> Result<Source, Error> {
    let file = folder.join("uevent");
    let text = match fs::read_to_string(&file) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(Error::path("read", &file))?,
    };
    let word = |key: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let number = |key: &str| word(key)?.parse().ok();
    let named = word("DEVNAME").map(|name| Path::new("/dev").join(name));
    if let (Some(path), Some(major), Some(minor)) = (named, number("MAJOR"), number("MINOR"))
        // The name may be another one's by now, or nobody has made the node.
        && fs::metadata(&path).is_ok_and(|found| found.rdev() == makedev(major, minor))
    {
        return source(&path);
    }
    Ok(Source {
        path: folder.to_owned(),
        nature: Nature::Missing,
        number: None,
        habit: Habit::Unknown,
    })
}

fn source(path: &Path) -> Result<Source, Error> {
    let resolved = match fs::canonicalize(path) {
        Ok(resolved) => resolved,
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            return Ok(Source {
                path: path.to_owned(),
                nature: Nature::Missing,
                number: None,
                habit: Habit::Unknown,
            });
        }
        Err(why) => return Err(Error::path("resolve", path)(why)),
    };
    let found = fs::metadata(&resolved).map_err(Error::path("look at", &resolved))?;
    let kind = found.file_type();
    let number = kind.is_block_device().then(|| DeviceNumber {
        major: major(found.rdev()),
        minor: minor(found.rdev()),
    });
    let nature = if kind.is_dir() {
        Nature::Directory
    } else if kind.is_file() {
        Nature::File(file_system(&resolved)?)
    } else if kind.is_block_device() {
        Nature::BlockDevice(file_system(&resolved)?)
    } else if kind.is_char_device() {
        Nature::CharDevice
    } else if kind.is_socket() {
        Nature::Socket
    } else {
        Nature::Fifo
    };
    Ok(Source {
        path: resolved,
        nature,
        number,
        habit: Habit::Unknown,
    })
}

fn file_system(path: &Path) -> Result<Option<FsType>, Error> {
    let mut file = File::open(path).map_err(Error::path("open", path))?;
    let mut superblock = [0; 64];
    file.seek(SeekFrom::Start(SUPERBLOCK_AT))
        .map_err(Error::path("read", path))?;
    match file.read_exact(&mut superblock) {
        Ok(()) => {}
        Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(why) => return Err(Error::path("read", path)(why)),
    }
    let (at, magic) = EXT4_MAGIC;
    Ok(match () {
        () if superblock[at..].starts_with(&magic) => Some(FsType::Ext4),
        () if superblock.starts_with(&EROFS_MAGIC) => Some(FsType::Erofs),
        () => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysfs(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("uevent"), text).unwrap();
        folder
    }

    #[test]
    fn a_device_is_the_node_that_sysfs_names_if_it_has_the_numbers() {
        // Every host has it; that it is no disk, the plan says.
        let null = sysfs("MAJOR=1\nMINOR=3\nDEVNAME=null\n");

        let found = device(null.path()).unwrap();

        assert_eq!(found.path, Path::new("/dev/null"));
        assert_eq!(found.nature, Nature::CharDevice);
    }

    #[test]
    fn a_device_that_has_no_node_or_another_ones_is_missing() {
        let other = sysfs("MAJOR=1\nMINOR=4\nDEVNAME=null\n");
        let nameless = sysfs("MAJOR=1\nMINOR=3\n");
        let nowhere = other.path().join("none");

        for folder in [other.path(), nameless.path(), &nowhere] {
            let found = device(folder).unwrap();

            assert_eq!(
                (found.nature, found.path.as_path()),
                (Nature::Missing, folder)
            );
        }
    }
}
