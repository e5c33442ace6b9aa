//! From arguments to a verb, and from its outcome to an exit code.

use crate::{
    args::{Cli, SandboxVerb, Verb},
    daemon::Refused,
    log::{Log, one_line},
    output::Unread,
    verbs,
};
use anyhow::{Context as _, Result, anyhow};
use clap::error::ErrorKind;
use std::{io::Write as _, process::ExitCode, rc::Rc, time::Instant};

/// What runc exits with when a verb fails.
const FAILED: u8 = 1;
/// What runc exits with when `exec` cannot run its program.
const EXEC_FAILED: u8 = 255;
/// What runc exits with when it does not know a verb.
const UNKNOWN_VERB: u8 = 3;
/// What a shell says of a program that SIGPIPE ended, as it ends runc.
const UNREAD: u8 = 128 + 13;
/// As much of a caller's own words as an error repeats.
const SHOWN_CHARS_MAX: usize = 128;
/// The longest that is said of words that no verb takes; they may be of any length, and are in it.
const WRONG_CHARS_MAX: usize = 512;

pub fn run(cli: Cli) -> ExitCode {
    let failed = match &cli.verb {
        Verb::Exec(_) => EXEC_FAILED,
        _ => FAILED,
    };
    let log = match Log::open(cli.log.as_deref(), cli.log_format, cli.debug) {
        Ok(log) => Rc::new(log),
        Err(why) => {
            eprintln!("hutch: {}", one_line(&format!("{why:#}")));
            return ExitCode::from(FAILED);
        }
    };
    let begun = Instant::now();
    let performed = perform(cli, log.clone());
    log.debug(&format!("done after {} ms", begun.elapsed().as_millis()));
    match performed {
        Ok(code) => ExitCode::from(code),
        Err(why) if why.is::<Unread>() => ExitCode::from(UNREAD),
        Err(why) => {
            log.error(&format!("{why:#}"));
            ExitCode::from(failed)
        }
    }
}

/// Help and version, which were asked for; or the one line that says what is wrong with the words.
pub fn not_understood(why: &clap::Error) -> ExitCode {
    let code = match why.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Whoever asked may have gone.
            let _ = write!(std::io::stdout(), "{}", why.render());
            return ExitCode::SUCCESS;
        }
        ErrorKind::InvalidSubcommand => UNKNOWN_VERB,
        _ => FAILED,
    };
    let text = why.render().to_string();
    // What is wrong comes first; tips and usage follow after an empty line.
    let wrong = text.split("\n\n").next().unwrap_or_default();
    let wrong = wrong.trim_start_matches("error:");
    let words: Vec<&str> = wrong.split_whitespace().collect();
    let words: String = words.join(" ").chars().take(WRONG_CHARS_MAX).collect();
    eprintln!("hutch: {}; see hutch --help", one_line(&words));
    ExitCode::from(code)
}

fn perform(cli: Cli, log: Rc<Log>) -> Result<u8> {
    let Cli {
        root,
        namespace,
        verb,
        ..
    } = cli;
    let at = verbs::Place {
        root,
        namespace,
        log,
    };
    let what = object(&verb);
    let outcome = match verb {
        Verb::Create(create) => verbs::lifecycle::create(&at, create),
        Verb::Start(id) => verbs::lifecycle::start(&at, &id.id),
        Verb::Run(run) => verbs::lifecycle::run(&at, run),
        Verb::Kill(kill) => verbs::kill::kill(&at, &kill),
        Verb::Stop(stop) => verbs::stop::stop(&at, &stop),
        Verb::Wait(id) => verbs::stop::wait(&at, &id.id),
        Verb::Delete(delete) => verbs::lifecycle::delete(&at, &delete.id, delete.force),
        Verb::Exec(exec) => verbs::exec::exec(&at, exec),
        Verb::State(id) => verbs::look::state(&at, &id.id),
        Verb::List(list) => verbs::look::list(&at, &list),
        Verb::Ps(ps) => verbs::ps::ps(&at, &ps),
        Verb::Pause(id) => verbs::freeze::pause(&at, &id.id),
        Verb::Resume(id) => verbs::freeze::resume(&at, &id.id),
        Verb::Update(update) => verbs::update::update(&at, &update),
        Verb::Events(events) => verbs::events::events(&at, &events),
        Verb::Top(top) => verbs::top::top(&at, &top),
        Verb::Features => verbs::features::features(),
        Verb::Checkpoint(_) | Verb::Restore(_) => Err(anyhow!("snapshots are not there yet")),
        Verb::Spec(spec) => verbs::spec::spec(&spec),
        Verb::Sandbox(verb) => verbs::sandbox::sandbox(&at, verb),
        Verb::Console(console) => verbs::console::console(&at, &console),
        Verb::Doctor(doctor) => verbs::doctor::doctor(&at, &doctor),
        Verb::Version(version) => verbs::look::version(&at, &version),
        Verb::Completions(completions) => verbs::pages::completions(&completions),
        Verb::Man(man) => verbs::pages::man(&man),
    };
    match outcome {
        // The daemon has named verb and object already.
        Err(why) if why.is::<Refused>() => Err(why),
        Err(why) => Err(why).context(what),
        done => done,
    }
}

/// What a verb is about, in the words of the daemon's own refusals.
fn object(verb: &Verb) -> String {
    let (doing, id) = match verb {
        Verb::Create(create) => ("create container", &create.creation.id),
        Verb::Run(run) => ("run container", &run.creation.id),
        Verb::Start(id) => ("start container", &id.id),
        Verb::State(id) => ("state of container", &id.id),
        Verb::Kill(kill) => ("kill container", &kill.id),
        Verb::Stop(stop) => ("stop container", &stop.id),
        Verb::Wait(id) => ("wait for container", &id.id),
        Verb::Delete(delete) => ("delete container", &delete.id),
        Verb::Exec(exec) => ("exec in container", &exec.id),
        Verb::Ps(ps) => ("list processes of container", &ps.id),
        Verb::Pause(id) => ("pause container", &id.id),
        Verb::Resume(id) => ("resume container", &id.id),
        Verb::Update(update) => ("update container", &update.id),
        Verb::Events(events) => ("events of container", &events.id),
        Verb::Sandbox(SandboxVerb::List(_)) => return "list sandboxes".to_owned(),
        Verb::Sandbox(verb) => verbs::sandbox::object(verb),
        Verb::Console(console) => ("show console of", &console.id),
        Verb::List(_) => return "list containers".to_owned(),
        Verb::Top(_) => return "show what containers use".to_owned(),
        Verb::Features => return "print features".to_owned(),
        Verb::Checkpoint(_) => return "checkpoint".to_owned(),
        Verb::Restore(_) => return "restore".to_owned(),
        Verb::Spec(_) => return "write spec".to_owned(),
        Verb::Doctor(_) => return "check this host".to_owned(),
        Verb::Version(_) => return "ask for versions".to_owned(),
        Verb::Completions(_) => return "write completions".to_owned(),
        Verb::Man(_) => return "write manual pages".to_owned(),
    };
    format!("{doing} {:?}", shortened(id))
}

/// An id may be any text of any length; one line is enough to know it by.
fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}
