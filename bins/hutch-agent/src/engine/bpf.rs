//! The two calls of bpf(2) that device rules need, and the instructions they are made of.

use rustix::{
    fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    io::Errno,
};
use std::{mem::size_of, ptr};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
/// A container may have cgroups with rules of their own below; every rule above must allow too.
const ALLOW_MULTI: u32 = 2;

/// One instruction of an eBPF program, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Instruction(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u8);

impl Instruction {
    const fn new(code: u8, to: Register, from: Register, offset: i16, value: i32) -> Self {
        Self(
            code as u64
                | (to.0 as u64) << 8
                | (from.0 as u64) << 12
                | (offset as u16 as u64) << 16
                | (value as u32 as u64) << 32,
        )
    }

    /// As it is in memory.
    #[cfg(test)]
    pub fn raw(self) -> u64 {
        self.0
    }

    /// to = the 32 bits at from + offset
    pub const fn load(to: Register, from: Register, offset: i16) -> Self {
        Self::new(0x61, to, from, offset, 0)
    }

    /// to = from
    pub const fn copy(to: Register, from: Register) -> Self {
        Self::new(0xbf, to, from, 0, 0)
    }

    /// to = value
    pub const fn set(to: Register, value: i32) -> Self {
        Self::new(0xb7, to, Register(0), 0, value)
    }

    /// to &= value
    pub const fn and(to: Register, value: i32) -> Self {
        Self::new(0x57, to, Register(0), 0, value)
    }

    /// to >>= value
    pub const fn shift_right(to: Register, value: i32) -> Self {
        Self::new(0x77, to, Register(0), 0, value)
    }

    /// Jumps over so many instructions unless one is value.
    pub const fn skip_unless(one: Register, value: i32, over: i16) -> Self {
        Self::new(0x55, one, Register(0), over, value)
    }

    /// Jumps over so many instructions if one is value.
    pub const fn skip_if(one: Register, value: i32, over: i16) -> Self {
        Self::new(0x15, one, Register(0), over, value)
    }

    /// Ends with the answer in register 0.
    pub const fn exit() -> Self {
        Self::new(0x95, Register(0), Register(0), 0, 0)
    }
}

/// The beginning of union bpf_attr for BPF_PROG_LOAD; what is cut off is zero.
#[repr(C)]
struct Load {
    prog_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The beginning of union bpf_attr for BPF_PROG_ATTACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// # Errors
/// What bpf says; EINVAL or EACCES for a program that the kernel cannot prove harmless.
#[allow(unsafe_code)]
pub fn load_device_program(code: &[Instruction]) -> Result<OwnedFd, Errno> {
    let attr = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        instructions: u32::try_from(code.len()).map_err(|_| Errno::TOOBIG)?,
        code: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `attr` is laid out as the kernel's and its size is passed; it names `code` with its
    // true length, and a NUL-terminated license; all outlive the call, which only reads them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            ptr::from_ref(&attr),
            size_of::<Load>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(last()),
    }
}

/// # Errors
/// What bpf says.
#[allow(unsafe_code)]
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF);
    let attr = Attach {
        target: number(cgroup)?,
        program: number(program)?,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: `attr` is laid out as the kernel's, its size is passed, and it outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            ptr::from_ref(&attr),
            size_of::<Attach>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(last()) }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
