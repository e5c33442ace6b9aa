//! Terminals: always of the container's own devpts, so that its ttys have names inside.

use super::failure::{Doing, Outcome};
use crate::engine::{
    plan::{ProcessPlan, Report, Stdio},
    wire,
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// Opens a terminal if the process wants one, and sends its other end to the agent.
///
/// # Errors
/// When the container has no devpts, or none is left in it.
pub fn open_for(process: &ProcessPlan, request: BorrowedFd<'_>) -> Outcome<Option<OwnedFd>> {
    let Stdio::Terminal { rows, columns } = process.io else {
        return Ok(None);
    };
    let ours = open_multiplexer().doing(|| "terminal: open /dev/pts/ptmx".to_owned())?;
    unlockpt(&ours).doing(|| "terminal: unlock".to_owned())?;
    if (rows, columns) != (0, 0) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&ours, size).doing(|| "terminal: set its size".to_owned())?;
    }
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs =
        ioctl_tiocgptpeer(&ours, flags).doing(|| "terminal: open the other end".to_owned())?;
    wire::send_report(request, &Report::Console, Some(ours.as_fd()))
        .doing(|| "terminal: hand it over".to_owned())?;
    Ok(Some(theirs))
}

fn open_multiplexer() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(CWD, c"/dev/pts/ptmx", flags, Mode::empty())
}

/// Makes the terminal of the init the container's /dev/console.
///
/// # Errors
/// When /dev/console cannot be made or covered.
pub fn cover_console(terminal: &OwnedFd) -> Outcome<()> {
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC;
    let made = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match openat(CWD, c"/dev/console", made, Mode::from_raw_mode(0o666)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).doing(|| "terminal: make /dev/console".to_owned()),
    }
    let place = openat(CWD, c"/dev/console", flags - OFlags::CREATE, Mode::empty())
        .doing(|| "terminal: find /dev/console".to_owned())?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(terminal, c"", clone).doing(|| "terminal: take its mount".to_owned())?;
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, c"", &place, c"", how).doing(|| "terminal: cover /dev/console".to_owned())
}
