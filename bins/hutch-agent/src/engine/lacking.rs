//! Devices that config.json names and this kernel does not have. Their numbers come from a host that may have more: the
//! nodes are made, since a program may only look whether they are there, but whoever opens one finds nothing.

use super::{
    lower::is_default_device,
    plan::{DeviceKind, DeviceNode},
    spec::Warnings,
};
use std::path::Path;

/// The kernel shows each character device here by its numbers.
pub const SHOWN: &str = "/sys/dev/char";
/// Ends of pseudo terminals come and go with their other ends, and the kernel shows none of them.
const TERMINALS: std::ops::RangeInclusive<u32> = 136..=143;
/// A privileged container lists all that its host has.
const NAMED_MAX: usize = 8;

/// One warning for all of them.
pub fn warn(nodes: &[DeviceNode], shown: &Path, warnings: &mut Warnings) {
    let lacking: Vec<&DeviceNode> = nodes
        .iter()
        .filter(|node| node.kind == DeviceKind::Char && !TERMINALS.contains(&node.major))
        .filter(|node| !is_default_device(node))
        .filter(|node| {
            !shown
                .join(format!("{}:{}", node.major, node.minor))
                .exists()
        })
        .collect();
    // Without sysfs nobody knows.
    if lacking.is_empty() || !shown.is_dir() {
        return;
    }
    let named: Vec<String> = lacking
        .iter()
        .take(NAMED_MAX)
        .map(|node| format!("{:?} ({}:{})", node.path, node.major, node.minor))
        .collect();
    let more = match lacking.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    warnings.push(format!(
        "linux.devices: the guest's kernel has no {}{more}: their nodes open nothing",
        named.join(", ")
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn node(path: &str, kind: DeviceKind, major: u32, minor: u32) -> DeviceNode {
        DeviceNode {
            path: path.to_owned(),
            kind,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
            guest_path: None,
        }
    }

    fn warned(nodes: &[DeviceNode]) -> Warnings {
        let shown = tempfile::tempdir().unwrap();
        fs::write(shown.path().join("1:11"), "").unwrap();
        let mut warnings = Warnings::new();
        warn(nodes, shown.path(), &mut warnings);
        warnings
    }

    #[test]
    fn character_devices_that_the_kernel_does_not_show_are_named_in_one_warning() {
        let warnings = warned(&[
            node("/dev/kmsg", DeviceKind::Char, 1, 11),
            node("/dev/kvm", DeviceKind::Char, 10, 232),
            node("/dev/disk", DeviceKind::Block, 8, 0),
            node("/dev/pipe", DeviceKind::Fifo, 0, 0),
            node("/dev/tty7", DeviceKind::Char, 4, 7),
        ]);

        assert_eq!(
            warnings,
            [
                r#"linux.devices: the guest's kernel has no "/dev/kvm" (10:232), "/dev/tty7" (4:7): their nodes open nothing"#
            ]
        );
    }

    #[test]
    fn a_host_that_has_a_hundred_more_makes_no_line_of_a_hundred() {
        let all: Vec<_> = (0..100)
            .map(|minor| node("/dev/x", DeviceKind::Char, 60, minor))
            .collect();

        let warnings = warned(&all);

        let [warning] = warnings.as_slice() else {
            panic!("{warnings:?}")
        };
        assert!(
            warning.contains("(60:7) and 92 more: their nodes"),
            "{warning}"
        );
    }

    #[test]
    fn what_the_kernel_has_or_never_shows_is_not_warned_of() {
        let kmsg = node("/dev/kmsg", DeviceKind::Char, 1, 11);
        let terminal = node("/dev/pts/0", DeviceKind::Char, 136, 0);
        assert_eq!(warned(&[kmsg, terminal]), Warnings::new());
        // Not looked for: there is no guest without it.
        let null = node("/dev/null", DeviceKind::Char, 1, 3);
        assert_eq!(warned(&[null]), Warnings::new());

        let mut warnings = Warnings::new();
        let kvm = node("/dev/kvm", DeviceKind::Char, 10, 232);
        warn(&[kvm], Path::new("/nonexistent"), &mut warnings);
        assert_eq!(warnings, Warnings::new());
    }
}
