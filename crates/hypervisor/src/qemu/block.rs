//! How a block device is described to QEMU, at boot and later. Pure.

use crate::{
    error::InvalidSpec,
    qemu::command_line::{slot_bus, text},
};
use runtime_core::hypervisor::{BlockSpec, MachineType};
use serde_json::{Value, json};

/// virtio-blk hands the guest 20 bytes of serial number.
const SERIAL_BYTES_MAX: usize = 20;

/// What a path turned out to be; QEMU has a driver for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    File,
    HostDevice,
}

/// Refuses a serial that could not also be a QEMU id.
///
/// # Errors
/// Empty, too long, or an odd character.
pub fn check_serial(serial: &str) -> Result<(), InvalidSpec> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match (1..=SERIAL_BYTES_MAX).contains(&serial.len()) && serial.chars().all(plain) {
        true => Ok(()),
        false => Err(InvalidSpec::Serial {
            serial: serial.chars().take(64).collect(),
        }),
    }
}

pub fn node_name(serial: &str) -> String {
    format!("blk-{serial}")
}

pub fn device_id(serial: &str) -> String {
    format!("disk-{serial}")
}

/// The node behind the device. Locked: two VMs that write one image would destroy it.
///
/// # Errors
/// The path is not UTF-8.
pub fn node(block: &BlockSpec, backing: Backing) -> Result<Value, InvalidSpec> {
    let driver = match backing {
        Backing::File => "file",
        Backing::HostDevice => "host_device",
    };
    Ok(json!({
        "driver": "raw",
        "node-name": node_name(&block.serial),
        "read-only": block.read_only,
        "file": {
            "driver": driver,
            "filename": text(&block.path)?,
            "locking": "on",
        },
    }))
}

/// The device of a block that is there from the start, and stays.
pub fn fixed_device(block: &BlockSpec, machine: MachineType) -> Value {
    match machine {
        MachineType::Q35 => device(block, "virtio-blk-pci"),
        MachineType::Microvm => device(block, "virtio-blk-device"),
    }
}

/// The device of a block that may come later, and may go.
pub fn slot_device(block: &BlockSpec, slot: u32) -> Value {
    let mut device = device(block, "virtio-blk-pci");
    device["bus"] = slot_bus(slot).into();
    device
}

/// Errors go to the guest: QEMU's default would stop the whole VM on a full disk.
fn device(block: &BlockSpec, driver: &str) -> Value {
    json!({
        "driver": driver,
        "id": device_id(&block.serial),
        "drive": node_name(&block.serial),
        "serial": block.serial,
        "werror": "report",
        "rerror": "report",
    })
}
