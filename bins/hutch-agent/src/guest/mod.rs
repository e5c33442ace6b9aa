//! What the guest as a whole has: clock, randomness, processors, memory, loopback. Each is one small
//! reach into the kernel; mounts and trees of the host are all that is remembered here.

pub mod clock;
pub mod follow;
pub mod hotplug;
pub mod loopback;
pub mod storage;
