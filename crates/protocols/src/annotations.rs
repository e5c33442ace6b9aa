//! Annotations by which a sandbox is asked for: of its own creation, or in the config.json of the container that it is made for.

/// What all of ours begin with.
pub const OURS: &str = "dev.hutch.";
/// What boots in it: `hutch` or `kata`.
pub const GUEST_PROFILE: &str = "dev.hutch.guest-profile";
/// Its processors.
pub const VCPUS: &str = "dev.hutch.vcpus";
/// Its memory in MiB.
pub const MEMORY_MIB: &str = "dev.hutch.memory-mib";
/// All of them.
pub const ALL: [&str; 3] = [GUEST_PROFILE, MEMORY_MIB, VCPUS];
