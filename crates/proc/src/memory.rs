//! Gives memory back while nothing moves: much of what a relay or the daemon holds is code that ran
//! once, at its start or for the last request, and there is a relay for every pod.

use std::fs;

/// Returns free heap to the system, and lets go of the program's own code: what is needed again
/// comes back from the page cache, a few pages instead of all that the start went through.
pub fn give_back() {
    trim_heap();
    if let Ok(maps) = fs::read_to_string("/proc/self/maps") {
        for (start, end) in maps.lines().filter_map(code) {
            let_go(start, end);
        }
    }
}

/// The bounds of a line of maps, if it is private code from a file. The code holds no relocations,
/// so it is never written.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "r-xp" && fields.nth(3)?.starts_with('/');
    let [start, end] = [start, end].map(|bound| usize::from_str_radix(bound, 16).ok());
    is_code.then_some((start?, end?))
}

#[allow(unsafe_code)]
fn trim_heap() {
    // SAFETY: no condition attached; it touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[allow(unsafe_code)]
fn let_go(start: usize, end: usize) {
    let address = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the kernel says that this range is a read-only private mapping of a file: nothing in it
    // can be lost, and the next access reads it from the file again, also our own next instruction.
    // A refusal changes nothing.
    unsafe {
        libc::madvise(address, end - start, libc::MADV_DONTNEED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_files_is_let_go() {
        let code_line = "7f00a000-7f00c000 r-xp 00001000 fe:00 1234      /usr/bin/hutch-relay";
        let others = [
            "7f00a000-7f00c000 r--p 00001000 fe:00 1234      /usr/bin/hutch-relay",
            "7f00a000-7f00c000 rw-p 00000000 00:00 0         [heap]",
            "7f00a000-7f00c000 r-xp 00000000 00:00 0         [vdso]",
            "7f00a000-7f00c000 r-xp 00000000 00:00 0",
        ];

        assert_eq!(code(code_line), Some((0x7f00_a000, 0x7f00_c000)));
        assert!(others.iter().all(|line| code(line).is_none()));
    }

    #[test]
    fn the_program_goes_on_without_its_code() {
        give_back();

        assert_eq!(format!("{}", 6 * 7), "42");
    }
}
