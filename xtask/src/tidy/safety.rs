//! Unsafe code is rare, named by `#[allow(unsafe_code)]`, and says why it is sound.

use super::{Finding, source::Source};

/// A comment may have a few lines, and stand above the statement that holds the block.
const REACH: usize = 8;

pub fn check(source: &Source) -> Vec<Finding> {
    let lines: Vec<&str> = source.text().lines().collect();
    source
        .find(&["unsafe", "{"])
        .into_iter()
        .filter(|line| {
            let from = line.saturating_sub(REACH);
            !lines[from..*line]
                .iter()
                .any(|text| text.contains("SAFETY:"))
        })
        .map(|line| {
            Finding::hard(
                source.path(),
                line,
                "an unsafe block says why it is sound: `// SAFETY: …`",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::texts;

    #[test]
    fn an_unsafe_block_without_a_reason_is_found() {
        let bare = "fn a() {\n    unsafe { b() }\n}\n";
        let reasoned = "fn a() {\n    // SAFETY: b has no conditions.\n    unsafe { b() }\n}\n";

        assert_eq!(texts(check, "crates/x/src/a.rs", bare).len(), 1);
        assert!(texts(check, "crates/x/src/a.rs", reasoned).is_empty());
    }
}
