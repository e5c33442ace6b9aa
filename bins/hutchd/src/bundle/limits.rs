//! Limits that runc, or the kernel that it writes them to, refuses: the guest's kernel counts in other units, and what
//! they come to there may be taken all the same.

use oci_spec::runtime::LinuxResources;
use runtime_core::error::Fault;

/// Of processor time, by weight: what cgroups of version 1 have; 0 says nothing.
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
/// How a size says that there is no limit.
const UNLIMITED: i64 = -1;

/// # Errors
/// `Invalid`, in runc's words where it has any.
pub(super) fn check(resources: &LinuxResources) -> Result<(), Fault> {
    let cpu = resources.cpu().as_ref();
    match cpu.and_then(|cpu| cpu.shares()) {
        Some(shares) if shares != 0 && shares < SHARES_MIN => {
            return refused(format!("the minimum allowed cpu-shares is {SHARES_MIN}"));
        }
        Some(shares) if shares > SHARES_MAX => {
            return refused(format!("the maximum allowed cpu-shares is {SHARES_MAX}"));
        }
        Some(_) | None => {}
    }
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    for (name, size) in [
        ("limit", memory.limit()),
        ("reservation", memory.reservation()),
        ("swap", memory.swap()),
    ] {
        match size {
            Some(size) if size < UNLIMITED => {
                return refused(format!(
                    "memory.{name}: {size} is no size; {UNLIMITED} is no limit"
                ));
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn refused(why: String) -> Result<(), Fault> {
    Err(Fault::invalid(format!("linux.resources: {why}")))
}

#[cfg(test)]
mod tests {
    use crate::bundle::check_resources_json;

    #[test]
    fn limits_that_runc_refuses_are_refused() {
        let check = |text: &str| check_resources_json(text.as_bytes());

        for (text, said) in [
            (
                r#"{"cpu": {"shares": 1}}"#,
                "minimum allowed cpu-shares is 2",
            ),
            (
                r#"{"cpu": {"shares": 262145}}"#,
                "maximum allowed cpu-shares is 262144",
            ),
            (
                r#"{"memory": {"limit": -5}}"#,
                "memory.limit: -5 is no size",
            ),
            (r#"{"memory": {"reservation": -2}}"#, "memory.reservation"),
            (r#"{"memory": {"limit": 7, "swap": -2}}"#, "memory.swap"),
        ] {
            let why = check(text).unwrap_err().to_string();
            assert!(why.contains(said), "{text}: {why}");
        }
        for text in [
            r#"{"cpu": {"shares": 0}}"#,
            r#"{"cpu": {"shares": 2}}"#,
            r#"{"cpu": {"shares": 262144, "quota": -5}}"#,
            r#"{"memory": {"limit": -1, "swap": -1, "reservation": 0}}"#,
            r#"{"pids": {"limit": -5}}"#,
        ] {
            assert!(check(text).is_ok(), "{text}");
        }
    }
}
