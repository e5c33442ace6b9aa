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
    fs::CWD,
    io::Errno,
    mount::{
        MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, mount_move,
        unmount,
    },
    process::{chdir, chroot, fchdir, pivot_root},
};

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
pub fn finish(plan: &RootPlan) -> Outcome<()> {
    if let Some(flags) = plan.propagation {
        mount_change(c"/", MountPropagationFlags::from_bits_retain(flags))
            .doing(|| "set the propagation of the root".to_owned())?;
    }
    if plan.readonly {
        let attr = MountAttr {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        sys::mount_setattr(CWD, c"/", 0, attr).doing(|| "make the root read-only".to_owned())?;
    }
    Ok(())
}
