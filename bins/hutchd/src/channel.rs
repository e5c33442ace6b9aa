//! Which channel the guests of this daemon get: the configuration's choice, held against what the
//! host has. Looks at one device; opens no channel.

use crate::config::ChannelChoice;
use anyhow::{Context as _, Result};
use runtime_core::{hypervisor::ChannelKind, ids::SandboxUid, premises::Cgroup};
use std::{fs::File, io, path::Path};

/// Of the host's kernel: each VMM opens it for itself.
const VHOST_VSOCK: &str = "/dev/vhost-vsock";

/// A backend knows one guest, so every guest may have the same.
const HYBRID_CID: u32 = 3;

/// 0 to 2 have meanings of their own, and u32::MAX is nobody's. vsock(7).
const CID_FIRST: u32 = 3;
const CIDS: u64 = (u32::MAX - CID_FIRST) as u64;

/// How every guest of a daemon is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Serial,
    Vsock,
    HybridVsock,
}

impl Channel {
    pub fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Vsock => "vsock",
            Self::HybridVsock => "hybrid-vsock",
        }
    }

    /// For one sandbox, the helpers of which live in that cgroup.
    pub fn of(self, uid: SandboxUid, helpers: &Cgroup) -> ChannelKind {
        match self {
            Self::Serial => ChannelKind::Serial,
            Self::Vsock => ChannelKind::Vsock { cid: cid(uid) },
            Self::HybridVsock => ChannelKind::HybridVsock {
                cid: HYBRID_CID,
                backend: helpers.clone(),
            },
        }
    }
}

/// A context id is the host's, whoever takes it, and is free again when its VMM is gone. Drawn from
/// the uid, which was drawn at random: of a thousand guests two want the same once in 8,000 hosts,
/// and then the kernel gives it to the first and the second's VMM says so.
fn cid(uid: SandboxUid) -> u32 {
    let below = u32::try_from(uid.number() % CIDS).expect("CIDS fits");
    CID_FIRST + below
}

/// # Errors
/// vsock was asked for by name, and the host has none.
pub fn choose(choice: ChannelChoice) -> Result<Channel> {
    decide(choice, || opens(Path::new(VHOST_VSOCK)))
}

fn decide(choice: ChannelChoice, vsock: impl FnOnce() -> io::Result<()>) -> Result<Channel> {
    match choice {
        ChannelChoice::Serial => Ok(Channel::Serial),
        ChannelChoice::HybridVsock => Ok(Channel::HybridVsock),
        ChannelChoice::Auto => match vsock() {
            Ok(()) => Ok(Channel::Vsock),
            Err(_) => Ok(Channel::Serial),
        },
        ChannelChoice::Vsock => {
            vsock().with_context(|| format!("guest.channel is vsock; open {VHOST_VSOCK}"))?;
            Ok(Channel::Vsock)
        }
    }
}

fn opens(device: &Path) -> io::Result<()> {
    File::options()
        .read(true)
        .write(true)
        .open(device)
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absent() -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    #[test]
    fn auto_takes_vsock_where_the_host_has_it_and_serial_elsewhere() {
        let with = decide(ChannelChoice::Auto, || Ok(())).unwrap();
        let without = decide(ChannelChoice::Auto, absent).unwrap();

        assert_eq!((with, without), (Channel::Vsock, Channel::Serial));
    }

    #[test]
    fn vsock_by_name_on_a_host_without_it_is_an_error_that_names_the_key() {
        let error = decide(ChannelChoice::Vsock, absent).unwrap_err();

        let text = format!("{error:#}");
        assert!(
            text.contains("guest.channel") && text.contains("/dev/vhost-vsock"),
            "{text}"
        );
    }

    #[test]
    fn what_is_named_is_taken_without_a_look_at_the_host() {
        let unasked = || -> io::Result<()> { panic!("looked") };

        let serial = decide(ChannelChoice::Serial, unasked).unwrap();
        let hybrid = decide(ChannelChoice::HybridVsock, unasked).unwrap();

        assert_eq!((serial, hybrid), (Channel::Serial, Channel::HybridVsock));
    }

    #[test]
    fn a_context_id_is_never_one_that_has_a_meaning() {
        for random in [0, 1, 2, CIDS - 1, CIDS, CIDS + 1, u64::MAX] {
            let cid = cid(SandboxUid::from_random(random));

            assert!((CID_FIRST..u32::MAX).contains(&cid), "{random}: {cid}");
        }
    }
}
