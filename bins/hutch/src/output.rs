//! What a verb has to say, on standard output.

use anyhow::{Context as _, Result};
use serde::Serialize;
use std::{
    fmt::Display,
    io::{self, ErrorKind, Write as _},
};

/// Whoever read standard output has gone; there is nobody left to tell.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub struct Unread;

/// All of it in one write, however many lines: whoever reads it has it at once.
///
/// # Errors
/// [`Unread`], or standard output cannot be written to.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() == ErrorKind::BrokenPipe => Err(Unread.into()),
        done => done.context("write to standard output"),
    }
}

/// # Errors
/// As of [`print`].
pub fn print_line(line: impl Display) -> Result<()> {
    print(&format!("{line}\n"))
}

/// Indented, as runc has it.
///
/// # Errors
/// As of [`print`].
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print_line(serde_json::to_string_pretty(value).context("write JSON")?)
}

/// Columns as wide as their widest cell, two blanks apart; the last one is not padded.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(head[column].chars().count())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "running".to_owned()],
            vec!["longer".to_owned(), "x".to_owned()],
        ];

        assert_eq!(
            table(&["ID", "STATUS"], &rows),
            "ID      STATUS\na       running\nlonger  x\n"
        );
    }
}
