//! Reads a page of itself that was never read before, once it is told to: a program to put into a guest.
//!
//! `page_in` prints `ready`, waits for a line, prints `reading`, and `read` when the page is there.

use std::{error::Error, hint::black_box, io};

/// Far more than is read ahead of the program's start.
static PAGES: [u8; 8 << 20] = [7; 8 << 20];

fn main() -> Result<(), Box<dyn Error>> {
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    println!("reading");
    let page = black_box(&PAGES)[PAGES.len() / 2];
    println!("read {page}");
    Ok(())
}
