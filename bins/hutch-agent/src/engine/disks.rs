//! Disks of the guest in the place of those of the host that config.json names.
//!
//! File systems on them are mounted here and not by the process that they are for: that one may
//! only open disks that its cgroup allows, and need not rule over them.

use super::{
    api::{Disk, DiskPurpose},
    error::{Doing, Error, Result},
    plan::{MountStep, MountWhat},
};
use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources, Mount, Spec,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{FileType, major, minor, stat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen,
    },
};
use std::{collections::BTreeMap, ffi::CStr, path::Path};

/// Each is a descriptor that goes with the plan; no VM has slots for as many.
pub const TREES_MAX: usize = 32;

/// MS_* that are the file system's, with the words that fsconfig(2) has for them.
const OF_FILE_SYSTEM: [(u64, &CStr); 4] = [
    (libc::MS_SYNCHRONOUS, c"sync"),
    (libc::MS_DIRSYNC, c"dirsync"),
    (libc::MS_MANDLOCK, c"mand"),
    (1 << 25, c"lazytime"),
];

/// MS_* that are the mount's, with the attributes of fsmount(2).
const OF_MOUNT: [(u64, u64); 8] = [
    (libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
    (libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
    (libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
    (libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    (libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    (libc::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
    (libc::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
    (256, libc::MOUNT_ATTR_NOSYMFOLLOW),
];

/// A device by its numbers.
pub type Number = (i64, i64);

/// Makes the config name the guest's disks, and its rules allow them.
///
/// # Errors
/// There is no such disk, or nothing in the config for it.
pub fn stand_in(config: &mut Spec, disks: &[Disk]) -> Result<()> {
    let mut moved = BTreeMap::new();
    let mut allowed = Vec::new();
    for disk in disks {
        let number = number_of(&disk.node)?;
        match disk.purpose {
            DiskPurpose::Mount(index) => {
                let mounts = config.mounts_mut().as_mut();
                let mount = mounts.and_then(|all| all.get_mut(index));
                let mount = mount.ok_or_else(|| nothing_for(disk, "mount"))?;
                mount.set_source(Some(disk.node.clone()));
                // The kernel asks the rules about who opens the node, not about who mounts.
                if is_bind(mount) {
                    allowed.push(rule(number, disk.writable));
                }
            }
            DiskPurpose::Device(index) => {
                let linux = config.linux_mut().as_mut();
                let devices = linux.and_then(|linux| linux.devices_mut().as_mut());
                let device = devices.and_then(|all| all.get_mut(index));
                let device = device.ok_or_else(|| nothing_for(disk, "device"))?;
                moved.insert((device.major(), device.minor()), number);
                device.set_major(number.0);
                device.set_minor(number.1);
                allowed.push(rule(number, disk.writable));
            }
        }
    }
    if let (Some(linux), false) = (config.linux_mut(), allowed.is_empty()) {
        let resources = linux.resources_mut();
        let resources = resources.get_or_insert_with(LinuxResources::default);
        let rules = resources.devices_mut().get_or_insert_default();
        renumber(rules, &moved);
        rules.extend(allowed);
    }
    Ok(())
}

fn nothing_for(disk: &Disk, what: &str) -> Error {
    let (DiskPurpose::Mount(index) | DiskPurpose::Device(index)) = disk.purpose;
    Error::Invalid {
        what: format!("disk {:?} for {what} {index}", disk.node),
        why: format!("there is no such {what}"),
    }
}

/// # Errors
/// There is none at this path, or something else.
pub fn number_of(node: &Path) -> Result<Number> {
    let step = || format!("look at disk {node:?}");
    let found = stat(node).doing(step)?;
    if !FileType::from_raw_mode(found.st_mode).is_block_device() {
        return Err(Errno::NOTBLK).doing(step);
    }
    Ok((major(found.st_rdev).into(), minor(found.st_rdev).into()))
}

fn is_bind(mount: &Mount) -> bool {
    let mut words = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind") || words.any(|word| word == "bind" || word == "rbind")
}

/// Rules for a disk of the host, by its numbers, are meant for the one that stands for it.
fn renumber(rules: &mut [LinuxDeviceCgroup], moved: &BTreeMap<Number, Number>) {
    for rule in rules {
        let (Some(LinuxDeviceType::B), Some(major), Some(minor)) =
            (rule.typ(), rule.major(), rule.minor())
        else {
            continue;
        };
        if let Some((major, minor)) = moved.get(&(major, minor)) {
            rule.set_major(Some(*major));
            rule.set_minor(Some(*minor));
        }
    }
}

fn rule((major, minor): Number, writable: bool) -> LinuxDeviceCgroup {
    LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(LinuxDeviceType::B)
        .major(major)
        .minor(minor)
        .access(if writable { "rw" } else { "r" })
        .build()
        .expect("every field has a default")
}

/// Mounts the file systems on disks; in the plan only their trees are left of them.
///
/// # Errors
/// The first that cannot be mounted, by its destination.
pub fn trees(steps: &mut [MountStep], disks: &[Disk]) -> Result<Vec<(usize, OwnedFd)>> {
    let mut trees = Vec::new();
    for step in steps {
        let of_step = |disk: &&Disk| disk.purpose == DiskPurpose::Mount(step.index);
        let (Some(disk), MountWhat::FileSystem { .. }) = (disks.iter().find(of_step), &step.what)
        else {
            continue;
        };
        if trees.len() == TREES_MAX {
            return Err(Error::Invalid {
                what: format!("mount {} on {:?}", step.index, step.destination),
                why: format!("more than {TREES_MAX} file systems are on disks"),
            });
        }
        trees.push((step.index, mount(step, disk)?));
        step.what = MountWhat::Tree;
    }
    Ok(trees)
}

fn mount(step: &MountStep, disk: &Disk) -> Result<OwnedFd> {
    let MountWhat::FileSystem {
        kind, flags, data, ..
    } = &step.what
    else {
        unreachable!("only file systems are mounted");
    };
    let about = || {
        let (index, destination) = (step.index, &step.destination);
        let node = disk.node.display();
        format!("mount {index} on {destination:?}: mount {kind} of {node}")
    };
    let option = |word: &str| format!("{}: option {word:?}", about());
    let flags = u64::from(*flags);
    let context = fsopen(kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC).doing(about)?;
    let context = context.as_fd();
    fsconfig_set_string(context, c"source", &disk.node).doing(about)?;
    if !disk.writable || flags & libc::MS_RDONLY != 0 {
        fsconfig_set_flag(context, c"ro").doing(about)?;
    }
    for (_, word) in OF_FILE_SYSTEM.iter().filter(|(one, _)| flags & one != 0) {
        fsconfig_set_flag(context, *word).doing(about)?;
    }
    let data = data
        .as_deref()
        .map(CStr::to_string_lossy)
        .unwrap_or_default();
    for word in data.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context, key, value),
            None => fsconfig_set_flag(context, word),
        }
        .doing(|| option(word))?;
    }
    fsconfig_create(context).doing(about)?;
    let attributes = OF_MOUNT.iter().filter(|(one, _)| flags & one != 0);
    let attributes = attributes.fold(0, |all, (_, one)| all | one);
    let attributes = u32::try_from(attributes).expect("they have 32 bits");
    let attributes = MountAttrFlags::from_bits_retain(attributes);
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).doing(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_for_disks_of_the_host_are_for_those_that_stand_for_them() {
        let rules = r#"[{"allow":true,"type":"b","major":7,"minor":0,"access":"r"},
            {"allow":true,"type":"b","major":254,"minor":1,"access":"w"},
            {"allow":true,"type":"c","major":7,"minor":0,"access":"rw"},
            {"allow":false,"access":"rwm"}]"#;
        let mut rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(rules).unwrap();
        // The guest's number of the one is the host's number of the other.
        let moved = BTreeMap::from([((7, 0), (254, 1)), ((254, 1), (254, 2))]);

        renumber(&mut rules, &moved);

        let numbers: Vec<_> = rules.iter().map(|one| (one.major(), one.minor())).collect();
        let expected = [
            (Some(254), Some(1)),
            (Some(254), Some(2)),
            (Some(7), Some(0)),
            (None, None),
        ];
        assert_eq!(numbers, expected);
    }

    #[test]
    fn a_disk_that_is_none_or_for_nothing_is_named() {
        let disk = |node: &str, purpose| Disk {
            node: node.into(),
            purpose,
            writable: true,
        };
        let mut config = Spec::default();

        let file = stand_in(&mut config, &[disk("/dev/null", DiskPurpose::Mount(0))]);
        let missing = stand_in(&mut config, &[disk("/dev/none", DiskPurpose::Device(0))]);
        let nothing = nothing_for(&disk("/dev/vdb", DiskPurpose::Device(3)), "device");

        for refused in [file, missing] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.starts_with("look at disk \"/dev/n"), "{refused}");
        }
        assert_eq!(
            nothing.to_string(),
            "disk \"/dev/vdb\" for device 3: there is no such device"
        );
    }
}
