//! Our own checks: what the compiler and clippy do not know about this house.
//!
//! Every rule looks at one file or at the whole tree and returns findings. A finding fails; a soft one is shown and does not.

mod behaviours;
mod borders;
mod heads;
mod names;
mod places;
mod registered;
mod safety;
mod sizes;
mod source;
mod tree;
mod unfinished;
mod xtask_tree;

use crate::workspace::Workspace;
use anyhow::Result;
use source::Source;
use tree::Tree;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Soft,
    Hard,
}

/// Something that is not as it should be, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    weight: Weight,
    path: String,
    line: usize,
    text: String,
}

impl Finding {
    fn hard(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self {
            weight: Weight::Hard,
            path: path.to_owned(),
            line,
            text: text.into(),
        }
    }

    fn soft(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self {
            weight: Weight::Soft,
            ..Self::hard(path, line, text)
        }
    }
}

/// Looks at Rust files one by one.
const FILE_RULES: &[fn(&Source) -> Vec<Finding>] = &[
    sizes::check,
    heads::check,
    names::check,
    borders::check,
    unfinished::check,
    safety::check,
];

/// Looks at the whole tree.
const TREE_RULES: &[fn(&Tree) -> Vec<Finding>] =
    &[places::check, borders::check_manifests, behaviours::check];

/// Runs every rule, prints what it finds, and says whether all is well.
pub fn run(workspace: &Workspace) -> Result<bool> {
    let tree = Tree::read(workspace.root())?;
    let mut findings: Vec<Finding> = tree
        .sources
        .iter()
        .flat_map(look_at)
        .chain(TREE_RULES.iter().flat_map(|rule| rule(&tree)))
        .chain(xtask_tree::check(workspace)?)
        .collect();
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    for finding in &findings {
        let weight = match finding.weight {
            Weight::Soft => "note",
            Weight::Hard => "error",
        };
        let Finding {
            path, line, text, ..
        } = finding;
        eprintln!("tidy: {weight}: {path}:{line}: {text}");
    }
    Ok(!findings
        .iter()
        .any(|finding| finding.weight == Weight::Hard))
}

/// What stands against a file, less what it gives a reason for.
fn look_at(source: &Source) -> Vec<Finding> {
    let mut findings: Vec<Finding> = FILE_RULES.iter().flat_map(|rule| rule(source)).collect();
    for finding in &mut findings {
        if source.is_excused(finding.line) {
            finding.weight = Weight::Soft;
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of what a rule finds in a file.
    pub(super) fn texts(
        rule: fn(&Source) -> Vec<Finding>,
        path: &str,
        text: &str,
    ) -> Vec<(Weight, usize, String)> {
        let source = Source::parse(path, text).unwrap();
        rule(&source)
            .into_iter()
            .map(|finding| (finding.weight, finding.line, finding.text))
            .collect()
    }

    #[test]
    fn an_excused_finding_is_shown_and_does_not_fail() {
        let text = "//! For this.\n// tidy: the peer has no other sign of life\nfn a() { std::thread::sleep(D) }\n";
        let source = Source::parse("crates/host/src/a.rs", text).unwrap();

        let found = look_at(&source);

        assert_eq!(found.len(), 1);
        assert_eq!(found[0].weight, Weight::Soft);
    }

    #[test]
    fn this_workspace_is_read_whole() {
        let tree = Tree::read(Workspace::find().root()).unwrap();

        let paths: Vec<&str> = tree.sources.iter().map(Source::path).collect();
        assert!(paths.contains(&"xtask/src/tidy/mod.rs"), "{paths:?}");
        assert!(paths.contains(&"crates/stream/src/lib.rs"), "{paths:?}");
        assert!(!paths.iter().any(|path| path.starts_with("target/")));
        assert!(tree.texts.contains_key("Cargo.toml"));
    }
}
