//! Disks of the host that config.json names: as the sources of file systems, and as devices. Which of
//! them are there is not looked at here.

use oci_spec::runtime::{Linux, LinuxDeviceCgroup, LinuxDeviceType, Mount};
use runtime_core::{
    devices::{BindSpec, Purpose},
    error::Fault,
};
use std::path::PathBuf;

/// What is on a disk; others are made of nothing, or of a network.
const ON_DISK: [&str; 13] = [
    "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "ntfs3", "squashfs",
    "udf", "vfat", "xfs",
];

pub(super) fn is_file_system(mount: &Mount) -> bool {
    mount
        .typ()
        .as_deref()
        .is_some_and(|kind| ON_DISK.contains(&kind))
}

/// The block devices among linux.devices that are the host's to give. A container that may use every
/// device there is (a privileged one, whose engine lists all that the host has) gets those of its
/// guest, and no disk that nobody named.
///
/// # Errors
/// `Invalid`: numbers that no device has.
pub(super) fn devices(linux: &Linux) -> Result<Vec<BindSpec>, Fault> {
    let rules = linux
        .resources()
        .as_ref()
        .and_then(|all| all.devices().as_deref());
    let rules = rules.unwrap_or_default();
    let may_all = rules.iter().any(allows_all);
    let mut binds = Vec::new();
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        if device.typ() != LinuxDeviceType::B {
            continue;
        }
        let (major, minor) = (device.major(), device.minor());
        let named = |rule: &&LinuxDeviceCgroup| {
            rule.allow()
                && rule.typ() == Some(LinuxDeviceType::B)
                && (rule.major(), rule.minor()) == (Some(major), Some(minor))
        };
        let mut named = rules.iter().filter(named).peekable();
        if may_all && named.peek().is_none() {
            continue;
        }
        let wrong = || {
            let path = device.path().display().to_string();
            Fault::invalid(format!(
                "linux.devices[{index}] ({path:?}): {major}:{minor} are no numbers of a device"
            ))
        };
        let (major, minor) = (u32::try_from(major), u32::try_from(minor));
        let (Ok(major), Ok(minor)) = (major, minor) else {
            return Err(wrong());
        };
        // A device that no rule is about is there to be used: a VM has no other reason to get it.
        let read_only = named.peek().is_some() && !named.any(may_write);
        binds.push(BindSpec {
            index: u32::try_from(index).map_err(|_| wrong())?,
            source: PathBuf::from(format!("/sys/dev/block/{major}:{minor}")),
            recursive: false,
            read_only,
            purpose: Purpose::Device,
        });
    }
    Ok(binds)
}

fn may_write(rule: &LinuxDeviceCgroup) -> bool {
    let access = rule.access().as_deref();
    access.is_none_or(|access| access.is_empty() || access.contains('w'))
}

fn allows_all(rule: &LinuxDeviceCgroup) -> bool {
    let any = matches!(
        rule.typ(),
        None | Some(LinuxDeviceType::A | LinuxDeviceType::B)
    );
    let wild = |number: Option<i64>| number.is_none_or(|number| number < 0);
    rule.allow() && any && wild(rule.major()) && wild(rule.minor()) && may_write(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn given(rules: serde_json::Value) -> Vec<(u32, String, bool)> {
        let linux: Linux = serde_json::from_value(json!({
            "devices": [
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
                {"path": "/dev/xvda", "type": "b", "major": 7, "minor": 3},
            ],
            "resources": {"devices": rules},
        }))
        .unwrap();
        let found = devices(&linux).unwrap().into_iter();
        found
            .map(|one| (one.index, one.source.display().to_string(), one.read_only))
            .collect()
    }

    #[test]
    fn a_disk_of_the_host_comes_with_the_access_that_rules_give_it() {
        let named = |access: &str| json!({"allow": true, "type": "b", "major": 7, "minor": 3, "access": access});
        let nothing = json!({"allow": false, "access": "rwm"});
        let sysfs = "/sys/dev/block/7:3".to_owned();

        for (rules, read_only) in [
            (json!([]), false),
            (json!([nothing]), false),
            (json!([nothing, named("rwm")]), false),
            (json!([nothing, named("r")]), true),
            (json!([named("r"), named("w")]), false),
        ] {
            assert_eq!(
                given(rules.clone()),
                [(1, sysfs.clone(), read_only)],
                "{rules}"
            );
        }
    }

    #[test]
    fn a_container_that_may_use_everything_gets_no_disk_that_nobody_named() {
        let everything = json!({"allow": true, "access": "rwm"});
        let named = json!({"allow": true, "type": "b", "major": 7, "minor": 3, "access": "rw"});

        assert_eq!(given(json!([everything])), []);
        assert_eq!(given(json!([everything, named])).len(), 1);
    }

    #[test]
    fn numbers_that_no_device_has_are_refused() {
        let linux: Linux = serde_json::from_value(json!({
            "devices": [{"path": "/dev/x", "type": "b", "major": -1, "minor": 3}],
        }))
        .unwrap();

        let refused = devices(&linux).unwrap_err();

        let said = "linux.devices[0] (\"/dev/x\"): -1:3 are no numbers of a device";
        assert_eq!(refused.to_string(), said);
    }
}
