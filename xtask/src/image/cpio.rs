//! A writer of cpio archives in the `newc` format, the one that the kernel unpacks an initramfs from.
//!
//! Owner, times and order are fixed, so the bytes depend on names and contents alone.

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
/// Header fields, names and contents begin at multiples of this.
const ALIGNMENT: usize = 4;

pub enum Node<'a> {
    Folder { mode: u32 },
    File { mode: u32, content: &'a [u8] },
    CharDevice { mode: u32, major: u32, minor: u32 },
}

/// What differs between entries, beside name and content.
#[derive(Default)]
struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    major: u32,
    minor: u32,
}

#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a node. A folder must come before what lies in it: the kernel creates in order.
    pub fn add(&mut self, name: &str, node: Node<'_>) {
        self.entries += 1;
        let plain = Header {
            inode: self.entries,
            links: 1,
            ..Header::default()
        };
        let (header, content) = match node {
            Node::Folder { mode } => {
                let mode = S_IFDIR | mode;
                (
                    Header {
                        mode,
                        links: 2,
                        ..plain
                    },
                    &[][..],
                )
            }
            Node::File { mode, content } => {
                let mode = S_IFREG | mode;
                (Header { mode, ..plain }, content)
            }
            Node::CharDevice { mode, major, minor } => {
                let mode = S_IFCHR | mode;
                (
                    Header {
                        mode,
                        major,
                        minor,
                        ..plain
                    },
                    &[][..],
                )
            }
        };
        self.entry(&header, name, content);
    }

    pub fn finish(mut self) -> Vec<u8> {
        let trailer = Header {
            links: 1,
            ..Header::default()
        };
        self.entry(&trailer, TRAILER, &[]);
        self.bytes
    }

    fn entry(&mut self, header: &Header, name: &str, content: &[u8]) {
        let size = u32::try_from(content.len()).expect("a file of a guest image is below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        let (owner, group, time, check) = (0, 0, 0, 0);
        let fields = [
            header.inode,
            header.mode,
            owner,
            group,
            header.links,
            time,
            size,
            0,
            0,
            header.major,
            header.minor,
            name_size,
            check,
        ];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_as_the_format_says() {
        let mut archive = Archive::default();
        archive.add(
            "init",
            Node::File {
                mode: 0o755,
                content: b"hello",
            },
        );

        let bytes = archive.finish();

        let header = "070701\
            00000001000081ED00000000000000000000000100000000\
            00000005000000000000000000000000000000000000000500000000";
        assert_eq!(&bytes[..110], header.as_bytes());
        assert_eq!(&bytes[110..124], b"init\0\0hello\0\0\0");
        assert!(bytes[124..].starts_with(b"070701"));
        assert!(
            bytes
                .windows(TRAILER.len())
                .any(|w| w == TRAILER.as_bytes()),
            "the kernel stops reading at the trailer"
        );
        assert_eq!(bytes.len() % ALIGNMENT, 0);
    }

    #[test]
    fn a_device_carries_its_numbers() {
        let mut archive = Archive::default();
        archive.add(
            "console",
            Node::CharDevice {
                mode: 0o600,
                major: 5,
                minor: 1,
            },
        );

        let bytes = archive.finish();

        assert_eq!(&bytes[14..22], b"00002180");
        assert_eq!(&bytes[78..94], b"0000000500000001");
    }
}
