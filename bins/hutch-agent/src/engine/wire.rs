//! Messages between agent, spawner and process over sequenced-packet sockets, with descriptors.
//!
//! A socket of this kind keeps message borders and is safe to share: each message is sent whole
//! or not at all. A plan may be longer than one message can be, so it is sent in pieces.

use super::plan::{Plan, Report};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
        sendmsg, socketpair,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
};

/// Far below what a socket takes in one message by default (about 200 KiB).
const PIECE_BYTES: usize = 64 * 1024;
/// The first piece: most plans, and no more memory than two pages of a process that has just been forked.
const FIRST_BYTES: usize = 8 * 1024 - LENGTH_BYTES;
/// The length of a plan, before its first piece.
const LENGTH_BYTES: usize = 8;
/// Twice the argument limit of the kernel (a quarter of an 8 MiB stack) and a filter beside it.
const PLAN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The longest report is an error with a path in it.
const REPORT_BYTES_MAX: usize = 16 * 1024;
/// Flags, and a line with two numbers for each of two clocks.
const ORDER_BYTES_MAX: usize = 256;
/// Stdio, an init, one for each kind of namespace, trees with mapped ids, and those of disks.
const FDS_MAX: usize = 8 + super::idmap::TREES_MAX + super::disks::TREES_MAX;

/// What the spawner is asked for; the rest of a request is descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkOrder {
    /// CLONE_NEW* for the new process, but time: that one is made before.
    pub namespaces: u64,
    /// A new time namespace, with these lines for /proc/self/timens_offsets.
    pub time_offsets: Option<String>,
    /// A pidfd follows, whose pid namespace the process is born into.
    pub enter_pid_namespace: bool,
    pub place: OrderedPlace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderedPlace {
    /// The spawner's cgroup.
    Spawners,
    /// A cgroup folder follows, which the process is born into. If that takes no processes since they are to be below it:
    /// the process beside which it may be there.
    Cgroup { beside: Option<u32> },
}

/// A connected pair; neither end survives an exec.
///
/// # Errors
/// What socketpair says.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// # Errors
/// What the socket says.
pub fn send_order(
    socket: BorrowedFd<'_>,
    order: &ForkOrder,
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let bytes = postcard::to_stdvec(order).map_err(|_| Errno::INVAL)?;
    send(socket, &[&bytes], fds)
}

/// The next order, or None when the agent is gone.
///
/// # Errors
/// What the socket says; a message that is no order is EBADMSG.
pub fn receive_order(socket: BorrowedFd<'_>) -> Result<Option<(ForkOrder, Vec<OwnedFd>)>, Errno> {
    let mut bytes = [0; ORDER_BYTES_MAX];
    let (length, fds) = receive(socket, &mut bytes)?;
    if length == 0 {
        return Ok(None);
    }
    let order = postcard::from_bytes(&bytes[..length]).map_err(|_| Errno::BADMSG)?;
    Ok(Some((order, fds)))
}

/// A plan as it travels.
#[derive(Debug)]
pub struct Packed(Vec<u8>);

impl Packed {
    /// # Errors
    /// EMSGSIZE for a plan beyond all bounds.
    pub fn of(plan: &Plan) -> Result<Self, Errno> {
        let bytes = postcard::to_stdvec(plan).map_err(|_| Errno::INVAL)?;
        match bytes.len() {
            ..=PLAN_BYTES_MAX => Ok(Self(bytes)),
            _ => Err(Errno::MSGSIZE),
        }
    }

    /// A socket takes it whole, whether or not anyone reads there yet.
    pub fn is_short(&self) -> bool {
        self.0.len() <= PIECE_BYTES
    }

    /// # Errors
    /// What the socket says.
    pub fn send(&self, socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let Self(bytes) = self;
        let length = (bytes.len() as u64).to_ne_bytes();
        let first = bytes.len().min(FIRST_BYTES);
        send(socket, &[&length, &bytes[..first]], fds)?;
        for piece in bytes[first..].chunks(PIECE_BYTES) {
            send(socket, &[piece], &[])?;
        }
        Ok(())
    }
}

/// The plan, or None when the agent gave up.
///
/// # Errors
/// What the socket says; EBADMSG for what is no plan.
pub fn receive_plan(socket: BorrowedFd<'_>) -> Result<Option<(Plan, Vec<OwnedFd>)>, Errno> {
    let mut bytes = vec![0; LENGTH_BYTES + FIRST_BYTES];
    let (length, fds) = receive(socket, &mut bytes)?;
    if length == 0 {
        return Ok(None);
    }
    let head = bytes.first_chunk().ok_or(Errno::BADMSG)?;
    let total = usize::try_from(u64::from_ne_bytes(*head)).map_err(|_| Errno::BADMSG)?;
    if total > PLAN_BYTES_MAX {
        return Err(Errno::BADMSG);
    }
    let whole = LENGTH_BYTES + total;
    let mut filled = length;
    bytes.resize(whole, 0);
    while filled < whole {
        let (piece, _) = receive(socket, &mut bytes[filled..])?;
        if piece == 0 {
            return Ok(None);
        }
        filled += piece;
    }
    let plan = bytes.get(LENGTH_BYTES..whole).ok_or(Errno::BADMSG)?;
    let plan = postcard::from_bytes(plan).map_err(|_| Errno::BADMSG)?;
    Ok(Some((plan, fds)))
}

/// # Errors
/// What the socket says.
pub fn send_report(
    socket: BorrowedFd<'_>,
    report: &Report,
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let bytes = postcard::to_stdvec(report).map_err(|_| Errno::INVAL)?;
    send(socket, &[&bytes], fd.as_slice())
}

/// The next report, or None when nobody is left to send one.
///
/// # Errors
/// What the socket says; EBADMSG for what is no report.
pub fn receive_report(socket: BorrowedFd<'_>) -> Result<Option<(Report, Option<OwnedFd>)>, Errno> {
    let mut bytes = [0; REPORT_BYTES_MAX];
    let (length, mut fds) = receive(socket, &mut bytes)?;
    if length == 0 {
        return Ok(None);
    }
    let report = postcard::from_bytes(&bytes[..length]).map_err(|_| Errno::BADMSG)?;
    Ok(Some((report, fds.pop())))
}

/// Tells a waiting init to run its program.
///
/// # Errors
/// What the socket says.
pub fn send_go(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    send(socket, &[&[1]], &[])
}

/// Waits to be told; false when the agent gave up.
///
/// # Errors
/// What the socket says.
pub fn receive_go(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut byte = [0];
    receive(socket, &mut byte).map(|(length, _)| length == 1)
}

fn send(socket: BorrowedFd<'_>, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    loop {
        match sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return sent.map(|_| ()),
        }
    }
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut slices = [IoSliceMut::new(&mut *buffer)];
        match recvmsg(
            socket.as_fd(),
            &mut slices,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(Errno::BADMSG);
    }
    let fds = control
        .drain()
        .filter_map(|one| match one {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        lower::{self, ExecDefaults},
        plan::ExecSteps,
        spec,
    };
    use serde_json::json;
    use std::thread;

    /// An exec with so much in its environment.
    fn plan_of(bytes: usize) -> Plan {
        let process = json!({
            "cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0},
            "env": [format!("A={}", "x".repeat(bytes))],
        });
        let mut warnings = Vec::new();
        let process = spec::parse_process(process.to_string().as_bytes(), &mut warnings).unwrap();
        let defaults = ExecDefaults::default();
        let process = lower::lower_process(&process, false, &defaults, &mut warnings).unwrap();
        Plan::Exec(Box::new(ExecSteps {
            namespaces: 0,
            user_namespace: false,
            process,
        }))
    }

    #[test]
    fn a_plan_of_any_size_arrives_as_it_was_sent() {
        for bytes in [0, 100, FIRST_BYTES, PIECE_BYTES, 5 * PIECE_BYTES] {
            let plan = plan_of(bytes);
            let (near, far) = pair().unwrap();
            let sent = plan.clone();
            let sending = thread::spawn(move || Packed::of(&sent)?.send(near.as_fd(), &[]));

            let received = receive_plan(far.as_fd()).unwrap();

            assert_eq!(received.map(|(plan, _)| plan), Some(plan), "{bytes} bytes");
            sending.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_short_plan_is_taken_before_anyone_reads() {
        let room = PIECE_BYTES - Packed::of(&plan_of(0)).unwrap().0.len();
        // The length of a longer one takes a byte or two more.
        let (longest, longer) = (plan_of(room - 2), plan_of(room + 1));
        assert!(!Packed::of(&longer).unwrap().is_short());
        let packed = Packed::of(&longest).unwrap();
        assert!(packed.is_short());
        let (near, far) = pair().unwrap();

        // Comes back, though nobody reads.
        packed.send(near.as_fd(), &[]).unwrap();

        let received = receive_plan(far.as_fd()).unwrap();
        assert_eq!(received.map(|(plan, _)| plan), Some(longest));
    }
}
