//! Who a process is: ids, capabilities, limits.

use super::failure::{Doing, Outcome};
use crate::engine::{
    plan::{CapabilitySet, Failure, ProcessPlan},
    sys,
};
use nix::unistd::{getresgid, getresuid};
use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    thread::{
        CapabilitySet as Bits, CapabilitySets, set_capabilities, set_keep_capabilities,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

/// More than any kernel has; the first that this one does not know ends the loop.
const CAPABILITIES_MAX: u32 = 64;
const CAP_SETPCAP: u64 = 1 << 8;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Takes the ids of root in a user namespace just entered, where the caller is nobody yet.
///
/// # Errors
/// When root is not mapped.
pub fn become_root() -> Outcome<()> {
    take_group(0)?;
    take_user(0)
}

/// # Errors
/// A limit that the kernel refuses.
pub fn limit(process: &ProcessPlan) -> Outcome<()> {
    for (resource, soft, hard) in &process.rlimits {
        sys::set_rlimit(*resource, *soft, *hard)
            .doing(|| format!("set limit {resource} to {soft} of {hard}"))?;
    }
    Ok(())
}

/// Drops what the bounding set may not hold. Needs CAP_SETPCAP, so it comes first.
///
/// # Errors
/// When the kernel refuses.
pub fn bound(capabilities: CapabilitySet) -> Outcome<()> {
    for capability in 0..CAPABILITIES_MAX {
        if capabilities.bounding & (1 << capability) != 0 {
            continue;
        }
        match sys::drop_bounding(capability) {
            Ok(()) => {}
            // The last one that this kernel knows was the one before.
            Err(Errno::INVAL) => break,
            Err(errno) => {
                return Err(errno).doing(|| format!("drop capability {capability} for good"));
            }
        }
    }
    Ok(())
}

/// Changes ids and keeps the capabilities that are permitted.
///
/// # Errors
/// When an id is not mapped or the kernel refuses.
pub fn change_ids(process: &ProcessPlan) -> Outcome<()> {
    if process.uid != 0 {
        set_keep_capabilities(true).doing(|| "keep capabilities".to_owned())?;
    }
    let groups: Vec<Gid> = process.groups.iter().map(|id| Gid::from_raw(*id)).collect();
    set_thread_groups(&groups).doing(|| format!("set groups {:?}", process.groups))?;
    take_group(process.gid)?;
    take_user(process.uid)
}

fn take_group(id: u32) -> Outcome<()> {
    let step = || format!("set group {id}");
    let gid = Gid::from_raw(id);
    set_thread_res_gid(gid, gid, gid).doing(step)?;
    let now = getresgid().map_err(|errno| Errno::from_raw_os_error(errno as i32));
    let now = now.doing(step)?;
    taken(
        step,
        id,
        [now.real, now.effective, now.saved].map(Into::into),
    )
}

fn take_user(id: u32) -> Outcome<()> {
    let step = || format!("set user {id}");
    let uid = Uid::from_raw(id);
    set_thread_res_uid(uid, uid, uid).doing(step)?;
    let now = getresuid().map_err(|errno| Errno::from_raw_os_error(errno as i32));
    let now = now.doing(step)?;
    taken(
        step,
        id,
        [now.real, now.effective, now.saved].map(Into::into),
    )
}

/// To the kernel an id of -1 means to leave things as they are, and that is no error: the caller would stay root.
fn taken(step: impl FnOnce() -> String, wanted: u32, now: [u32; 3]) -> Outcome<()> {
    if now == [wanted; 3] {
        return Ok(());
    }
    Err(Failure::Invalid {
        what: step(),
        why: format!("the kernel left it at {now:?}"),
    })
}

/// Capabilities as the program gets them, but that a filter can still be installed after.
///
/// # Errors
/// When the kernel refuses a set.
pub fn set_for_filter(wanted: CapabilitySet) -> Outcome<()> {
    let spare = CAP_SYS_ADMIN | CAP_SETPCAP;
    set(CapabilitySet {
        permitted: wanted.permitted | spare,
        ..wanted
    })?;
    raise_ambient(wanted)
}

/// Lets the filter in: without no_new_privs the kernel asks for CAP_SYS_ADMIN.
///
/// # Errors
/// When the kernel refuses.
pub fn arm(wanted: CapabilitySet) -> Outcome<()> {
    set(CapabilitySet {
        permitted: wanted.permitted | CAP_SYS_ADMIN | CAP_SETPCAP,
        effective: wanted.effective | CAP_SYS_ADMIN,
        ..wanted
    })
}

/// # Errors
/// When the kernel refuses a set.
pub fn set_finally(wanted: CapabilitySet) -> Outcome<()> {
    set(wanted)
}

/// # Errors
/// When the kernel refuses a set.
pub fn set_with_ambient(wanted: CapabilitySet) -> Outcome<()> {
    set(wanted)?;
    raise_ambient(wanted)
}

fn set(wanted: CapabilitySet) -> Outcome<()> {
    let sets = CapabilitySets {
        effective: Bits::from_bits_retain(wanted.effective),
        permitted: Bits::from_bits_retain(wanted.permitted),
        inheritable: Bits::from_bits_retain(wanted.inheritable),
    };
    set_capabilities(None, sets).doing(|| "set capabilities".to_owned())
}

fn raise_ambient(wanted: CapabilitySet) -> Outcome<()> {
    for capability in 0..CAPABILITIES_MAX {
        if wanted.ambient & (1 << capability) != 0 {
            sys::raise_ambient(capability)
                .doing(|| format!("make capability {capability} ambient"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_the_kernel_did_not_take_is_an_error() {
        let step = || "set user 4294967295".to_owned();

        let left = taken(step, u32::MAX, [0, 0, 0]);
        let half = taken(step, 5, [5, 5, 0]);
        let all = taken(step, 5, [5, 5, 5]);

        assert!(matches!(left, Err(Failure::Invalid { .. })));
        assert!(matches!(half, Err(Failure::Invalid { .. })));
        assert!(all.is_ok());
    }
}
