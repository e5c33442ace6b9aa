//! Device nodes: those that every container has, and those of config.json.

use super::{invalid, plain_path};
use crate::engine::{
    api::{Disk, DiskPurpose},
    error::Result,
    plan::{DeviceKind, DeviceNode},
};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

const DEFAULT_MODE: u32 = 0o666;

/// What the specification promises to every container.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The kernel of a guest has what every container has.
pub fn is_default(node: &DeviceNode) -> bool {
    let one = (node.path.as_str(), node.major, node.minor);
    node.kind == DeviceKind::Char && DEFAULTS.contains(&one)
}

/// Allowed whatever config.json says: the nodes above, terminals, and making any node.
const RULES: [(LinuxDeviceType, Option<i64>, Option<i64>, &str); 10] = [
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"),
    (LinuxDeviceType::C, Some(136), None, "rwm"),
];

/// # Errors
/// A device that makes no sense.
pub fn lower_devices(devices: &[LinuxDevice], disks: &[Disk]) -> Result<Vec<DeviceNode>> {
    let mut own: Vec<DeviceNode> = devices.iter().map(lower_device).collect::<Result<_>>()?;
    for disk in disks {
        if let DiskPurpose::Device(index) = disk.purpose
            && let Some(node) = own.get_mut(index)
        {
            node.guest_path = Some(plain_path(&disk.node, || "disk".to_owned())?);
        }
    }
    let mut all: Vec<DeviceNode> = DEFAULTS
        .iter()
        .filter(|(path, _, _)| own.iter().all(|node| node.path != *path))
        .map(|(path, major, minor)| DeviceNode {
            path: (*path).to_owned(),
            kind: DeviceKind::Char,
            major: *major,
            minor: *minor,
            mode: DEFAULT_MODE,
            uid: 0,
            gid: 0,
            guest_path: None,
        })
        .collect();
    all.extend(own);
    Ok(all)
}

fn lower_device(device: &LinuxDevice) -> Result<DeviceNode> {
    let path = plain_path(device.path(), || "device".to_owned())?;
    let what = || format!("device {path:?}");
    if !path.starts_with('/') {
        return invalid(what(), "its path is not absolute");
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => return invalid(what(), "its type is not one of c, u, b and p"),
    };
    let number = |number: i64, name: &str| {
        u32::try_from(number).or_else(|_| invalid(what(), format!("its {name} is not valid")))
    };
    Ok(DeviceNode {
        kind,
        major: number(device.major(), "major")?,
        minor: number(device.minor(), "minor")?,
        mode: device.file_mode().unwrap_or(DEFAULT_MODE) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        guest_path: None,
        path,
    })
}

/// Rules that come after those of config.json.
pub fn default_rules() -> Vec<LinuxDeviceCgroup> {
    RULES
        .iter()
        .map(|(kind, major, minor, access)| {
            let rule = LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .typ(*kind)
                .access(*access);
            let rule = match major {
                Some(major) => rule.major(*major),
                None => rule,
            };
            let rule = match minor {
                Some(minor) => rule.minor(*minor),
                None => rule,
            };
            rule.build().expect("every field has a default")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(json: &str) -> LinuxDevice {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_device_of_the_config_takes_the_place_of_a_default() {
        let null = device(r#"{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":420}"#);

        let nodes = lower_devices(&[null], &[]).unwrap();

        let nulls: Vec<_> = nodes
            .iter()
            .filter(|node| node.path == "/dev/null")
            .collect();
        assert_eq!(nulls.len(), 1);
        assert_eq!(nulls[0].mode, 0o644);
        assert_eq!(nodes.len(), DEFAULTS.len());
    }

    #[test]
    fn a_device_without_a_kind_is_refused() {
        let any = device(r#"{"path":"/dev/x","type":"a"}"#);

        let refused = lower_devices(&[any], &[]).unwrap_err();

        assert_eq!(
            refused.to_string(),
            r#"device "/dev/x": its type is not one of c, u, b and p"#
        );
    }
}
