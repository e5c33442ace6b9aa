//! Seccomp profiles become a program here, in the agent: compiling takes time and memory that a
//! process being born has not, and the same profile is asked for again and again.

use super::{invalid, newer_calls, unsupported};
use crate::engine::{
    error::{Doing, Error, Result},
    plan::SeccompFilter,
    spec::Warnings,
};
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    sync::Mutex,
};

/// Pods use one or two profiles; the oldest goes first.
const PROGRAMS_MAX: usize = 8;
/// A tree instead of a list: the kernel walks it for each of its 450 calls when it is installed.
const OPTIMIZE_AS_TREE: u32 = 2;
const ARGS_MAX: usize = 6;
/// BPF_MAXINSNS of linux/bpf_common.h: a longer program is refused as it is installed, by a number alone.
const INSTRUCTIONS_MAX: usize = 4096;
const X86: bool = cfg!(target_arch = "x86_64");
const ARM: bool = cfg!(target_arch = "aarch64");

const WAIT_KILLABLE_RECV: LinuxSeccompFilterFlag =
    LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv;

static PROGRAMS: Mutex<Vec<Compiled>> = Mutex::new(Vec::new());

#[derive(Debug, Clone)]
struct Compiled {
    profile: LinuxSeccomp,
    filter: SeccompFilter,
    /// Calls that this library does not know.
    unknown: Vec<String>,
}

/// # Errors
/// A profile that makes no sense, or that needs somebody to answer to it.
pub fn compile(profile: &LinuxSeccomp, warnings: &mut Warnings) -> Result<SeccompFilter> {
    let programs = || {
        PROGRAMS
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    let known = programs()
        .iter()
        .find(|one| one.profile == *profile)
        .cloned();
    let compiled = match known {
        Some(known) => known,
        None => {
            let compiled = build(profile)?;
            let mut programs = programs();
            if programs.len() == PROGRAMS_MAX {
                programs.remove(0);
            }
            programs.push(compiled.clone());
            compiled
        }
    };
    warn_of_listener(profile, warnings);
    if !compiled.unknown.is_empty() {
        let names = compiled.unknown.join(", ");
        warnings.push(format!(
            "linux.seccomp: system calls not known, ignored: {names}"
        ));
    }
    Ok(compiled.filter)
}

/// What only a listener is for. No rule asks for one, or the profile would have been refused.
fn warn_of_listener(profile: &LinuxSeccomp, warnings: &mut Warnings) {
    let path = profile.listener_path().as_ref();
    let metadata = profile.listener_metadata().as_deref();
    let mut flags = profile.flags().iter().flatten();
    for (is_there, warning) in [
        (
            path.is_some_and(|path| !path.as_os_str().is_empty()),
            "listenerPath: a listener of the host cannot be reached",
        ),
        (
            metadata.is_some_and(|metadata| !metadata.is_empty()),
            "listenerMetadata: a listener of the host cannot be reached",
        ),
        (
            flags.any(|flag| *flag == WAIT_KILLABLE_RECV),
            "flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV has no effect without a listener",
        ),
    ] {
        if is_there {
            warnings.push(format!("linux.seccomp.{warning}, ignored"));
        }
    }
}

fn build(profile: &LinuxSeccomp) -> Result<Compiled> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default).map_err(refused)?;
    filter.set_ctl_optimize(OPTIMIZE_AS_TREE).map_err(refused)?;
    // The program goes to the kernel without libseccomp: who loads it decides on privileges.
    filter.set_ctl_nnp(false).map_err(refused)?;
    for arch in profile.architectures().iter().flatten() {
        if let Some(arch) = architecture(*arch) {
            filter.add_arch(arch).map_err(refused)?;
        }
    }
    let mut unknown = Vec::new();
    for rule in profile.syscalls().iter().flatten() {
        add(&mut filter, rule, default, &mut unknown)?;
    }
    let mut program = newer_calls::beginning(profile, default, &filter).map_err(refused)?;
    program.extend(export(&filter)?);
    let length = program.len() / newer_calls::INSTRUCTION_BYTES;
    if length > INSTRUCTIONS_MAX {
        return invalid(
            "linux.seccomp",
            format!("{length} instructions, and the kernel takes {INSTRUCTIONS_MAX}"),
        );
    }
    Ok(Compiled {
        profile: profile.clone(),
        filter: SeccompFilter {
            flags: flags(profile.flags().as_deref().unwrap_or_default()),
            program,
        },
        unknown,
    })
}

fn add(
    filter: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    default: ScmpAction,
    unknown: &mut Vec<String>,
) -> Result<()> {
    let action = action(rule.action(), rule.errno_ret())?;
    // libseccomp refuses a rule that says what would happen anyway.
    if action == default {
        return Ok(());
    }
    let alternatives = alternatives(rule.args().as_deref().unwrap_or_default())?;
    for name in rule.names() {
        // Profiles name the calls of all kernels; one that this library does not know, this
        // kernel's programs rarely do either.
        let Ok(syscall) = ScmpSyscall::from_name(name) else {
            unknown.push(name.clone());
            continue;
        };
        for conditions in &alternatives {
            filter
                .add_rule_conditional(action, syscall, conditions)
                .map_err(refused)?;
        }
    }
    Ok(())
}

/// Conditions on different arguments must all hold; of several on one argument, any.
fn alternatives(args: &[LinuxSeccompArg]) -> Result<Vec<Vec<ScmpArgCompare>>> {
    let conditions: Vec<ScmpArgCompare> = args.iter().map(condition).collect::<Result<_>>()?;
    let mut seen = [false; ARGS_MAX];
    let twice = args
        .iter()
        .any(|arg| std::mem::replace(&mut seen[arg.index()], true));
    Ok(if twice {
        conditions.into_iter().map(|one| vec![one]).collect()
    } else {
        vec![conditions]
    })
}

fn condition(arg: &LinuxSeccompArg) -> Result<ScmpArgCompare> {
    let index = match u32::try_from(arg.index()) {
        Ok(index) if (index as usize) < ARGS_MAX => index,
        _ => {
            return invalid(
                "linux.seccomp",
                format!("argument {}: no such", arg.index()),
            );
        }
    };
    let (operator, value) = match arg.op() {
        Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        Operator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        Operator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        Operator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        // Here `value` is the mask, and `valueTwo` what must be left.
        Operator::ScmpCmpMaskedEq => (
            ScmpCompareOp::MaskedEqual(arg.value()),
            arg.value_two().unwrap_or(0),
        ),
    };
    Ok(ScmpArgCompare::new(index, operator, value))
}

fn action(wanted: Action, errno: Option<u32>) -> Result<ScmpAction> {
    let number = errno.unwrap_or(libc::EPERM as u32);
    if errno.is_some() && !matches!(wanted, Action::ScmpActErrno | Action::ScmpActTrace) {
        return invalid(
            "linux.seccomp",
            format!("errnoRet {number}: {wanted} has no number"),
        );
    }
    Ok(match wanted {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => match i32::try_from(number) {
            Ok(number) => ScmpAction::Errno(number),
            Err(_) => return invalid("linux.seccomp", format!("errnoRet {number}: no such")),
        },
        Action::ScmpActTrace => match u16::try_from(number) {
            Ok(number) => ScmpAction::Trace(number),
            Err(_) => return invalid("linux.seccomp", format!("errnoRet {number}: no such")),
        },
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
        Action::ScmpActNotify => return unsupported("linux.seccomp: SCMP_ACT_NOTIFY"),
    })
}

/// None: this processor runs no program of that kind, so it needs no rules for one.
fn architecture(arch: Arch) -> Option<ScmpArch> {
    match arch {
        Arch::ScmpArchNative => Some(ScmpArch::Native),
        Arch::ScmpArchX86 if X86 => Some(ScmpArch::X86),
        Arch::ScmpArchX86_64 if X86 => Some(ScmpArch::X8664),
        Arch::ScmpArchX32 if X86 => Some(ScmpArch::X32),
        Arch::ScmpArchArm if ARM => Some(ScmpArch::Arm),
        Arch::ScmpArchAarch64 if ARM => Some(ScmpArch::Aarch64),
        _ => None,
    }
}

fn flags(wanted: &[LinuxSeccompFilterFlag]) -> u32 {
    let flag = |one: &LinuxSeccompFilterFlag| match *one {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // Only a filter with a listener may have it.
        WAIT_KILLABLE_RECV => 0,
    };
    wanted.iter().fold(0, |all, one| all | flag(one) as u32)
}

/// libseccomp writes a program to a file only.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>> {
    let step = || "export the seccomp filter".to_owned();
    let file = memfd_create(c"seccomp", MemfdFlags::CLOEXEC).doing(step)?;
    filter.export_bpf(&file).map_err(refused)?;
    let mut file = File::from(file);
    file.seek(SeekFrom::Start(0)).doing(step)?;
    let mut program = Vec::new();
    file.read_to_end(&mut program).doing(step)?;
    Ok(program)
}

fn refused(source: libseccomp::error::SeccompError) -> Error {
    Error::Invalid {
        what: "linux.seccomp".to_owned(),
        why: source.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const X32_BIT: u32 = 0x4000_0000;
    const NATIVE: u32 = if X86 { X86_64 } else { 0xc000_00b7 };

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
    const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | 38;

    fn program(profile: Value) -> Vec<u8> {
        let profile = serde_json::from_value(profile).unwrap();
        build(&profile).unwrap().filter.program
    }

    /// A small machine that runs what the kernel would run.
    fn answer(program: &[u8], arch: u32, number: u32, first_arg: u64) -> u32 {
        let arg = [first_arg as u32, (first_arg >> 32) as u32];
        let data = [number, arch, 0, 0, arg[0], arg[1]];
        let (mut at, mut loaded) = (0, 0);
        loop {
            let raw = &program[at * 8..][..8];
            let value = u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]);
            let holds = match u16::from_ne_bytes([raw[0], raw[1]]) {
                0x05 => {
                    at += 1 + value as usize;
                    continue;
                }
                0x06 => return value,
                0x15 => loaded == value,
                0x25 => loaded > value,
                0x35 => loaded >= value,
                0x45 => loaded & value != 0,
                code => {
                    loaded = match code {
                        0x20 => data[value as usize / 4],
                        0x54 => loaded & value,
                        code => panic!("instruction {code:#x}"),
                    };
                    at += 1;
                    continue;
                }
            };
            at += 1 + usize::from(raw[if holds { 2 } else { 3 }]);
        }
    }

    /// Allows openat2, number 437 everywhere, and older ones.
    fn allowing(default: &str, architectures: &[&str]) -> Value {
        json!({
            "defaultAction": default,
            "architectures": architectures,
            "syscalls": [{"names": ["read", "openat2", "mkdirat"], "action": "SCMP_ACT_ALLOW"}],
        })
    }

    #[test]
    #[cfg_attr(
        not(target_arch = "x86_64"),
        ignore = "of the kinds of calls of x86_64"
    )]
    fn calls_that_are_newer_than_all_that_are_named_do_not_exist() {
        let refused = libc::SECCOMP_RET_ERRNO | 1;

        let program = program(allowing("SCMP_ACT_ERRNO", &["SCMP_ARCH_X86"]));

        for (arch, number, expected) in [
            (X86_64, 0, ALLOWED),
            (X86_64, 437, ALLOWED),
            (X86_64, 1, refused),
            (X86_64, 436, refused),
            (X86_64, 438, NO_SUCH_CALL),
            (X86_64, 600, NO_SUCH_CALL),
            (I386, 3, ALLOWED),
            (I386, 437, ALLOWED),
            (I386, 436, refused),
            (I386, 438, NO_SUCH_CALL),
        ] {
            assert_eq!(
                answer(&program, arch, number, 0),
                expected,
                "{arch:#x} {number}"
            );
        }
    }

    #[test]
    #[cfg_attr(
        not(target_arch = "x86_64"),
        ignore = "of the kinds of calls of x86_64"
    )]
    fn the_calls_of_x32_have_a_highest_number_of_their_own() {
        let refused = libc::SECCOMP_RET_ERRNO | 1;
        let mut profile = allowing("SCMP_ACT_ERRNO", &["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]);
        profile["syscalls"][0]["names"] = json!(["read", "openat2", "execveat"]);

        let with_it = program(profile);
        let without = program(allowing("SCMP_ACT_ERRNO", &["SCMP_ARCH_X86_64"]));

        for (number, expected) in [
            (X32_BIT, ALLOWED),
            (X32_BIT | 437, ALLOWED),
            // execveat, which is 322 for others.
            (X32_BIT | 545, ALLOWED),
            (X32_BIT | 544, refused),
            (X32_BIT | 546, NO_SUCH_CALL),
            (322, ALLOWED),
            (438, NO_SUCH_CALL),
            (545, NO_SUCH_CALL),
        ] {
            assert_eq!(answer(&with_it, X86_64, number, 0), expected, "{number:#x}");
        }
        // Who is not to call in that way is ended, whatever the number.
        for number in [X32_BIT, X32_BIT | 438, X32_BIT | 600] {
            assert_eq!(
                answer(&without, X86_64, number, 0),
                libc::SECCOMP_RET_KILL_THREAD,
                "{number:#x}"
            );
        }
    }

    #[test]
    fn a_profile_that_is_longer_than_the_kernel_takes_is_refused_as_it_is_read() {
        let of = |values: std::ops::Range<u64>| {
            let rules = values.map(|value| {
                let arg = json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"});
                json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [arg]})
            });
            let rules: Vec<_> = rules.collect();
            let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules});
            build(&serde_json::from_value(profile).unwrap())
        };

        let fits = of(0..1000).unwrap();
        let refused = of(0..5000).unwrap_err().to_string();

        assert!(fits.filter.program.len() / 8 <= 4096);
        assert!(refused.contains("the kernel takes 4096"), "{refused}");
    }

    #[test]
    fn whether_newer_calls_do_not_exist_is_a_matter_of_the_default() {
        let answers = |default: &str, errno: Value| {
            let mut profile = allowing(default, &[]);
            profile["defaultErrnoRet"] = errno;
            let program = program(profile);
            [436, 600].map(|number| answer(&program, NATIVE, number, 0))
        };

        for (default, errno, older, newer) in [
            (
                "ERRNO",
                json!(13),
                libc::SECCOMP_RET_ERRNO | 13,
                NO_SUCH_CALL,
            ),
            ("ERRNO", json!(38), NO_SUCH_CALL, NO_SUCH_CALL),
            ("TRAP", Value::Null, libc::SECCOMP_RET_TRAP, NO_SUCH_CALL),
            (
                "KILL",
                Value::Null,
                libc::SECCOMP_RET_KILL_THREAD,
                NO_SUCH_CALL,
            ),
            (
                "KILL_PROCESS",
                Value::Null,
                libc::SECCOMP_RET_KILL_PROCESS,
                NO_SUCH_CALL,
            ),
            (
                "TRACE",
                json!(7),
                libc::SECCOMP_RET_TRACE | 7,
                libc::SECCOMP_RET_TRACE | 7,
            ),
            (
                "LOG",
                Value::Null,
                libc::SECCOMP_RET_LOG,
                libc::SECCOMP_RET_LOG,
            ),
            ("ALLOW", Value::Null, ALLOWED, ALLOWED),
        ] {
            assert_eq!(
                answers(&format!("SCMP_ACT_{default}"), errno),
                [older, newer],
                "{default}"
            );
        }
    }

    #[test]
    fn each_flag_is_the_kernels() {
        for (names, expected) in [
            (&[][..], 0),
            (&["TSYNC"], 1),
            (&["LOG"], 2),
            (&["SPEC_ALLOW"], 4),
            (&["WAIT_KILLABLE_RECV"], 0),
            (&["LOG", "SPEC_ALLOW", "TSYNC", "LOG"], 7),
        ] {
            let names = names
                .iter()
                .map(|name| format!("SECCOMP_FILTER_FLAG_{name}"));
            let names: Vec<String> = names.collect();
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": names});

            let compiled = build(&serde_json::from_value(profile).unwrap()).unwrap();

            assert_eq!(compiled.filter.flags, expected, "{names:?}");
        }
    }

    #[test]
    fn a_condition_is_on_all_64_bits() {
        let args = |op: &str, value: u64, value_two: u64| {
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{
                    "names": ["openat2"], "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 0, "op": op, "value": value, "valueTwo": value_two}],
                }],
            })
        };
        let low = 7;
        let high = 1 << 32 | 7;

        for (op, value, value_two, refused) in [
            ("SCMP_CMP_NE", high, 0, [true, false]),
            ("SCMP_CMP_LT", high, 0, [true, false]),
            ("SCMP_CMP_LE", low, 0, [true, false]),
            ("SCMP_CMP_EQ", high, 0, [false, true]),
            ("SCMP_CMP_GE", high, 0, [false, true]),
            ("SCMP_CMP_GT", low, 0, [false, true]),
            ("SCMP_CMP_MASKED_EQ", 3 << 32, 1 << 32, [false, true]),
        ] {
            let program = program(args(op, value, value_two));

            let answers = [low, high].map(|arg| answer(&program, NATIVE, 437, arg) != ALLOWED);

            assert_eq!(answers, refused, "{op}");
        }
    }

    #[test]
    fn a_profile_that_names_no_call_says_nothing_about_newer_ones() {
        let default = json!({"defaultAction": "SCMP_ACT_ERRNO"});
        let unknown = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["make_coffee"], "action": "SCMP_ACT_ALLOW"}],
        });

        for profile in [default, unknown] {
            let program = program(profile);

            assert_eq!(
                answer(&program, NATIVE, 600, 0),
                libc::SECCOMP_RET_ERRNO | 1
            );
        }
    }
}
