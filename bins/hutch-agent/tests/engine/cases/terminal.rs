//! Terminals.

use crate::bed::{Bed, chain, config, exec_plan, no_streams, process, wait, with};
use hutch_agent::engine::{Created, ProcessIo};
use rustix::{
    fd::OwnedFd,
    io::Errno,
    termios::{Winsize, tcsetwinsize},
};
use serde_json::{Value, json};

super::cases![
    a_terminal_is_the_consoles_and_the_programs,
    control_c_reaches_the_program,
    a_terminal_can_be_resized,
    an_exec_has_a_terminal_of_its_own,
    a_user_owns_the_terminal,
    terminal_and_pipes_are_not_mixed_up,
    a_terminal_without_devpts_is_refused,
];

fn with_terminal(line: &str) -> Value {
    let config = config(&["/bin/sh", "-c", line]);
    let config = with(config, "/process/terminal", json!(true));
    with(
        config,
        "/process/consoleSize",
        json!({"height": 24, "width": 100}),
    )
}

fn start(bed: &Bed, config: &Value) -> (Created, OwnedFd) {
    let mut created = bed
        .engine
        .create(bed.plan("c", config), ProcessIo::Terminal)
        .unwrap();
    bed.start("c").unwrap();
    let console = created.console.take().unwrap();
    (created, console)
}

/// Reads until the text is there, or the other end is closed.
fn read_until(console: &OwnedFd, text: &str) -> String {
    let mut all = String::new();
    let mut piece = [0; 4096];
    while !all.contains(text) {
        match rustix::io::read(console, &mut piece) {
            Ok(0) | Err(Errno::IO) => break,
            Ok(length) => all.push_str(std::str::from_utf8(&piece[..length]).unwrap()),
            Err(errno) => panic!("read the terminal: {errno}"),
        }
    }
    all
}

fn end(bed: &Bed, created: &Created) -> i32 {
    let code = wait(created);
    bed.engine.remove("c").unwrap();
    code
}

fn a_terminal_is_the_consoles_and_the_programs() {
    let bed = Bed::make();
    let line = "tty; stty size; echo direct >/dev/console; echo tty >/dev/tty; \
                stat -c '%t:%T' /dev/console; exit 4";

    let (created, console) = start(&bed, &with_terminal(line));

    assert_eq!(
        read_until(&console, "\0"),
        "/dev/pts/0\r\n24 100\r\ndirect\r\ntty\r\n88:0\r\n"
    );
    assert_eq!(end(&bed, &created), 4);
}

fn control_c_reaches_the_program() {
    let bed = Bed::make();
    let (created, console) = start(&bed, &with_terminal("trap 'exit 5' INT; echo up; read x"));
    assert!(read_until(&console, "up\r\n").contains("up"));

    rustix::io::write(&console, b"\x03").unwrap();

    assert_eq!(end(&bed, &created), 5);
}

fn a_terminal_can_be_resized() {
    let bed = Bed::make();
    let line = "trap 'stty size; exit 0' WINCH; echo up; while :; do read x; done";
    let (created, console) = start(&bed, &with_terminal(line));
    read_until(&console, "up\r\n");

    let size = Winsize {
        ws_row: 50,
        ws_col: 132,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&console, size).unwrap();
    // The shell runs its trap once its read is over.
    rustix::io::write(&console, b"\n").unwrap();

    assert!(read_until(&console, "132").contains("50 132"));
    assert_eq!(end(&bed, &created), 0);
}

fn an_exec_has_a_terminal_of_its_own() {
    let bed = Bed::make();
    let (init, console) = start(&bed, &with_terminal("read x; exit 0"));
    let exec = with(
        process(&["/bin/sh", "-c", "tty; exit 6"]),
        "/terminal",
        json!(true),
    );

    let plan = exec_plan("e", &exec);
    let created = bed.exec_with("c", plan, ProcessIo::Terminal).unwrap();
    let theirs = created.console.as_ref().unwrap();

    assert_eq!(read_until(theirs, "\0"), "/dev/pts/1\r\n");
    assert_eq!(wait(&created), 6);
    rustix::io::write(&console, b"\n").unwrap();
    assert_eq!(end(&bed, &init), 0);
}

fn a_user_owns_the_terminal() {
    let bed = Bed::make();
    let config = with_terminal("stat -c '%u:%g %a' $(tty); echo >/dev/tty && echo opened");

    let user = json!({"uid": 1000, "gid": 1000});
    let (created, console) = start(&bed, &with(config, "/process/user", user));

    assert_eq!(read_until(&console, "\0"), "1000:5 620\r\n\r\nopened\r\n");
    assert_eq!(end(&bed, &created), 0);
}

fn terminal_and_pipes_are_not_mixed_up() {
    let bed = Bed::make();
    let wants = with_terminal("true");
    let wants_not = config(&["/bin/true"]);

    let pipes = bed
        .engine
        .create(bed.plan("c", &wants), no_streams())
        .unwrap_err();
    let terminal = bed
        .engine
        .create(bed.plan("c", &wants_not), ProcessIo::Terminal)
        .unwrap_err();

    assert_eq!(
        pipes.to_string(),
        "process: its terminal is true, but it was given pipes"
    );
    assert_eq!(
        terminal.to_string(),
        "process: its terminal is false, but it was given one"
    );
}

fn a_terminal_without_devpts_is_refused() {
    let bed = Bed::make();
    let config = with(
        with_terminal("true"),
        "/mounts",
        json!([{"destination": "/proc", "type": "proc", "source": "proc"}]),
    );

    let refused = bed
        .engine
        .create(bed.plan("c", &config), ProcessIo::Terminal)
        .unwrap_err();

    assert_eq!(
        chain(&refused),
        "terminal: open /dev/pts/ptmx: no such file or directory"
    );
    assert_eq!(bed.cgroups(), 0);
}
