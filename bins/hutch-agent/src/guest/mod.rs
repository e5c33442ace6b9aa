//! What the guest as a whole has: clock, randomness, processors, memory, loopback. Each is one small
//! reach into the kernel; nothing is remembered here.

pub mod clock;
pub mod hotplug;
pub mod loopback;
pub mod storage;
