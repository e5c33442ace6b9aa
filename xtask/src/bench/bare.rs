//! The yardstick: QEMU by hand, without a daemon, with nothing that the point to reach does not need.
//!
//! Machine, accelerator, memory, firmware, kernel and the kernel's words are those of a VMM that
//! hutchd started, read off its command line, so that both boot the same thing.

use super::{
    console::{self, Ready},
    meter,
};
use crate::{
    e2e::{process, world::World},
    image,
    scratch::Scratch,
};
use anyhow::{Context, Result};
use nix::unistd::Pid;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Where the program is that stands in for an init.
const STAND_IN: &str = "bare-init";
/// What it says; its first instruction has run by then.
const STAND_IN_SAYS: &str = "/init\n";

/// What is taken over from the VMM's command line, word for word.
const TAKEN: [&str; 6] = ["-accel", "-cpu", "-smp", "-m", "-bios", "-kernel"];

/// A machine as hutchd boots it.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    program: String,
    options: Vec<String>,
    machine: String,
    initrd: PathBuf,
    append: String,
}

/// How a boot went, seen from outside.
pub struct Boot {
    pub wall: Duration,
    /// Of QEMU, at the moment at which the point was reached.
    pub cpu: Duration,
}

impl Machine {
    /// From the words of a running VMM.
    pub fn of(words: &[String]) -> Result<Self> {
        let value = |name: &str| -> Result<String> {
            let at = words.iter().position(|word| word == name);
            let value = at.and_then(|at| words.get(at + 1));
            value
                .cloned()
                .with_context(|| format!("the vmm was started without {name}"))
        };
        let mut options = Vec::new();
        for name in TAKEN {
            options.extend([name.to_owned(), value(name)?]);
        }
        Ok(Self {
            program: words.first().cloned().context("the vmm has no words")?,
            options,
            // Memory of its own kind is for a share, which nothing here has.
            machine: value("-machine")?.replace(",memory-backend=ram", ""),
            initrd: value("-initrd")?.into(),
            append: value("-append")?,
        })
    }

    /// Of the only sandbox of this world.
    pub fn of_only(world: &World<'_>) -> Result<Self> {
        let vmm = world.processes("qemu")?.pop().context("no vmm runs")?;
        Self::of(&process::words(vmm.pid())?)
    }

    /// To the first instruction of an init in the same image.
    pub fn boot_to_init(&self) -> Result<Boot> {
        let mut image = fs::read(&self.initrd).context("read the guest image")?;
        image.extend(image::only(STAND_IN, &stand_in()));
        let reached = |text: &str| text.contains(STAND_IN_SAYS.trim_end()).then_some(());
        let (boot, ()) = self.with_image(&image, &format!("rdinit=/{STAND_IN}"), reached)?;
        Ok(boot)
    }

    /// With another image, until its console means something.
    pub fn run<T>(
        &self,
        image: &[u8],
        words: &str,
        meaning: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let (_, found) = self.with_image(image, words, meaning)?;
        Ok(found)
    }

    fn with_image<T>(
        &self,
        image: &[u8],
        words: &str,
        meaning: impl Fn(&str) -> Option<T>,
    ) -> Result<(Boot, T)> {
        let scratch = Scratch::new()?;
        let initrd = scratch.path().join("initrd");
        fs::write(&initrd, image).context("write an image")?;
        let words = format!("{} {words}", self.append);
        boot(
            &mut self.command(scratch.path(), &initrd, &words),
            scratch.path(),
            meaning,
        )
    }

    /// Until the agent serves.
    pub fn boot_to_agent(&self) -> Result<Boot> {
        let scratch = Scratch::new()?;
        let mut command = self.command(scratch.path(), &self.initrd, &self.append);
        let socket = scratch.path().join("c");
        command.args(["-device", "virtio-serial-pci,id=serial", "-chardev"]);
        command.arg(format!(
            "socket,id=control,path={},server=on,wait=off",
            socket.display()
        ));
        command.args([
            "-device",
            "virtserialport,bus=serial.0,nr=1,chardev=control,name=hutch.control",
        ]);
        let (boot, _) = boot(&mut command, scratch.path(), Ready::of)?;
        Ok(boot)
    }

    fn command(&self, scratch: &Path, initrd: &Path, append: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-machine", &self.machine])
            .args(&self.options)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", append, "-serial"])
            .arg(format!("file:{}", console_in(scratch).display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

fn console_in(scratch: &Path) -> PathBuf {
    scratch.join("console")
}

/// Ends with it, whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail if it ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot<T>(
    command: &mut Command,
    scratch: &Path,
    meaning: impl Fn(&str) -> Option<T>,
) -> Result<(Boot, T)> {
    let began = Instant::now();
    let qemu = Killed(command.spawn().context("start qemu")?);
    let path = console_in(scratch);
    let (found, at) = console::wait(|| Some(path.clone()), meaning)?;
    let boot = Boot {
        wall: at - began,
        cpu: meter::cpu_time(Pid::from_raw(qemu.0.id().cast_signed()))?,
    };
    Ok((boot, found))
}

/// An ELF program of one segment that says where it is, and then waits for ever.
fn stand_in() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u16 = 64 + 56;
    #[rustfmt::skip]
    let code: &[u8] = &[
        0xb8, 1, 0, 0, 0,                         // mov eax, SYS_write
        0xbf, 1, 0, 0, 0,                         // mov edi, stdout
        0x48, 0x8d, 0x35, 16, 0, 0, 0,            // lea rsi, [rip + 16]: what follows the code
        0xba, STAND_IN_SAYS.len() as u8, 0, 0, 0, // mov edx, its length
        0x0f, 0x05,                               // syscall
        0xb8, 34, 0, 0, 0,                        // mov eax, SYS_pause
        0x0f, 0x05,                               // syscall
        0xeb, 0xf7,                               // jmp to the pause
    ];
    let size = u64::from(HEADERS) + (code.len() + STAND_IN_SAYS.len()) as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend(value.to_le_bytes());
    half(&mut elf, 2); // an executable
    half(&mut elf, 62); // for x86-64
    word(&mut elf, 1);
    long(&mut elf, BASE + u64::from(HEADERS)); // entry
    long(&mut elf, 64); // program headers begin here
    long(&mut elf, 0); // no sections
    word(&mut elf, 0);
    for value in [64, 56, 1, 64, 0, 0] {
        half(&mut elf, value); // sizes and counts of headers
    }
    word(&mut elf, 1); // to be loaded,
    word(&mut elf, 5); // read and run
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut elf, value);
    }
    elf.extend(code);
    elf.extend(STAND_IN_SAYS.as_bytes());
    elf
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use std::io::Read;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    const LINE: &str = "qemu -name x -machine q35,memory-backend=ram,sata=off -accel tcg -cpu max -smp 1 \
                        -m size=256M -bios qboot.rom -kernel k -initrd i -append quiet";

    #[test]
    fn the_bare_machine_is_the_one_that_hutchd_boots() {
        let machine = Machine::of(&words(LINE)).unwrap();

        assert_eq!(machine.machine, "q35,sata=off");
        assert_eq!(
            machine.options.join(" "),
            "-accel tcg -cpu max -smp 1 -m size=256M -bios qboot.rom -kernel k"
        );
        let error = Machine::of(&words("qemu -accel tcg")).unwrap_err();
        assert_eq!(error.to_string(), "the vmm was started without -cpu");
    }

    #[test]
    fn the_stand_in_runs_and_says_that_it_does() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().join(STAND_IN);
        command::write_program(&path, &stand_in()).unwrap();
        let child = Command::new(&path).stdout(Stdio::piped()).spawn().unwrap();
        let mut child = Killed(child);

        let mut said = [0; STAND_IN_SAYS.len()];
        let stdout = child.0.stdout.as_mut().unwrap();
        stdout.read_exact(&mut said).unwrap();

        assert_eq!(said, STAND_IN_SAYS.as_bytes());
        assert!(child.0.try_wait().unwrap().is_none(), "it waits");
    }
}
