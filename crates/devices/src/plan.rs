//! Decides how a container's root file system and host mounts reach its guest. Pure: what the
//! host looks like comes in as a [`Survey`], the decision goes out as a [`Plan`].
//!
//! A directory goes through the share, an image or block device through virtio-blk. Whatever
//! cannot enter a VM is refused by name, with the reason. One disk of the host is one disk of the
//! guest, however often a container names it: QEMU locks what it writes.

use crate::steps::{Access, Bind, Depth, Shape};
use runtime_core::{
    agent::{
        DeviceNumber, DiskPurpose, FsType, GuestDevice, GuestDisk, GuestHookProgram, GuestMount,
        GuestRootfs,
    },
    devices::{Attached, BindSpec, ContainerDevices, Purpose},
    error::{Classify, Kind},
    hypervisor::BlockSpec,
    ids::ContainerNumber,
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsStr,
    fmt,
    path::{Component, Path, PathBuf},
};

/// A pod has some twenty mounts; each costs a host mount in two namespaces, and the kernel ends
/// at 100,000 per namespace.
pub const BINDS_MAX: usize = 512;

/// How the name of a place begins at which copies are.
const COPIES: &str = "w";

/// A pod has a token and a few ConfigMaps and Secrets; each has at most two copies of 2 MiB in
/// the host's memory. Further ones are plain binds.
pub const COPIES_MAX: usize = 32;

/// Each takes a slot of its VM, which has fewer; this only bounds what is looked at.
pub const DISKS_MAX: usize = 16;

/// virtio-blk hands a serial of at most 20 bytes to the guest.
pub const SERIAL_BYTES_MAX: usize = 20;

/// What the host has where a container's paths point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The bundle's own resolved path.
    pub bundle: PathBuf,
    pub root: Source,
    /// One for each bind of the request, in its order.
    pub binds: Vec<Source>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Every link followed; the path as given where nothing is there.
    pub path: PathBuf,
    pub nature: Nature,
    /// Of a block device.
    pub number: Option<DeviceNumber>,
    pub habit: Habit,
}

/// How somebody changes a directory on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    Unknown,
    /// In whole sets, by one rename, as Kubernetes does; and it is small enough to be copied.
    Published,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    Missing,
    Directory,
    /// A file; the file system in it, by its magic number.
    File(Option<FsType>),
    BlockDevice(Option<FsType>),
    CharDevice,
    Socket,
    Fifo,
}

/// How one container is attached: the binds in order, and what the guest is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub binds: Vec<Bind>,
    pub attached: Attached,
}

impl Plan {
    /// What is kept up to date.
    pub fn copies(&self) -> impl Iterator<Item = &Bind> {
        let all = self.binds.iter();
        all.filter(|bind| bind.shape == Shape::Copies)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("root.path is empty")]
    RootEmpty,
    #[error("bundle {0:?} is not a directory")]
    Bundle(PathBuf),
    #[error("root {root:?} does not exist")]
    RootMissing { root: PathBuf },
    #[error("root {root:?} is a link out of the bundle, to {to:?}")]
    RootLeavesBundle { root: PathBuf, to: PathBuf },
    #[error(
        "root {root:?} is {nature}; a directory, or an ext4 or erofs image or block device is needed"
    )]
    RootNature { root: PathBuf, nature: Nature },
    #[error("{what}: source {path:?} does not exist")]
    SourceMissing { what: String, path: PathBuf },
    #[error("{what}: source {path:?} is {nature}, which cannot enter a VM")]
    SourceNature {
        what: String,
        path: PathBuf,
        nature: Nature,
    },
    #[error("{what}: source {path:?} is {nature}; a block device or an image is needed")]
    NoDisk {
        what: String,
        path: PathBuf,
        nature: Nature,
    },
    #[error("{what} names one disk too many; at most {DISKS_MAX} are possible")]
    TooManyDisks { what: String },
    #[error("{what} needs a share, and the sandbox has none open")]
    NoShare { what: String },
    #[error("{found} host mounts; at most {BINDS_MAX} are allowed")]
    TooManyBinds { found: usize },
}

impl Classify for Refusal {
    fn kind(&self) -> Kind {
        match self {
            Self::RootEmpty
            | Self::Bundle(_)
            | Self::RootMissing { .. }
            | Self::RootLeavesBundle { .. }
            | Self::RootNature { .. }
            | Self::SourceMissing { .. }
            | Self::NoDisk { .. } => Kind::Invalid,
            Self::SourceNature { .. } => Kind::Unsupported,
            Self::NoShare { .. } => Kind::Denied,
            Self::TooManyBinds { .. } | Self::TooManyDisks { .. } => Kind::Exhausted,
        }
    }
}

impl fmt::Display for Nature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Directory => "a directory",
            Self::File(None) => "a file without an ext4 or erofs file system",
            Self::File(Some(FsType::Ext4)) => "an ext4 image",
            Self::File(Some(FsType::Erofs)) => "an erofs image",
            Self::BlockDevice(None) => "a block device without an ext4 or erofs file system",
            Self::BlockDevice(Some(_)) => "a block device",
            Self::CharDevice => "a character device",
            Self::Socket => "a socket",
            Self::Fifo => "a fifo",
        })
    }
}

/// Plans one container. `share` is the sandbox's folder where its share is open.
///
/// # Errors
/// Something of it cannot enter the VM.
pub fn plan(
    devices: &ContainerDevices,
    survey: &Survey,
    share: Option<&Path>,
) -> Result<Plan, Refusal> {
    if devices.binds.len() > BINDS_MAX {
        let found = devices.binds.len();
        return Err(Refusal::TooManyBinds { found });
    }
    assert_eq!(
        devices.binds.len(),
        survey.binds.len(),
        "a survey has one source for each bind"
    );
    let number = devices.container;
    let mut plan = root(devices, survey, share)?;
    let mut copied = 0;
    for (spec, source) in devices.binds.iter().zip(&survey.binds) {
        let index = spec.index;
        let attached = &mut plan.attached;
        match way(spec, source)? {
            Way::Disk(purpose) => {
                let disk = disk(number, spec, source, purpose, &mut attached.blocks)?;
                let known = &attached.devices;
                let device = device(&disk.serial, source).filter(|one| !known.contains(one));
                attached.devices.extend(device);
                attached.disks.push(disk);
            }
            Way::Program => {
                let share_path = format!("{number}/h{index}");
                let bind = bind(spec, source, share, share_path.clone(), Shape::File)?;
                let program = GuestHookProgram { index, share_path };
                attached.hook_programs.push(program);
                plan.binds.push(bind);
            }
            Way::Shared(shape) => {
                let share_path = format!("{number}/m{index}");
                let bind = bind(spec, source, share, share_path.clone(), shape)?;
                let copies = copies(number, spec, source, &bind).filter(|_| copied < COPIES_MAX);
                copied += copies.iter().len();
                attached.mounts.push(GuestMount {
                    index,
                    share_path,
                    copies_path: copies.as_ref().map(|copies| copies.place.clone()),
                });
                plan.binds.push(bind);
                plan.binds.extend(copies);
            }
        }
    }
    Ok(plan)
}

fn bind(
    spec: &BindSpec,
    source: &Source,
    share: Option<&Path>,
    place: String,
    shape: Shape,
) -> Result<Bind, Refusal> {
    let folder = share.ok_or_else(|| Refusal::NoShare {
        what: format!("{} ({:?})", Named(spec), spec.source),
    })?;
    Ok(Bind {
        folder: folder.to_owned(),
        place,
        source: source.path.clone(),
        shape,
        depth: match spec.recursive {
            true => Depth::Recursive,
            false => Depth::Top,
        },
        access: access(spec.read_only),
    })
}

/// For errors: where config.json names it.
struct Named<'a>(&'a BindSpec);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindSpec { purpose, index, .. } = self.0;
        match purpose {
            Purpose::Mount | Purpose::FileSystem => write!(f, "mount {index}"),
            Purpose::HookProgram => write!(f, "hooks.createContainer[{index}]"),
            Purpose::Device => write!(f, "linux.devices[{index}]"),
        }
    }
}

/// What is published whole must be seen whole, which no cache of a shared directory grants: the
/// guest gets copies besides. Only where it may not write: a copy goes one way.
fn copies(number: ContainerNumber, spec: &BindSpec, source: &Source, bind: &Bind) -> Option<Bind> {
    let copied = (source.nature, source.habit) == (Nature::Directory, Habit::Published);
    (copied && spec.read_only).then(|| Bind {
        place: format!("{number}/{COPIES}{}", spec.index),
        shape: Shape::Copies,
        depth: Depth::Top,
        ..bind.clone()
    })
}

/// Whether a place has this name because copies are there.
pub fn holds_copies(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(COPIES.as_bytes())
}

fn root(
    devices: &ContainerDevices,
    survey: &Survey,
    share: Option<&Path>,
) -> Result<Plan, Refusal> {
    let root = devices.root.clone();
    if root.as_os_str().is_empty() {
        return Err(Refusal::RootEmpty);
    }
    let nature = survey.root.nature;
    // OCI: absolute, or relative to the bundle. Where the text itself says `..`, the caller
    // means it; a link is what an image or a guest may have planted.
    if nature != Nature::Missing
        && stays_below(&root)
        && !survey.root.path.starts_with(&survey.bundle)
    {
        let to = survey.root.path.clone();
        return Err(Refusal::RootLeavesBundle { root, to });
    }
    match nature {
        Nature::Missing => Err(Refusal::RootMissing { root }),
        Nature::Directory => {
            let folder = share.ok_or_else(|| Refusal::NoShare {
                what: format!("root {root:?}"),
            })?;
            Ok(shared_root(devices, survey, folder))
        }
        Nature::File(Some(fs_type)) | Nature::BlockDevice(Some(fs_type)) => {
            Ok(block_root(devices, survey, fs_type))
        }
        Nature::File(None)
        | Nature::BlockDevice(None)
        | Nature::CharDevice
        | Nature::Socket
        | Nature::Fifo => Err(Refusal::RootNature { root, nature }),
    }
}

fn shared_root(devices: &ContainerDevices, survey: &Survey, folder: &Path) -> Plan {
    let place = format!("{}/rootfs", devices.container);
    let bind = Bind {
        folder: folder.to_owned(),
        place: place.clone(),
        source: survey.root.path.clone(),
        shape: Shape::Directory,
        // As runc binds it: what is mounted below a rootfs belongs to it.
        depth: Depth::Recursive,
        access: access(devices.root_read_only),
    };
    Plan {
        binds: vec![bind],
        attached: Attached {
            rootfs: GuestRootfs::Share(place),
            mounts: Vec::new(),
            hook_programs: Vec::new(),
            disks: Vec::new(),
            devices: Vec::new(),
            blocks: Vec::new(),
        },
    }
}

fn block_root(devices: &ContainerDevices, survey: &Survey, fs_type: FsType) -> Plan {
    let serial = root_serial(devices.container);
    // erofs has no other access; QEMU locks an image that it may write.
    let read_only = devices.root_read_only || fs_type == FsType::Erofs;
    Plan {
        binds: Vec::new(),
        attached: Attached {
            rootfs: GuestRootfs::Block {
                serial: serial.clone(),
                fs_type,
                read_only,
            },
            mounts: Vec::new(),
            hook_programs: Vec::new(),
            disks: Vec::new(),
            devices: device(&serial, &survey.root).into_iter().collect(),
            blocks: vec![BlockSpec {
                serial,
                path: survey.root.path.clone(),
                read_only,
            }],
        },
    }
}

/// The name by which the guest finds a root disk, whatever slot it landed in. Container numbers
/// are never reused, so neither are serials: no index has to be kept.
fn root_serial(container: ContainerNumber) -> String {
    let serial = format!("hutch-r{container}");
    assert!(serial.len() <= SERIAL_BYTES_MAX, "a number has ten digits");
    serial
}

/// What of the host's this disk stands for, if it is a device there.
fn device(serial: &str, source: &Source) -> Option<GuestDevice> {
    let serial = serial.to_owned();
    let number = source.number?;
    Some(GuestDevice { serial, number })
}

/// How a source comes into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A mount of the share.
    Shared(Shape),
    /// The program of a hook, through the share.
    Program,
    Disk(DiskPurpose),
}

fn way(spec: &BindSpec, source: &Source) -> Result<Way, Refusal> {
    let (what, path) = (Named(spec).to_string(), spec.source.clone());
    let mount = Way::Disk(DiskPurpose::Mount(spec.index));
    match (source.nature, spec.purpose) {
        (Nature::Directory, Purpose::Mount) => Ok(Way::Shared(Shape::Directory)),
        (Nature::File(_), Purpose::Mount) => Ok(Way::Shared(Shape::File)),
        (Nature::File(_), Purpose::HookProgram) => Ok(Way::Program),
        (Nature::BlockDevice(_), Purpose::Mount | Purpose::FileSystem) => Ok(mount),
        (Nature::File(_), Purpose::FileSystem) => Ok(mount),
        (Nature::BlockDevice(_), Purpose::Device) => Ok(Way::Disk(DiskPurpose::Device(spec.index))),
        (Nature::Missing, _) => Err(Refusal::SourceMissing { what, path }),
        (
            nature @ (Nature::Directory
            | Nature::File(_)
            | Nature::CharDevice
            | Nature::Socket
            | Nature::Fifo),
            Purpose::FileSystem | Purpose::Device,
        ) => Err(Refusal::NoDisk { what, path, nature }),
        (
            nature @ (Nature::Directory
            | Nature::BlockDevice(_)
            | Nature::CharDevice
            | Nature::Socket
            | Nature::Fifo),
            Purpose::Mount | Purpose::HookProgram,
        ) => Err(Refusal::SourceNature { what, path, nature }),
    }
}

/// The disk for one thing of config.json: one that the container has already, or one more.
fn disk(
    number: ContainerNumber,
    spec: &BindSpec,
    source: &Source,
    purpose: DiskPurpose,
    blocks: &mut Vec<BlockSpec>,
) -> Result<GuestDisk, Refusal> {
    // erofs has no other access.
    let erofs = matches!(
        source.nature,
        Nature::File(Some(FsType::Erofs)) | Nature::BlockDevice(Some(FsType::Erofs))
    );
    let read_only = spec.read_only || erofs;
    let of = |serial: &str| GuestDisk {
        serial: serial.to_owned(),
        read_only,
        purpose,
    };
    if let Some(known) = blocks.iter_mut().find(|block| block.path == source.path) {
        known.read_only &= read_only;
        return Ok(of(&known.serial));
    }
    if blocks.len() == DISKS_MAX {
        let what = Named(spec).to_string();
        return Err(Refusal::TooManyDisks { what });
    }
    let serial = format!("hutch-v{number}-{}", blocks.len());
    assert!(serial.len() <= SERIAL_BYTES_MAX, "a number has ten digits");
    blocks.push(BlockSpec {
        serial: serial.clone(),
        path: source.path.clone(),
        read_only,
    });
    Ok(of(&serial))
}

fn access(read_only: bool) -> Access {
    match read_only {
        true => Access::ReadOnly,
        false => Access::ReadWrite,
    }
}

/// A relative path whose text never climbs above where it starts.
fn stays_below(path: &Path) -> bool {
    let mut depth = 0_usize;
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FOLDER: &str = "/run/hutch/s/0123456789abcdef";

    fn devices(root: &str, binds: Vec<BindSpec>) -> ContainerDevices {
        ContainerDevices {
            container: ContainerNumber(3),
            bundle: "/b".into(),
            root: root.into(),
            root_read_only: false,
            binds,
        }
    }

    fn bind(index: u32, source: &str) -> BindSpec {
        BindSpec {
            index,
            source: source.into(),
            recursive: index.is_multiple_of(2),
            read_only: index > 4,
            purpose: Purpose::Mount,
        }
    }

    fn at(path: &str, nature: Nature) -> Source {
        Source {
            path: path.into(),
            nature,
            number: None,
            habit: Habit::Unknown,
        }
    }

    fn survey(root: Source, binds: Vec<Source>) -> Survey {
        Survey {
            bundle: "/b".into(),
            root,
            binds,
        }
    }

    fn share() -> Option<&'static Path> {
        Some(Path::new(FOLDER))
    }

    #[test]
    fn a_directory_goes_through_the_share() {
        let plan = plan(
            &devices("rootfs", vec![]),
            &survey(at("/b/rootfs", Nature::Directory), vec![]),
            share(),
        )
        .unwrap();

        assert_eq!(
            plan.attached.rootfs,
            GuestRootfs::Share("3/rootfs".to_owned())
        );
        assert_eq!(plan.attached.blocks, []);
        let [root] = &plan.binds[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(root.source, Path::new("/b/rootfs"));
        assert_eq!(
            (root.depth, root.shape),
            (Depth::Recursive, Shape::Directory)
        );
    }

    #[test]
    fn an_image_goes_through_virtio_blk_and_needs_no_share() {
        for (nature, fs_type, read_only) in [
            (Nature::File(Some(FsType::Ext4)), FsType::Ext4, false),
            (Nature::File(Some(FsType::Erofs)), FsType::Erofs, true),
            (Nature::BlockDevice(Some(FsType::Ext4)), FsType::Ext4, false),
        ] {
            let survey = survey(at("/img/root", nature), vec![]);

            let plan = plan(&devices("/img/root", vec![]), &survey, None).unwrap();

            let block = BlockSpec {
                serial: "hutch-r3".to_owned(),
                path: "/img/root".into(),
                read_only,
            };
            let rootfs = GuestRootfs::Block {
                serial: block.serial.clone(),
                fs_type,
                read_only,
            };
            assert_eq!(plan.attached.rootfs, rootfs);
            assert_eq!(plan.attached.blocks, [block]);
            assert_eq!(plan.binds, []);
        }
    }

    #[test]
    fn the_longest_serial_fits_into_what_virtio_gives() {
        assert!(root_serial(ContainerNumber(u32::MAX)).len() <= SERIAL_BYTES_MAX);
    }

    #[test]
    fn directories_and_files_are_bound_by_the_index_of_their_mount() {
        let request = devices("rootfs", vec![bind(4, "/data"), bind(7, "/etc/hosts")]);
        let survey = survey(
            at("/b/rootfs", Nature::Directory),
            vec![
                at("/srv/data", Nature::Directory),
                at("/etc/hosts", Nature::File(None)),
            ],
        );

        let plan = plan(&request, &survey, share()).unwrap();

        let told: Vec<_> = plan.attached.mounts.iter().collect();
        assert_eq!((told[0].index, &*told[0].share_path), (4, "3/m4"));
        assert_eq!((told[1].index, &*told[1].share_path), (7, "3/m7"));
        let [_, data, hosts] = &plan.binds[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(data.source, Path::new("/srv/data"));
        assert_eq!(
            (data.depth, data.access),
            (Depth::Recursive, Access::ReadWrite)
        );
        assert_eq!((hosts.depth, hosts.access), (Depth::Top, Access::ReadOnly));
        assert_eq!(hosts.shape, Shape::File);
    }

    #[test]
    fn what_is_published_whole_is_copied_besides_where_the_guest_only_reads() {
        let published = Source {
            habit: Habit::Published,
            ..at("/vol", Nature::Directory)
        };
        let request = devices("rootfs", vec![bind(4, "/vol"), bind(7, "/vol")]);
        let sources = vec![published.clone(), published];
        let survey = survey(at("/b/rootfs", Nature::Directory), sources);

        let plan = plan(&request, &survey, share()).unwrap();

        let told = |index: usize| plan.attached.mounts[index].copies_path.as_deref();
        assert_eq!((told(0), told(1)), (None, Some("3/w7")));
        let copies: Vec<_> = plan.copies().collect();
        assert_eq!(copies.len(), 1);
        assert_eq!(copies[0].place, "3/w7");
        assert_eq!(copies[0].source, Path::new("/vol"));
        assert_eq!(plan.binds.len(), 4);
    }

    #[test]
    fn of_very_many_volumes_some_are_copied_and_all_are_bound() {
        let many: Vec<_> = (10..10 + 2 * COPIES_MAX as u32)
            .map(|n| bind(n, "/vol"))
            .collect();
        let published = Source {
            habit: Habit::Published,
            ..at("/vol", Nature::Directory)
        };
        let sources = vec![published; many.len()];
        let found = survey(at("/b/rootfs", Nature::Directory), sources);

        let plan = plan(&devices("rootfs", many), &found, share()).unwrap();

        assert_eq!(plan.copies().count(), COPIES_MAX);
        assert_eq!(plan.attached.mounts.len(), 2 * COPIES_MAX);
    }

    #[test]
    fn what_cannot_be_a_root_is_refused_with_the_reason() {
        let cases = [
            ("", at("/b", Nature::Directory), "root.path is empty"),
            (
                "gone",
                at("gone", Nature::Missing),
                "root \"gone\" does not exist",
            ),
            (
                "rootfs",
                at("/etc", Nature::Directory),
                "root \"rootfs\" is a link out of the bundle, to \"/etc\"",
            ),
            (
                "x/../rootfs",
                at("/etc", Nature::Directory),
                "root \"x/../rootfs\" is a link out of the bundle, to \"/etc\"",
            ),
            (
                "rootfs",
                at("/bundle-of-another/rootfs", Nature::Directory),
                "root \"rootfs\" is a link out of the bundle, to \"/bundle-of-another/rootfs\"",
            ),
            (
                "s",
                at("/b/s", Nature::Socket),
                "root \"s\" is a socket; a directory, or an ext4 or erofs image or block device is needed",
            ),
            (
                "f",
                at("/b/f", Nature::File(None)),
                "root \"f\" is a file without an ext4 or erofs file system; \
                 a directory, or an ext4 or erofs image or block device is needed",
            ),
        ];
        for (root, found, message) in cases {
            let verdict = plan(&devices(root, vec![]), &survey(found, vec![]), share());

            assert_eq!(verdict.unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_root_that_is_openly_outside_the_bundle_is_taken() {
        for root in ["/srv/images/a", "../a"] {
            let survey = survey(at("/srv/images/a", Nature::Directory), vec![]);

            assert!(
                plan(&devices(root, vec![]), &survey, share()).is_ok(),
                "{root}"
            );
        }
    }

    #[test]
    fn what_cannot_enter_a_vm_is_refused_with_its_mount() {
        for (nature, word) in [
            (Nature::Socket, "a socket"),
            (Nature::Fifo, "a fifo"),
            (Nature::CharDevice, "a character device"),
        ] {
            let survey = survey(at("/b/rootfs", Nature::Directory), vec![at("/x", nature)]);

            let verdict = plan(&devices("rootfs", vec![bind(5, "/x")]), &survey, share());

            let refusal = verdict.unwrap_err();
            assert_eq!(refusal.kind(), Kind::Unsupported);
            let message = format!("mount 5: source \"/x\" is {word}, which cannot enter a VM");
            assert_eq!(refusal.to_string(), message);
        }
    }

    fn disk_of(index: u32, purpose: Purpose, read_only: bool) -> BindSpec {
        BindSpec {
            purpose,
            read_only,
            ..bind(index, "/x")
        }
    }

    #[test]
    fn a_disk_is_plugged_and_needs_no_share() {
        let wishes = vec![
            disk_of(1, Purpose::Mount, false),
            disk_of(2, Purpose::FileSystem, true),
            disk_of(0, Purpose::Device, false),
            disk_of(3, Purpose::FileSystem, false),
        ];
        let sources = vec![
            at("/dev/loop1", Nature::BlockDevice(None)),
            at("/img", Nature::File(None)),
            at("/dev/loop2", Nature::BlockDevice(Some(FsType::Ext4))),
            at("/erofs", Nature::File(Some(FsType::Erofs))),
        ];
        let found = survey(at("/root", Nature::File(Some(FsType::Ext4))), sources);

        let plan = plan(&devices("/root", wishes), &found, None).unwrap();

        let plugged: Vec<_> = plan.attached.blocks.iter().collect();
        let plugged: Vec<_> = plugged
            .iter()
            .map(|one| {
                (
                    one.serial.as_str(),
                    one.path.to_str().unwrap(),
                    one.read_only,
                )
            })
            .collect();
        assert_eq!(
            plugged,
            [
                ("hutch-r3", "/root", false),
                ("hutch-v3-1", "/dev/loop1", false),
                ("hutch-v3-2", "/img", true),
                ("hutch-v3-3", "/dev/loop2", false),
                ("hutch-v3-4", "/erofs", true),
            ]
        );
        let told: Vec<_> = plan.attached.disks.iter().map(|one| one.purpose).collect();
        let expected = [
            DiskPurpose::Mount(1),
            DiskPurpose::Mount(2),
            DiskPurpose::Device(0),
            DiskPurpose::Mount(3),
        ];
        assert_eq!(told, expected);
        assert_eq!(plan.binds, []);
    }

    #[test]
    fn a_disk_that_is_a_device_of_the_host_is_told_with_its_numbers_there() {
        let wishes = vec![
            disk_of(1, Purpose::FileSystem, false),
            disk_of(2, Purpose::FileSystem, false),
            disk_of(0, Purpose::Device, false),
        ];
        let device = |path: &str, minor| Source {
            number: Some(DeviceNumber { major: 7, minor }),
            ..at(path, Nature::BlockDevice(Some(FsType::Ext4)))
        };
        let sources = vec![
            device("/dev/loop1", 1),
            at("/img", Nature::File(Some(FsType::Ext4))),
            device("/dev/loop1", 1),
        ];
        let found = survey(device("/dev/loop9", 9), sources);

        let plan = plan(&devices("/root", wishes), &found, None).unwrap();

        let told = plan.attached.devices.iter();
        let told: Vec<_> = told
            .map(|one| (one.serial.as_str(), one.number.major, one.number.minor))
            .collect();
        assert_eq!(told, [("hutch-r3", 7, 9), ("hutch-v3-1", 7, 1)]);
    }

    #[test]
    fn a_disk_that_is_named_twice_is_plugged_once_with_all_the_access_that_was_asked_for() {
        let wishes = vec![
            disk_of(1, Purpose::FileSystem, true),
            disk_of(0, Purpose::Device, false),
        ];
        let disk = at("/dev/loop1", Nature::BlockDevice(None));
        let found = survey(at("/b/rootfs", Nature::Directory), vec![disk.clone(), disk]);

        let plan = plan(&devices("rootfs", wishes), &found, share()).unwrap();

        let [block] = &plan.attached.blocks[..] else {
            panic!("{plan:?}")
        };
        assert!(!block.read_only);
        let told = plan.attached.disks.iter();
        let told: Vec<_> = told
            .map(|one| (one.serial.as_str(), one.read_only))
            .collect();
        assert_eq!(told, [("hutch-v3-0", true), ("hutch-v3-0", false)]);
    }

    #[test]
    fn what_is_no_disk_is_refused_where_one_is_needed() {
        for (purpose, nature, said) in [
            (
                Purpose::FileSystem,
                Nature::Directory,
                "mount 5: source \"/x\" is a directory; a block device or an image is needed",
            ),
            (
                Purpose::Device,
                Nature::Missing,
                "linux.devices[5]: source \"/x\" does not exist",
            ),
            (
                Purpose::FileSystem,
                Nature::CharDevice,
                "mount 5: source \"/x\" is a character device; a block device or an image is needed",
            ),
        ] {
            let found = survey(at("/b/rootfs", Nature::Directory), vec![at("/x", nature)]);
            let wishes = vec![disk_of(5, purpose, false)];

            let verdict = plan(&devices("rootfs", wishes), &found, share());

            let refusal = verdict.unwrap_err();
            assert_eq!(
                (refusal.kind(), refusal.to_string().as_str()),
                (Kind::Invalid, said)
            );
        }
    }

    #[test]
    fn disks_without_bound_are_refused() {
        let many = (0..=DISKS_MAX as u32).map(|n| disk_of(n, Purpose::FileSystem, false));
        let sources = (0..=DISKS_MAX).map(|n| at(&format!("/x{n}"), Nature::File(None)));
        let found = survey(at("/b/rootfs", Nature::Directory), sources.collect());

        let verdict = plan(&devices("rootfs", many.collect()), &found, share());

        assert_eq!(verdict.unwrap_err().kind(), Kind::Exhausted);
    }

    #[test]
    fn a_directory_without_a_share_is_refused() {
        let found = survey(at("/b/rootfs", Nature::Directory), vec![]);

        let verdict = plan(&devices("rootfs", vec![]), &found, None);

        assert_eq!(verdict.unwrap_err().kind(), Kind::Denied);
    }

    #[test]
    fn mounts_without_bound_are_refused() {
        let many: Vec<_> = (0..=BINDS_MAX as u32).map(|n| bind(n, "/x")).collect();
        let sources = vec![at("/x", Nature::Directory); many.len()];
        let found = survey(at("/b/rootfs", Nature::Directory), sources);

        let verdict = plan(&devices("rootfs", many), &found, share());

        assert_eq!(verdict.unwrap_err().kind(), Kind::Exhausted);
    }

    proptest! {
        #[test]
        fn no_two_binds_share_a_place_and_none_leaves_its_container(
            indexes in proptest::collection::btree_set(any::<u32>(), 0..20),
            number in any::<u32>(),
        ) {
            let binds: Vec<_> = indexes.iter().map(|&n| bind(n, "/x")).collect();
            let sources = vec![at("/x", Nature::Directory); binds.len()];
            let found = survey(at("/b/rootfs", Nature::Directory), sources);
            let request = ContainerDevices {
                container: ContainerNumber(number),
                ..devices("rootfs", binds)
            };

            let plan = plan(&request, &found, share()).unwrap();

            let places: std::collections::BTreeSet<_> =
                plan.binds.iter().map(|bind| bind.place.clone()).collect();
            prop_assert_eq!(places.len(), indexes.len() + 1);
            let own = format!("{number}/");
            prop_assert!(places.iter().all(|place| place.starts_with(&own)));
            prop_assert!(places.iter().all(|place| place.matches('/').count() == 1));
        }
    }
}
