//! What each key of the configuration means, for `hutchd config show`.

/// Section and key, and one line about it. A test keeps this complete.
pub const KEYS: &[(&str, &str, &str)] = &[
    (
        "guest",
        "profile",
        "hutch or kata: what boots in a sandbox that asks for none (docs/kata-guest.md).",
    ),
    (
        "guest",
        "kernel",
        "Guest kernel: an uncompressed vmlinux with a PVH entry.",
    ),
    (
        "guest",
        "initrd",
        "Initramfs that holds the agent as /init.",
    ),
    (
        "guest",
        "kernel_params",
        "Appended to the guest's kernel command line.",
    ),
    ("guest", "vcpus", "Processors of a sandbox; 1 to 16."),
    (
        "guest",
        "memory_mib",
        "Memory of a sandbox in MiB; 64 to 524288.",
    ),
    (
        "guest",
        "channel",
        "auto, serial, vsock or hybrid-vsock: how host and guest talk; auto takes vsock where \
         /dev/vhost-vsock opens, else serial.",
    ),
    (
        "kata",
        "kernel",
        "Kernel of a guest with a stock Kata agent; empty: there is no such guest.",
    ),
    (
        "kata",
        "initrd",
        "Initramfs that holds the agent as /init, or what the image needs to be mounted; may be empty.",
    ),
    (
        "kata",
        "image",
        "Disk image with a root file system that holds the agent: the first disk, read-only; may be \
         empty.",
    ),
    (
        "kata",
        "kernel_params",
        "Appended to that guest's kernel command line; its agent needs the unified cgroup hierarchy.",
    ),
    (
        "kata",
        "vcpus",
        "Processors of a sandbox with that guest; 1 to 16.",
    ),
    (
        "kata",
        "memory_mib",
        "Memory of a sandbox with that guest in MiB; 64 to 524288.",
    ),
    (
        "kata",
        "channel",
        "auto, serial, vsock or hybrid-vsock; auto takes vsock where /dev/vhost-vsock opens, else \
         hybrid-vsock: a stock agent listens on nothing else.",
    ),
    (
        "hypervisor",
        "qemu",
        "QEMU; a bare name is looked up in PATH.",
    ),
    (
        "hypervisor",
        "machine",
        "q35 or microvm; q35 takes devices while it runs (docs/adr/0004-machine-type.md).",
    ),
    (
        "hypervisor",
        "accelerator",
        "auto, kvm or tcg; auto proves that KVM boots a guest before it uses it.",
    ),
    (
        "hypervisor",
        "vsock_backend",
        "vhost-device-vsock, which carries guest.channel = \"hybrid-vsock\"; nothing else needs it.",
    ),
    (
        "share",
        "virtiofsd",
        "The Rust virtiofsd, through which directories reach a guest.",
    ),
    (
        "containers",
        "sigterm_kills",
        "SIGKILL follows at once on a SIGTERM that `kill` sends to a container's init, as Kata's runtime once had it; \
         else SIGTERM goes alone. `stop` gives its time either way.",
    ),
    (
        "log",
        "level",
        "error, warn, info, debug or trace; or directives such as info,hypervisor=debug.",
    ),
    ("log", "format", "text for people or json for programs."),
];

/// `None`: there is no such key.
pub fn about(section: &str, key: &str) -> Option<&'static str> {
    let mut keys = KEYS.iter();
    let found = keys.find(|(at, name, _)| *at == section && *name == key);
    found.map(|(_, _, about)| *about)
}
