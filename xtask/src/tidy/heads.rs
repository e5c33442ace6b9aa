//! Every module opens by saying what it is for.

use super::{Finding, source::Source};

pub fn check(source: &Source) -> Vec<Finding> {
    let head = source.text().lines().next().unwrap_or_default();
    // A file of nothing but tests may start with what it allows itself.
    let opens = head.starts_with("//! ")
        || (source.is_test() && source.text().lines().any(|line| line.starts_with("//! ")));
    if opens {
        return Vec::new();
    }
    vec![Finding::hard(
        source.path(),
        1,
        "a module opens with `//!` and what it is for",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::texts;

    #[test]
    fn a_module_without_a_head_is_found() {
        assert_eq!(texts(check, "crates/x/src/a.rs", "fn main() {}\n").len(), 1);
        assert_eq!(texts(check, "crates/x/src/a.rs", "").len(), 1);
        assert!(texts(check, "crates/x/src/a.rs", "//! For this.\n").is_empty());
    }
}
