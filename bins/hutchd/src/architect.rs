//! From a wish and the configuration to the spec of a sandbox: where everything of it will be.

use crate::{
    config::Config,
    profile::{Profile, Profiles},
};
use runtime_core::{
    container::ContainerSpec,
    devices::{BindSpec, Purpose, ShareSpec},
    host::{RootKind, SandboxWish},
    hypervisor::{Accelerator, BlockSpec, VmSpec},
    network::NetworkSpec,
    premises::{Cgroup, PremisesSpec},
    sandbox::SandboxSpec,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// What is the same for every sandbox of a daemon.
#[derive(Debug, Clone)]
pub struct Grounds {
    pub root: PathBuf,
    pub config: Config,
    pub accelerator: Accelerator,
    pub profiles: Profiles,
}

/// The guest finds it first; no device of a container's has such a serial.
const IMAGE_SERIAL: &str = "guest-image";

/// Below the caller's cgroup where one is named, so that its limits hold for the VM.
fn cgroup(wish: &SandboxWish, part: &str) -> Cgroup {
    match &wish.cgroup {
        Some(Cgroup(named)) => Cgroup(format!("{named}/hutch-{}-{part}", wish.uid)),
        None => Cgroup(format!("/hutch/{}/{part}", wish.uid)),
    }
}

/// Of a sandbox that is made for itself, or for its first container.
pub fn plan(grounds: &Grounds, wish: &SandboxWish, first: Option<&ContainerSpec>) -> SandboxSpec {
    let Grounds {
        root,
        config,
        accelerator,
        profiles,
    } = grounds;
    let profile = profile(profiles, wish, first);
    let folder = root.join("s").join(wish.uid.to_string());
    let (vmm, helpers) = (cgroup(wish, "vmm"), cgroup(wish, "helpers"));
    let channel = profile.channel.of(wish.uid, &helpers);
    SandboxSpec {
        uid: wish.uid,
        namespace: wish.namespace.clone(),
        id: wish.id.clone(),
        lifetime: wish.lifetime,
        created_by: wish.created_by.clone(),
        created: wish.created,
        hostname: wish.hostname.clone(),
        premises: PremisesSpec {
            uid: wish.uid,
            folder: folder.clone(),
            vmm: vmm.clone(),
            helpers: helpers.clone(),
            lodged: BTreeSet::new(),
        },
        network: NetworkSpec {
            uid: wish.uid,
            folder: folder.clone(),
            netns: wish.netns.clone(),
        },
        share: first
            .is_none_or(|first| needs_share(wish.root, first))
            .then(|| ShareSpec {
                uid: wish.uid,
                folder: folder.clone(),
                virtiofsd: config.share.virtiofsd.clone(),
                cgroup: helpers,
            }),
        vm: VmSpec {
            uid: wish.uid,
            folder,
            kernel: profile.kernel,
            initrd: profile.initrd,
            kernel_params: profile.kernel_params,
            vcpus: profile.size.vcpus,
            memory_mib: profile.size.memory_mib,
            machine: config.hypervisor.machine,
            accelerator: *accelerator,
            channel,
            stdio: profile.stdio,
            cgroup: vmm,
            netns: None,
            share_socket: None,
            blocks: profile.image.iter().map(|path| image(path)).collect(),
            own_blocks: profile.image.iter().count(),
        },
    }
}

/// Who asks for what is not there was refused before.
fn profile(profiles: &Profiles, wish: &SandboxWish, first: Option<&ContainerSpec>) -> Profile {
    let asked = first.map_or(&wish.annotations, |first| &first.annotations);
    let chosen = profiles.choose(asked);
    chosen.unwrap_or_else(|_| profiles.by_default().clone())
}

fn image(path: &Path) -> BlockSpec {
    BlockSpec {
        serial: IMAGE_SERIAL.to_owned(),
        path: path.to_owned(),
        read_only: true,
    }
}

/// A root file system that is an image, with nothing of the host in it but disks, needs no share. What a sandbox that
/// is made for itself will hold is not known yet.
fn needs_share(root: RootKind, first: &ContainerSpec) -> bool {
    let mut binds = first.devices.binds.iter();
    let shared = |bind: &BindSpec| match bind.purpose {
        Purpose::Mount | Purpose::HookProgram => true,
        Purpose::FileSystem | Purpose::Device => false,
    };
    binds.any(shared) || root == RootKind::Directory
}
