//! How large the VM of a sandbox is, and what may be asked of it by annotations of our own.
//!
//! What nobody of us knows is refused by name: a size that silently is another one is found out when memory runs out.

use protocols::annotations::{ALL, GUEST_PROFILE, MEMORY_MIB, OURS, VCPUS};
use runtime_core::error::Fault;
use std::{collections::BTreeMap, ops::RangeInclusive};

/// More than a container runtime's guests were tried with is not promised.
pub const VCPUS_POSSIBLE: RangeInclusive<u64> = 1..=16;
/// A kernel and an agent need the least. An emulated processor has 40 bits for an address, and devices need some of them.
pub const MEMORY_MIB_POSSIBLE: RangeInclusive<u64> = 64..=512 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub vcpus: u32,
    pub memory_mib: u64,
}

impl Size {
    /// What is asked for, and the usual where nothing is.
    ///
    /// # Errors
    /// `Invalid`: what is asked for is no number, or more or less than a sandbox can have.
    pub fn asked(annotations: &BTreeMap<String, String>, usual: Self) -> Result<Self, Fault> {
        let vcpus = number(annotations, VCPUS, VCPUS_POSSIBLE)?;
        let memory_mib = number(annotations, MEMORY_MIB, MEMORY_MIB_POSSIBLE)?;
        Ok(Self {
            vcpus: vcpus.map_or(usual.vcpus, |asked| {
                u32::try_from(asked).expect("its bound is small")
            }),
            memory_mib: memory_mib.unwrap_or(usual.memory_mib),
        })
    }
}

fn number(
    annotations: &BTreeMap<String, String>,
    key: &str,
    possible: RangeInclusive<u64>,
) -> Result<Option<u64>, Fault> {
    let Some(text) = annotations.get(key) else {
        return Ok(None);
    };
    let wrong = || {
        let (least, most) = (possible.start(), possible.end());
        let shown: String = text.chars().take(32).collect();
        Fault::invalid(format!(
            "annotation {key} is {shown:?}; a number from {least} to {most} is possible"
        ))
    };
    let asked: u64 = text.parse().map_err(|_| wrong())?;
    match possible.contains(&asked) {
        true => Ok(Some(asked)),
        false => Err(wrong()),
    }
}

/// Of a sandbox that is to be made.
///
/// # Errors
/// `Invalid`: one that begins as ours do, and is none.
pub fn check_known(annotations: &BTreeMap<String, String>) -> Result<(), Fault> {
    match ours(annotations).find(|key| !ALL.contains(key)) {
        Some(key) => Err(none_of_ours(key)),
        None => Ok(()),
    }
}

/// Of one that is there: what it was made by stays as it is.
///
/// # Errors
/// `Invalid`: one that begins as ours do.
pub fn check_changed(annotations: &BTreeMap<String, String>) -> Result<(), Fault> {
    match ours(annotations).next() {
        Some(key) if ALL.contains(&key) => Err(Fault::invalid(format!(
            "annotation {key} is for the creation of a sandbox, and changes nothing later"
        ))),
        Some(key) => Err(none_of_ours(key)),
        None => Ok(()),
    }
}

/// What a container that joins a sandbox asks for in vain: that was decided when the sandbox was made.
pub fn in_vain(annotations: &BTreeMap<String, String>) -> Vec<&str> {
    ours(annotations).collect()
}

fn ours(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    let keys = annotations.keys().map(String::as_str);
    keys.filter(|key| key.starts_with(OURS))
}

fn none_of_ours(key: &str) -> Fault {
    let shown: String = key.chars().take(128).collect();
    Fault::invalid(format!(
        "annotation {shown:?} is none that is known: {GUEST_PROFILE}, {VCPUS} and {MEMORY_MIB} are"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::error::Kind;

    const USUAL: Size = Size {
        vcpus: 1,
        memory_mib: 256,
    };

    fn all(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_sandbox_is_as_large_as_it_asks_and_else_as_usual() {
        let both = all(&[(VCPUS, "2"), (MEMORY_MIB, "384")]);
        let large = Size {
            vcpus: 2,
            memory_mib: 384,
        };

        assert_eq!(Size::asked(&both, USUAL).unwrap(), large);
        assert_eq!(Size::asked(&BTreeMap::new(), USUAL).unwrap(), USUAL);
        let more = Size::asked(&all(&[(MEMORY_MIB, "64")]), USUAL).unwrap();
        assert_eq!((more.vcpus, more.memory_mib), (1, 64));
    }

    #[test]
    fn a_size_that_no_sandbox_can_have_is_refused_with_what_is_possible() {
        for (key, value, possible) in [
            (VCPUS, "0", "from 1 to 16"),
            (VCPUS, "17", "from 1 to 16"),
            (VCPUS, "two", "from 1 to 16"),
            (VCPUS, "-1", "from 1 to 16"),
            (VCPUS, "", "from 1 to 16"),
            (MEMORY_MIB, "63", "from 64 to 524288"),
            (MEMORY_MIB, "524289", "from 64 to 524288"),
            (MEMORY_MIB, "1G", "from 64 to 524288"),
            (MEMORY_MIB, "99999999999999999999", "from 64 to 524288"),
        ] {
            let refused = Size::asked(&all(&[(key, value)]), USUAL).unwrap_err();

            let text = refused.to_string();
            assert!(text.contains(key) && text.contains(possible), "{text}");
            assert_eq!(refused.kind(), Kind::Invalid);
        }
    }

    #[test]
    fn an_annotation_of_ours_that_nobody_knows_is_refused_by_name() {
        let typo = all(&[("dev.hutch.vcpu", "2"), ("team", "blue")]);
        let good = all(&[
            (VCPUS, "2"),
            (GUEST_PROFILE, "hutch"),
            ("dev.hutchinson", "x"),
        ]);

        let refused = check_known(&typo).unwrap_err().to_string();

        assert!(refused.contains("\"dev.hutch.vcpu\""), "{refused}");
        assert_eq!(check_known(&good).map_err(|why| why.to_string()), Ok(()));
    }

    #[test]
    fn what_a_sandbox_was_made_by_is_not_changed_later() {
        for key in ALL {
            let refused = check_changed(&all(&[(key, "2")])).unwrap_err().to_string();
            assert!(refused.contains(key), "{refused}");
        }
        let unknown = check_changed(&all(&[("dev.hutch.x", "2")])).unwrap_err();
        assert!(unknown.to_string().contains("none that is known"));
        let other = check_changed(&all(&[("team", "blue")]));
        assert_eq!(other.map_err(|why| why.to_string()), Ok(()));
        assert_eq!(in_vain(&all(&[("a", "b"), (VCPUS, "2")])), [VCPUS]);
    }
}
