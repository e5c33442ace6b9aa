//! The image becomes the root of the process, and everything else is gone.

use super::{
    failure::{Doing, Outcome},
    resolve::Root,
};
use crate::engine::{
    plan::RootPlan,
    sys::{self, MountAttr},
};
use rustix::{
    fs::{CWD, Gid, Mode, Uid, chown, fstat, mkdir},
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
        mount_move, unmount,
    },
    process::{chdir, chroot, fchdir, pivot_root},
};
use std::ffi::CString;

/// Where points to mount on are made when the image cannot be written: a folder that every guest
/// has, covered in the container's own namespace only, which loses it with the old root.
const MEMORY: &str = "/tmp";

/// What programs may do to the finished root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    AsPlanned,
    /// Whatever the plan says: it would be written to memory, and lost.
    ReadOnly,
}

/// Cuts the namespace off from the guest's and makes the image a mount, which a root must be.
///
/// # Errors
/// When the image is not there or cannot be mounted.
pub fn prepare(plan: &RootPlan) -> Outcome<Root> {
    let path = &plan.path;
    // Nothing that is mounted or unmounted here may reach the guest.
    mount_change(
        c"/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .doing(|| "make the mount namespace private".to_owned())?;
    mount_bind_recursive(path.as_str(), path.as_str())
        .doing(|| format!("root file system {path:?}: bind"))?;
    Root::open(path).doing(|| format!("root file system {path:?}: open"))
}

/// Takes away what was mounted for the image, and mounts it again below an empty layer in memory.
///
/// # Errors
/// When the kernel cannot mount such layers.
pub fn cover_with_memory(plan: &RootPlan, image: Root) -> Outcome<Root> {
    let path = &plan.path;
    let step = |doing: &str| format!("root file system {path:?}: {doing}");
    let stat = fstat(image.fd()).doing(|| step("look at it"))?;
    drop(image);
    unmount(path.as_str(), UnmountFlags::DETACH).doing(|| step("unmount"))?;

    mount("tmpfs", MEMORY, "tmpfs", MountFlags::empty(), c"mode=700")
        .doing(|| step("mount memory"))?;
    // The root has the owner and the mode of the upper layer.
    let (upper, work) = (format!("{MEMORY}/upper"), format!("{MEMORY}/work"));
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    mkdir(&upper, Mode::from_raw_mode(stat.st_mode))
        .and_then(|()| chown(&upper, Some(uid), Some(gid)))
        .and_then(|()| mkdir(&work, Mode::RWXU))
        .doing(|| step("make layers"))?;
    // From inside it, since a path may hold what separates options.
    chdir(path.as_str()).doing(|| step("enter"))?;
    let layers = format!("lowerdir=.,upperdir={upper},workdir={work}");
    let layers = CString::new(layers).expect("a constant path has no NUL");
    let flags = MountFlags::empty();
    mount(
        "overlay",
        path.as_str(),
        "overlay",
        flags,
        layers.as_c_str(),
    )
    .doing(|| step("mount layers"))?;
    Root::open(path).doing(|| step("open"))
}

/// # Errors
/// When the kernel refuses to change the root.
pub fn enter(root: &Root) -> Outcome<()> {
    fchdir(root.fd()).doing(|| "enter the root file system".to_owned())?;
    match pivot_root(c".", c".") {
        // Old and new root are stacked on one another: this takes away the upper, the old one.
        Ok(()) => unmount(c".", UnmountFlags::DETACH).doing(|| "detach the old root".to_owned())?,
        // An initramfs is no mount on anything and cannot be pivoted away; cover it instead.
        Err(Errno::INVAL) => cover()?,
        Err(errno) => return Err(errno).doing(|| "change the root".to_owned()),
    }
    chdir(c"/").doing(|| "enter the new root".to_owned())
}

/// Nothing below can be reached afterwards: a climb out of the root ends on what covers it.
fn cover() -> Outcome<()> {
    mount_move(c".", c"/").doing(|| "move the root file system to /".to_owned())?;
    chroot(c".").doing(|| "change the root to the moved file system".to_owned())
}

/// What has to wait until nothing is made in the root any more.
///
/// # Errors
/// When the kernel refuses an attribute.
pub fn finish(plan: &RootPlan, access: Access) -> Outcome<()> {
    if let Some(flags) = plan.propagation {
        mount_change(c"/", MountPropagationFlags::from_bits_retain(flags))
            .doing(|| "set the propagation of the root".to_owned())?;
    }
    if plan.readonly || access == Access::ReadOnly {
        let attr = MountAttr {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        sys::mount_setattr(CWD, c"/", 0, attr).doing(|| "make the root read-only".to_owned())?;
    }
    Ok(())
}
