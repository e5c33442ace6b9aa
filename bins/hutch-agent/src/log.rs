//! One-line messages: to the kernel's log in a guest (errors also appear on the console), to
//! stderr elsewhere. Keeps no state but the descriptor; formats nothing on its own.

use std::{
    fmt::{self, Write as _},
    fs::{File, OpenOptions},
    io::Write as _,
    sync::OnceLock,
};

/// The kernel refuses a record of more than 1,024 bytes, its own prefix included.
const LINE_MAX: usize = 900;

static KMSG: OnceLock<File> = OnceLock::new();

/// The kernel's levels; at "quiet" only those below 4 reach the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Fatal = 2,
    Error = 3,
    Note = 6,
}

/// Sends what follows to the kernel's log. Without it, and before it, lines go to stderr.
pub fn to_kernel() {
    if let Ok(file) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // A second call changes nothing.
        let _ = KMSG.set(file);
    }
}

/// Writes one line. A line that cannot be written has nowhere else to go.
pub fn write(level: Level, text: fmt::Arguments<'_>) {
    let line = line(level, text);
    match KMSG.get() {
        Some(mut kmsg) => drop(kmsg.write_all(line.as_bytes())),
        None => drop(std::io::stderr().write_all(&line.as_bytes()[3..])),
    }
}

fn line(level: Level, text: fmt::Arguments<'_>) -> String {
    let mut line = String::with_capacity(160);
    // Writing to a string cannot fail.
    let _ = write!(line, "<{}>hutch-agent: {text}", level as u8);
    if line.len() > LINE_MAX {
        let mut end = LINE_MAX;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
    }
    if line.contains('\n') {
        line = line.replace('\n', " | ");
    }
    line.push('\n');
    line
}

#[macro_export]
macro_rules! note {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Note, format_args!($($arg)*)) };
}

#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($arg)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_with_its_level() {
        let line = line(Level::Error, format_args!("mount x:\nno such device"));

        assert_eq!(line, "<3>hutch-agent: mount x: | no such device\n");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let line = line(Level::Note, format_args!("{}", "é".repeat(LINE_MAX)));

        assert!(line.len() <= LINE_MAX + 1);
        assert!(line.ends_with("é\n"));
    }
}
