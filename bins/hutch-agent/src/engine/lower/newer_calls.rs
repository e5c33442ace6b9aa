//! The beginning of a filter, where its profile refuses what it does not name: a call that is newer
//! than all that it names is answered as a kernel without that call would.
//!
//! A C library tries a new call first, and does without it on ENOSYS only: to refuse the call with
//! another number would refuse what it is for. Nothing here knows which kernel brought a call, but
//! numbers are given out in order, so the highest that is named tells how old the profile is. Pure.

use libseccomp::{ScmpAction, ScmpArch, ScmpFilterContext, ScmpSyscall, error::SeccompError};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action};

/// Where struct seccomp_data has them.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_ABOVE: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const IF_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;

const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// In the numbers of x32, which the kernel calls x86_64 otherwise.
const X32_BIT: u32 = 0x4000_0000;

/// By which of its calls an architecture is told from one that has the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Calls {
    All,
    WithBit,
    WithoutBit,
}

/// Architectures that processors of guests have, with AUDIT_ARCH_* as the kernel tells it.
const KNOWN: [(ScmpArch, u32, Calls); 5] = [
    (ScmpArch::X8664, 0xc000_003e, Calls::WithoutBit),
    (ScmpArch::X32, 0xc000_003e, Calls::WithBit),
    (ScmpArch::X86, 0x4000_0003, Calls::All),
    (ScmpArch::Aarch64, 0xc000_00b7, Calls::All),
    (ScmpArch::Arm, 0x4000_0028, Calls::All),
];

pub const INSTRUCTION_BYTES: usize = 8;
type Instruction = [u8; INSTRUCTION_BYTES];

/// What goes before the program of `filter`; nothing where the profile lets new calls pass.
pub fn beginning(
    profile: &LinuxSeccomp,
    default: ScmpAction,
    filter: &ScmpFilterContext,
) -> Result<Vec<u8>, SeccompError> {
    let mut program = Vec::new();
    if !refuses(profile.default_action(), default) {
        return Ok(program);
    }
    for (arch, audit_arch, calls) in KNOWN {
        // A filter ends who calls by an architecture that it does not have.
        if filter.is_arch_present(arch)?
            && let Some(highest) = highest_named(profile, arch)
        {
            program.extend(section(audit_arch, calls, highest).concat());
        }
    }
    Ok(program)
}

/// A tracer is asked about what it does not know too: it may know what to do with it.
fn refuses(wanted: Action, default: ScmpAction) -> bool {
    match wanted {
        Action::ScmpActKill
        | Action::ScmpActKillThread
        | Action::ScmpActKillProcess
        | Action::ScmpActTrap => true,
        Action::ScmpActErrno => default != ScmpAction::Errno(libc::ENOSYS),
        Action::ScmpActTrace
        | Action::ScmpActLog
        | Action::ScmpActAllow
        | Action::ScmpActNotify => false,
    }
}

/// In whichever rule, and whatever that says about it.
fn highest_named(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let rules = profile.syscalls().iter().flatten();
    let names = rules.flat_map(|rule| rule.names());
    let numbers = names.filter_map(|name| {
        let call = ScmpSyscall::from_name_by_arch(name, arch).ok()?;
        // A call that this architecture does not have is below zero.
        u32::try_from(i32::from(call)).ok()
    });
    numbers.max()
}

/// Answers, or goes on with what comes after it.
fn section(audit_arch: u32, calls: Calls, highest: u32) -> Vec<Instruction> {
    let told_apart = match calls {
        Calls::All => None,
        Calls::WithBit => Some(instruction(IF_BIT, X32_BIT, [0, 2])),
        Calls::WithoutBit => Some(instruction(IF_BIT, X32_BIT, [2, 0])),
    };
    let length_of_rest = if told_apart.is_some() { 4 } else { 3 };
    let mut section = vec![
        instruction(LOAD, ARCHITECTURE, [0, 0]),
        instruction(IF_EQUAL, audit_arch, [0, length_of_rest]),
        instruction(LOAD, NUMBER, [0, 0]),
    ];
    section.extend(told_apart);
    section.extend([
        instruction(IF_ABOVE, highest, [0, 1]),
        instruction(ANSWER, NO_SUCH_CALL, [0, 0]),
    ]);
    section
}

/// With how many instructions it goes over if it holds, and if it does not.
fn instruction(code: u32, value: u32, over: [u8; 2]) -> Instruction {
    let [a, b] = (code as u16).to_ne_bytes();
    let [c, d, e, f] = value.to_ne_bytes();
    [a, b, over[0], over[1], c, d, e, f]
}
