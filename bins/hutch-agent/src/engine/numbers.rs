//! Limits of block devices by the numbers that these have on the host, which mean nothing, or another one, in a guest.

use super::{
    api::HostDevice,
    disks::{Number, number_of},
    error::Result,
};
use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, Spec};
use std::collections::{BTreeMap, BTreeSet};

/// Of one kind.
type Limits = Option<Vec<LinuxThrottleDevice>>;

/// Which of the guest's devices a container's limits are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Numbers {
    /// Those that they name.
    Guests,
    /// Those that stand for the host's that they name.
    Hosts(BTreeMap<Number, Number>),
}

impl Numbers {
    /// `None`: whoever wrote the limits knew the guest's.
    ///
    /// # Errors
    /// There is no such disk in the guest.
    pub fn of(devices: Option<&[HostDevice]>) -> Result<Self> {
        let Some(devices) = devices else {
            return Ok(Self::Guests);
        };
        let pair = |device: &HostDevice| Ok((device.number, number_of(&device.node)?));
        Ok(Self::Hosts(
            devices.iter().map(pair).collect::<Result<_>>()?,
        ))
    }

    /// As [`Self::stand_in`], for what a config says.
    pub fn stand_in_all(&self, config: &mut Spec, warnings: &mut Vec<String>) {
        let linux = config.linux_mut().as_mut();
        if let Some(resources) = linux.and_then(|linux| linux.resources_mut().as_mut()) {
            self.stand_in(resources, warnings);
        }
    }

    /// Makes limits name the guest's devices. Those of a device that the container does not have are left out, with a warning
    /// for each.
    pub fn stand_in(&self, resources: &mut LinuxResources, warnings: &mut Vec<String>) {
        let Self::Hosts(known) = self else {
            return;
        };
        let Some(mut io) = resources.block_io().clone() else {
            return;
        };
        let mut unknown = BTreeSet::new();
        let mut moved = |all: &Limits| {
            let all = all.as_ref()?.iter();
            let moved = all.filter_map(|one| moved(*one, known, &mut unknown));
            Some(moved.collect())
        };
        io.set_throttle_read_bps_device(moved(io.throttle_read_bps_device()));
        io.set_throttle_write_bps_device(moved(io.throttle_write_bps_device()));
        io.set_throttle_read_iops_device(moved(io.throttle_read_iops_device()));
        io.set_throttle_write_iops_device(moved(io.throttle_write_iops_device()));
        resources.set_block_io(Some(io));
        warnings.extend(unknown.into_iter().map(|(major, minor)| {
            format!(
                "linux.resources.blockIO: the container has no disk that is {major}:{minor} on the host, its limits are ignored"
            )
        }));
    }
}

fn moved(
    limit: LinuxThrottleDevice,
    known: &BTreeMap<Number, Number>,
    unknown: &mut BTreeSet<Number>,
) -> Option<LinuxThrottleDevice> {
    let number = (limit.major(), limit.minor());
    let Some((major, minor)) = known.get(&number) else {
        unknown.insert(number);
        return None;
    };
    let moved = LinuxThrottleDeviceBuilder::default()
        .major(*major)
        .minor(*minor)
        .rate(limit.rate());
    Some(moved.build().expect("every field has a default"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resources() -> Value {
        json!({"blockIO": {
            "weight": 500,
            "throttleReadBpsDevice": [
                {"major": 7, "minor": 0, "rate": 1},
                {"major": 8, "minor": 0, "rate": 2},
            ],
            "throttleWriteBpsDevice": [{"major": 254, "minor": 1, "rate": 3}],
            "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 4}],
            "throttleWriteIOPSDevice": [{"major": 7, "minor": 0, "rate": 5}],
        }})
    }

    fn stood_in(numbers: &Numbers) -> (Value, Vec<String>) {
        let mut resources = serde_json::from_value(resources()).unwrap();
        let mut warnings = Vec::new();
        numbers.stand_in(&mut resources, &mut warnings);
        (serde_json::to_value(resources).unwrap(), warnings)
    }

    #[test]
    fn limits_of_the_hosts_devices_are_for_the_disks_that_stand_for_them() {
        // The guest's number of the one is the host's number of the other.
        let known = BTreeMap::from([((7, 0), (254, 1)), ((254, 1), (254, 2))]);

        let (resources, warnings) = stood_in(&Numbers::Hosts(known));

        let due = json!({"blockIO": {
            "weight": 500,
            "throttleReadBpsDevice": [{"major": 254, "minor": 1, "rate": 1}],
            "throttleWriteBpsDevice": [{"major": 254, "minor": 2, "rate": 3}],
            "throttleReadIOPSDevice": [],
            "throttleWriteIOPSDevice": [{"major": 254, "minor": 1, "rate": 5}],
        }});
        assert_eq!(resources, due);
        let said = "linux.resources.blockIO: the container has no disk that is 8:0 on the host, its limits are ignored";
        assert_eq!(warnings, [said]);
    }

    #[test]
    fn limits_of_who_knows_the_guests_devices_stay_as_they_are() {
        let (stayed, warnings) = stood_in(&Numbers::of(None).unwrap());

        assert_eq!(stayed, resources());
        assert_eq!(warnings, Vec::<String>::new());
    }
}
