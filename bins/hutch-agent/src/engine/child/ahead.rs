//! Reads ahead what the kernel will need of a program, for a process that has time.
//!
//! Each part that it needs only as the program begins is a question to the host, which the process waits for. What cannot be
//! read is no matter here: running the program tells.

use crate::engine::home::is_settled;
use rustix::{
    fd::OwnedFd,
    fs::{Advice, CWD, FileType, Mode, OFlags, fadvise, fgetxattr, fstat, openat},
};
use std::{
    ffi::{CStr, CString},
    num::NonZeroU64,
};

/// Headers lie in front, and so does the name of a loader.
const HEAD_BYTES: usize = 4096;
/// Around a place, as the kernel itself reads for a page that is missing (`read_ahead_kb` of a share, its default).
const AROUND_BYTES: u64 = 128 * 1024;
/// Real programs have two; what is read for one container, others of the sandbox wait for.
const PLACES_MAX: usize = 4;
/// A script, its shell, and the shell's loader.
const PROGRAMS_MAX: usize = 3;

/// Of a program, and of whom it is run by.
pub fn read(path: &CStr) {
    let mut next = Some(path.to_owned());
    for _ in 0..PROGRAMS_MAX {
        next = next.and_then(|path| read_one(&path));
    }
}

/// Gives whom it is run by.
fn read_one(path: &CStr) -> Option<CString> {
    let file = open(path)?;
    let mut head = [0; HEAD_BYTES];
    let count = rustix::io::pread(&file, &mut head, 0).ok()?;
    // The kernel asks for it of each program, and remembers that there is none.
    let _ = fgetxattr(&file, c"security.capability", &mut [0; 0]);
    let head = Head::parse(&head[..count]);
    for place in head.places.into_iter().take(PLACES_MAX) {
        let from = place.saturating_sub(AROUND_BYTES / 2);
        let _ = fadvise(&file, from, NonZeroU64::new(AROUND_BYTES), Advice::WillNeed);
    }
    head.run_by
}

fn open(path: &CStr) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat(CWD, path, flags, Mode::empty()).ok()?;
    let found = fstat(&file).ok()?;
    let is_file = FileType::from_raw_mode(found.st_mode).is_file();
    // Of a file that was changed a moment ago nothing is kept until it is run (guest/patches/0002).
    (is_file && is_settled(&found)).then_some(file)
}

/// What the head of a program tells.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    run_by: Option<CString>,
    /// Offsets in the file: where it begins to run, and where memory begins that is not in the file.
    places: Vec<u64>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Self {
        match bytes {
            [b'#', b'!', line @ ..] => Self {
                run_by: shell(line),
                places: Vec::new(),
            },
            [0x7f, b'E', b'L', b'F', 2, 1, ..] => Self::of_elf(bytes).unwrap_or_default(),
            _ => Self::default(),
        }
    }

    /// `Elf64_Ehdr` and `Elf64_Phdr` of elf(5), as far as they are there.
    fn of_elf(bytes: &[u8]) -> Option<Self> {
        const INTERP: u32 = 3;
        const LOAD: u32 = 1;
        let entry = number(bytes, 24)?;
        let first = usize::try_from(number(bytes, 32)?).ok()?;
        let size = usize::from(u16::from_le_bytes(*bytes.get(54..)?.first_chunk()?));
        let count = usize::from(u16::from_le_bytes(*bytes.get(56..)?.first_chunk()?));
        let mut head = Self::default();
        for header in bytes.get(first..)?.chunks(size.max(1)).take(count) {
            let kind = u32::from_le_bytes(*header.first_chunk()?);
            let (Some(offset), Some(address), Some(in_file), Some(in_memory)) = (
                number(header, 8),
                number(header, 16),
                number(header, 32),
                number(header, 40),
            ) else {
                break;
            };
            match kind {
                INTERP => head.run_by = string(bytes, offset),
                LOAD => {
                    if let Some(into) = entry.checked_sub(address).filter(|into| *into < in_file) {
                        head.places.push(offset.saturating_add(into));
                    }
                    if in_memory > in_file {
                        head.places.push(offset.saturating_add(in_file));
                    }
                }
                _ => {}
            }
        }
        Some(head)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn string(bytes: &[u8], offset: u64) -> Option<CString> {
    let from = bytes.get(usize::try_from(offset).ok()?..)?;
    CStr::from_bytes_until_nul(from).ok().map(CStr::to_owned)
}

/// The first word of a line.
fn shell(line: &[u8]) -> Option<CString> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(u8::is_ascii_whitespace);
    let word = words.find(|word| !word.is_empty())?;
    CString::new(word).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head with these program headers: kind, offset, address, in file, in memory.
    fn elf(entry: u64, headers: &[[u64; 5]]) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        bytes.resize(24, 0);
        bytes.extend(entry.to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.resize(54, 0);
        bytes.extend(56u16.to_le_bytes());
        bytes.extend((headers.len() as u16).to_le_bytes());
        bytes.resize(64, 0);
        for [kind, offset, address, in_file, in_memory] in headers {
            bytes.extend((*kind as u32).to_le_bytes());
            bytes.extend([0; 4]);
            for number in [offset, address, &0, in_file, in_memory, &0] {
                bytes.extend(number.to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn of_a_program_its_entry_its_end_and_its_loader_are_found() {
        let mut bytes = elf(
            0x40_1234,
            &[
                [3, 232, 0, 8, 8],
                [1, 0x1000, 0x40_1000, 0x500, 0x500],
                [1, 0x9000, 0x40_9000, 0x300, 0x800],
            ],
        );
        bytes.resize(232, 0);
        bytes.extend(b"/ld.so\0");

        let head = Head::parse(&bytes);

        assert_eq!(head.run_by.as_deref(), Some(c"/ld.so"));
        assert_eq!(head.places, [0x1234, 0x9300]);
    }

    #[test]
    fn of_a_script_its_shell_is_found() {
        for (text, found) in [
            ("#!/bin/sh\nexit\n", Some(c"/bin/sh")),
            ("#! /usr/bin/env python3\n", Some(c"/usr/bin/env")),
            ("#!\n/bin/sh", None),
            ("/bin/sh", None),
            ("", None),
        ] {
            let head = Head::parse(text.as_bytes());
            assert_eq!(head.run_by.as_deref(), found, "{text:?}");
        }
    }

    #[test]
    fn a_head_of_lies_or_that_is_cut_off_is_no_more_than_it_is() {
        let whole = elf(
            u64::MAX,
            &[
                [3, u64::MAX, 0, 0, 0],
                [1, u64::MAX, 0, u64::MAX, u64::MAX],
                [1, u64::MAX, 1, u64::MAX, 0],
            ],
        );
        for length in 0..=whole.len() {
            let head = Head::parse(&whole[..length]);
            assert_eq!(head.run_by, None, "{length} bytes");
        }
    }

    #[test]
    fn a_program_is_run_by_whom_its_file_names() {
        // It was installed longer ago than what is told apart here.
        assert_eq!(
            read_one(c"/bin/sh").as_deref(),
            loader_of_shell().as_deref()
        );
        assert_eq!(read_one(c"/nowhere"), None);
        assert_eq!(read_one(c"/dev/null"), None);
    }

    fn loader_of_shell() -> Option<CString> {
        Head::parse(&std::fs::read("/bin/sh").unwrap()).run_by
    }
}
