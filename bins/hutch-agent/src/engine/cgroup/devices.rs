//! Device rules as a program for the kernel: pure.
//!
//! The rules of OCI are a list in which the last that fits decides, and what fits none is denied.
//! The program asks them from the last to the first.

use crate::engine::{
    bpf::{Instruction, Register},
    error::{Error, Result},
};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// From linux/bpf.h.
const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

const ANSWER: Register = Register(0);
const CONTEXT: Register = Register(1);
const KIND: Register = Register(2);
const ACCESS: Register = Register(3);
const MAJOR: Register = Register(4);
const MINOR: Register = Register(5);
const SPARE: Register = Register(6);

/// Bits of what is done to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    const ALL: Self = Self(MAKE | READ | WRITE);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    allow: bool,
    /// None is any.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: Access,
}

impl Rule {
    fn fits_everything(&self) -> bool {
        let any = self.kind.is_none() && self.major.is_none() && self.minor.is_none();
        any && self.access == Access::ALL
    }
}

/// # Errors
/// A rule that makes no sense.
pub fn lower_rules<'r>(
    rules: impl IntoIterator<Item = &'r LinuxDeviceCgroup>,
) -> Result<Vec<Rule>> {
    rules.into_iter().map(lower_rule).collect()
}

fn lower_rule(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::C | LinuxDeviceType::U => Some(CHAR),
        LinuxDeviceType::B => Some(BLOCK),
        LinuxDeviceType::P => return invalid("a pipe is no device"),
    };
    Ok(Rule {
        allow: rule.allow(),
        kind,
        // For "all" the first version of cgroups never looked at the numbers.
        major: number(rule.major(), "major")?.filter(|_| kind.is_some()),
        minor: number(rule.minor(), "minor")?.filter(|_| kind.is_some()),
        access: access(rule.access().as_deref().unwrap_or_default())?,
    })
}

fn number(number: Option<i64>, name: &str) -> Result<Option<i32>> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => match i32::try_from(number) {
            Ok(number) if number >= 0 => Ok(Some(number)),
            _ => invalid(format!("{name} {number} is not valid")),
        },
    }
}

fn access(word: &str) -> Result<Access> {
    if word.is_empty() {
        return Ok(Access::ALL);
    }
    word.chars().try_fold(Access(0), |all, one| match one {
        'r' => Ok(Access(all.0 | READ)),
        'w' => Ok(Access(all.0 | WRITE)),
        'm' => Ok(Access(all.0 | MAKE)),
        _ => invalid(format!("access {word:?} is not made of r, w and m")),
    })
}

fn invalid<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Invalid {
        what: "linux.resources.devices".to_owned(),
        why: why.into(),
    })
}

/// None: everything is allowed, and no program is needed.
pub fn compile(rules: &[Rule]) -> Option<Vec<Instruction>> {
    if rules
        .last()
        .is_some_and(|rule| rule.allow && rule.fits_everything())
    {
        return None;
    }
    let mut code = vec![
        Instruction::load(KIND, CONTEXT, 0),
        Instruction::copy(ACCESS, KIND),
        Instruction::shift_right(ACCESS, 16),
        Instruction::and(KIND, 0xffff),
        Instruction::load(MAJOR, CONTEXT, 4),
        Instruction::load(MINOR, CONTEXT, 8),
    ];
    for rule in rules.iter().rev() {
        code.extend(block(rule));
        if rule.fits_everything() {
            // Nothing before it is ever asked, and the kernel refuses what is never reached.
            return Some(code);
        }
    }
    code.extend([Instruction::set(ANSWER, 0), Instruction::exit()]);
    Some(code)
}

/// Tests that jump behind the block, then the answer.
fn block(rule: &Rule) -> Vec<Instruction> {
    let mut tests = Vec::new();
    let mut ask = |make: fn(Register, i32, i16) -> Instruction, one: Register, value: i32| {
        tests.push((make, one, value));
    };
    if let Some(kind) = rule.kind {
        ask(Instruction::skip_unless, KIND, kind);
    }
    if let Some(major) = rule.major {
        ask(Instruction::skip_unless, MAJOR, major);
    }
    if let Some(minor) = rule.minor {
        ask(Instruction::skip_unless, MINOR, minor);
    }
    // An allowance must hold all that is done, a refusal any of it.
    let masked = (rule.access != Access::ALL).then(|| {
        if rule.allow {
            ask(Instruction::skip_unless, SPARE, 0);
            !i32::from(rule.access.0)
        } else {
            ask(Instruction::skip_if, SPARE, 0);
            i32::from(rule.access.0)
        }
    });
    let mut code = Vec::new();
    if let Some(mask) = masked {
        code.extend([
            Instruction::copy(SPARE, ACCESS),
            Instruction::and(SPARE, mask),
        ]);
    }
    let count = tests.len();
    for (position, (make, one, value)) in tests.into_iter().enumerate() {
        // Over the tests that follow and the two instructions of the answer.
        let over = i16::try_from(count - position - 1 + 2).expect("a rule has four tests");
        code.push(make(one, value, over));
    }
    code.extend([
        Instruction::set(ANSWER, rule.allow.into()),
        Instruction::exit(),
    ]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lower::default_rules;

    fn rules(json: &str) -> Vec<Rule> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        lower_rules(&rules).unwrap()
    }

    /// A small machine that runs what the kernel would run.
    fn answer(code: &[Instruction], kind: i32, access: u8, major: u64, minor: u64) -> bool {
        let context = [u64::from(access) << 16 | kind as u64, major, minor];
        let mut registers = [0_u64; 10];
        let mut at = 0;
        loop {
            let raw = code[at].raw();
            let (to, from) = ((raw >> 8 & 15) as usize, (raw >> 12 & 15) as usize);
            let offset = (raw >> 16) as u16 as i16;
            let value = (raw >> 32) as u32 as i32 as i64 as u64;
            at += 1;
            match raw as u8 {
                0x61 => registers[to] = context[offset as usize / 4],
                0xbf => registers[to] = registers[from],
                0xb7 => registers[to] = value,
                0x57 => registers[to] &= value,
                0x77 => registers[to] >>= value,
                0x55 if registers[to] != value => at += offset as usize,
                0x15 if registers[to] == value => at += offset as usize,
                0x55 | 0x15 => {}
                0x95 => return registers[0] == 1,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let code = compile(&rules(
            r#"[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
                {"allow":true,"type":"b","major":8,"access":"r"},
                {"allow":false,"type":"c","major":10,"minor":229,"access":"w"}]"#,
        ))
        .unwrap();

        assert!(answer(&code, CHAR, READ, 10, 229));
        assert!(!answer(&code, CHAR, WRITE, 10, 229));
        assert!(!answer(&code, CHAR, READ | WRITE, 10, 229));
        assert!(!answer(&code, CHAR, MAKE, 10, 229));
        assert!(answer(&code, BLOCK, READ, 8, 77));
        assert!(!answer(&code, BLOCK, READ | WRITE, 8, 77));
        assert!(!answer(&code, CHAR, READ, 8, 77));
    }

    #[test]
    fn what_every_container_has_can_be_used() {
        let defaults = lower_rules(&default_rules()).unwrap();

        let code = compile(&defaults).unwrap();

        assert!(answer(&code, CHAR, READ | WRITE, 1, 3));
        assert!(answer(&code, CHAR, READ | WRITE, 136, 7));
        assert!(answer(&code, BLOCK, MAKE, 8, 0));
        assert!(!answer(&code, BLOCK, READ, 8, 0));
        assert!(!answer(&code, CHAR, READ, 1, 1));
    }

    #[test]
    fn where_everything_is_allowed_there_is_no_program() {
        assert_eq!(compile(&rules(r#"[{"allow":true}]"#)), None);
        assert!(compile(&rules(r#"[{"allow":true},{"allow":false}]"#)).is_some());
        assert!(compile(&[]).is_some());
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused() {
        let rules: Vec<LinuxDeviceCgroup> =
            serde_json::from_str(r#"[{"allow":true,"access":"rwx"}]"#).unwrap();

        assert_eq!(
            lower_rules(&rules).unwrap_err().to_string(),
            r#"linux.resources.devices: access "rwx" is not made of r, w and m"#
        );
    }
}
