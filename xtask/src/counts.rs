//! How many tests passed, which failed, and reading that off cargo's output.

use std::{
    fmt,
    ops::{Add, AddAssign},
};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    /// What failed, a line each, as far as it has a name.
    pub failures: Vec<String>,
}

impl Counts {
    pub const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        failures: Vec::new(),
    };
    pub const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        failures: Vec::new(),
    };

    pub fn one(passed: bool) -> Self {
        if passed { Self::PASSED } else { Self::FAILED }
    }

    pub fn failure(what: String) -> Self {
        Self {
            failures: vec![what],
            ..Self::FAILED
        }
    }

    /// From a line like `test result: ok. 26 passed; 0 failed; 0 ignored; …`.
    pub fn of_line(line: &str) -> Option<Self> {
        let (_, results) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |word: &str| {
            results.split("; ").find_map(|part| {
                let number = part.strip_suffix(word)?;
                number.trim().parse().ok()
            })
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            failures: Vec::new(),
        })
    }

    /// The test that a line like `test engine::exec ... FAILED` is about.
    pub fn failed_test(line: &str) -> Option<&str> {
        line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            failures: [self.failures, other.failures].concat(),
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = std::mem::take(self) + other;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_result_line_is_read() {
        let line = "test result: FAILED. 26 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.03s";

        assert_eq!(
            Counts::of_line(line),
            Some(Counts {
                passed: 26,
                failed: 2,
                failures: Vec::new()
            })
        );
        assert_eq!(Counts::of_line("test a::b ... ok"), None);
        assert_eq!(Counts::of_line("test result: nonsense"), None);
    }

    #[test]
    fn sums_print_as_the_closing_line() {
        let mut sum = Counts::PASSED + Counts::failure("a: why".to_owned());
        sum += Counts::one(true);

        assert_eq!(sum.to_string(), "2 passed, 1 failed");
        assert_eq!(sum.failures, ["a: why"]);
    }

    #[test]
    fn a_failed_test_is_known_by_name() {
        let name = Counts::failed_test("test cases::exec::one ... FAILED");

        assert_eq!(name, Some("cases::exec::one"));
        assert_eq!(Counts::failed_test("test cases::exec::one ... ok"), None);
        assert_eq!(Counts::failed_test("test result: FAILED. 1 passed"), None);
    }
}
