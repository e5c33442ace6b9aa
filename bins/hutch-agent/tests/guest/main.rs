//! The agent as PID 1 of a real guest, driven as a host drives it.
//!
//! Needs QEMU, Debian's busybox-static, a guest kernel and an initramfs with the agent:
//! `HUTCH_GUEST_TESTS=1 HUTCH_GUEST_KERNEL=… HUTCH_GUEST_INITRD=…`. Without the first, every
//! test says so and passes.

#![allow(clippy::unwrap_used)]

mod boot;
mod containers;
mod disk;
mod house;
mod kata;
mod link;
mod peer;
mod resources;
mod stdio;
mod vm;
