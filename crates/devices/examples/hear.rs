//! Prints what inotify tells of a folder, until it told of a name so many times: a program to put into a guest.
//!
//! `hear FOLDER NAME TIMES` prints `listening`, then `heard NAME` each time.

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use std::{env, error::Error, mem::MaybeUninit};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [folder, wanted, times] = &words[..] else {
        return Err("usage: hear FOLDER NAME TIMES".into());
    };
    let inotify = inotify::init(CreateFlags::CLOEXEC)?;
    let what = WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::DELETE;
    inotify::add_watch(&inotify, folder.as_str(), what)?;
    println!("listening");
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(&inotify, &mut buffer);
    let mut left: u32 = times.parse()?;
    while left > 0 {
        let event = reader.next()?;
        if event
            .file_name()
            .is_some_and(|name| name.to_bytes() == wanted.as_bytes())
        {
            println!("heard {wanted}");
            left -= 1;
        }
    }
    Ok(())
}
