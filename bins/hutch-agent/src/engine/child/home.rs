//! Gives a process its HOME, where it has none.

use crate::engine::{
    home::{KnownHome, Stamp, Witness},
    plan::ProcessPlan,
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, lstat, openat, stat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{BufRead, BufReader, Read},
};

const ETC: &CStr = c"/etc";
const PASSWD: &CStr = c"/etc/passwd";
/// An image is not trusted: more of its passwd file than this is not read.
const PASSWD_BYTES_MAX: u64 = 1024 * 1024;
/// As much as a path may have; a longer one is read anew each time.
const PATH_BYTES_MAX: usize = 4096;

/// Sets it unless it is given. What was found out anew and can be known again is given back.
pub fn set(process: &mut ProcessPlan) -> Option<KnownHome> {
    let given = |one: &CString| one.to_bytes().starts_with(b"HOME=") && one.to_bytes().len() > 5;
    if process.env.iter().any(given) {
        return None;
    }
    let known = process.known_home.take();
    let (path, news) = match known.filter(|known| known.uid == process.uid && is_true(&known.by)) {
        Some(known) => (known.path, None),
        None => {
            let (path, by) = look_up(ETC, PASSWD, process.uid);
            let is_short = path
                .as_ref()
                .is_none_or(|path| path.len() <= PATH_BYTES_MAX);
            let news = by.filter(|_| is_short).map(|by| KnownHome {
                uid: process.uid,
                path: path.clone(),
                by,
            });
            (path, news)
        }
    };
    process.env.retain(|one| one.to_bytes() != b"HOME=");
    // A line of a file that was read as text; a NUL in it makes it no home.
    if let Ok(line) = CString::new(format!("HOME={}", path.as_deref().unwrap_or("/"))) {
        process.env.push(line);
    }
    news
}

fn is_true(witness: &Witness) -> bool {
    let (path, stamp) = match witness {
        Witness::Passwd(stamp) => (PASSWD, stamp),
        Witness::Folder(stamp) => (ETC, stamp),
    };
    stat(path).is_ok_and(|found| Stamp::of(&found) == *stamp)
}

/// The witness is looked at first: what changes meanwhile is then no longer as it was.
fn look_up(etc: &CStr, passwd: &CStr, uid: u32) -> (Option<String>, Option<Witness>) {
    let folder = stat(etc).ok().and_then(|etc| Stamp::of_settled(&etc));
    // Before it is opened, which tells no missing file from a link that leads nowhere: that may lead somewhere without the
    // folder that it is in being changed.
    if lstat(passwd).err() == Some(Errno::NOENT) {
        return (None, folder.map(Witness::Folder));
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(file) = openat(CWD, passwd, flags, Mode::empty()) else {
        return (None, None);
    };
    // What is no file may say something else without having been changed.
    let found = fstat(&file).ok();
    let found = found.filter(|one| FileType::from_raw_mode(one.st_mode).is_file());
    let stamp = found.and_then(|file| Stamp::of_settled(&file));
    (home_in(File::from(file), uid), stamp.map(Witness::Passwd))
}

/// Name, password, uid, gid, full name, home, shell.
fn home_in(passwd: File, uid: u32) -> Option<String> {
    let text = BufReader::new(passwd.take(PASSWD_BYTES_MAX));
    text.lines().map_while(Result::ok).find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found = fields.next()?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        (found && !home.is_empty()).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::{ffi::OsStrExt, fs::symlink};

    /// A folder of every system, which nobody has changed a moment ago.
    const OLD: &CStr = c"/usr";

    #[test]
    fn that_there_is_no_file_is_known_by_its_folder_unless_a_link_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("passwd");
        symlink("nowhere", &link).unwrap();
        let link = CString::new(link.as_os_str().as_bytes()).unwrap();

        let none = look_up(OLD, c"/usr/no-such-file", 0);
        let dangling = look_up(OLD, &link, 0);

        assert!(matches!(none, (None, Some(Witness::Folder(_)))), "{none:?}");
        assert_eq!(dangling, (None, None));
    }

    #[test]
    fn a_home_is_read_of_a_file_and_nothing_is_known_by_what_is_none() {
        let device = look_up(OLD, c"/dev/null", 0);
        let mut passwd = tempfile::NamedTempFile::new().unwrap();
        let text = "a:x:1:1::/a:/bin/sh\nshort\nb:x:2:2:::\nc:x:3:3::/c:/bin/sh\n";
        std::io::Write::write_all(&mut passwd, text.as_bytes()).unwrap();
        let path = CString::new(passwd.path().as_os_str().as_bytes()).unwrap();

        assert_eq!(device, (None, None));
        for (uid, home) in [(1, Some("/a")), (2, None), (3, Some("/c")), (4, None)] {
            // It was changed a moment ago.
            let (found, by) = look_up(OLD, &path, uid);
            assert_eq!((found.as_deref(), by), (home, None), "{uid}");
        }
    }
}
