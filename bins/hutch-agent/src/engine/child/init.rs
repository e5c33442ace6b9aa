//! How a process becomes the init of a container: its namespaces are made, this furnishes them.

use super::{
    Fds, conceal, console,
    dev::{self, Nodes},
    failure::{Doing, Outcome, expected},
    hooks::Stage,
    identity,
    mounts::{self, Trees},
    process::{self, Gate, Streams, write_file},
    resolve::{Kind, Root},
    root,
};
use crate::engine::{
    plan::{Failure, HookPlan, InitPlan},
    sys,
};
use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::Mode,
    io::Errno,
    process::umask,
    system::{setdomainname, sethostname},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

/// Comes back without an error only if the agent gave up.
///
/// # Errors
/// The step that failed.
pub fn become_init(plan: InitPlan, fds: &mut Fds, request: BorrowedFd<'_>) -> Outcome<()> {
    let pipes = process::take_pipes(&plan.process, fds)?;
    if plan.root.user_namespace {
        identity::become_root()?;
    }
    // Only now: what the guest has mounted by this moment is in it.
    sys::unshare(libc::CLONE_NEWNS).doing(|| "make a mount namespace".to_owned())?;
    enter_namespaces(&plan, fds)?;
    process::start_session()?;
    process::adjust_oom_score(&plan.process)?;
    name(&plan)?;
    for (key, value) in &plan.sysctls {
        write_file(&format!("/proc/sys/{key}"), value)
            .doing(|| format!("set sysctl {key} to {value:?}"))?;
    }
    // Modes in the plan are meant as they stand.
    umask(Mode::empty());
    let access = furnish_and_enter(&plan, Trees::of(fds))?;
    let hooks = &plan.hooks;

    let terminal = console::open_for(&plan.process, request)?;
    if let Some(terminal) = &terminal {
        console::cover_console(terminal)?;
    }
    root::finish(&plan.root, access)?;
    conceal::make_readonly(&plan.readonly_paths)?;
    conceal::mask(&plan.masked_paths)?;
    let streams = Streams { pipes, terminal };
    process::become_program(plan.process, streams, request, Gate::Held(hooks))
}

fn enter_namespaces(plan: &InitPlan, fds: &mut Fds) -> Outcome<()> {
    for kinds in &plan.join {
        let neighbour = expected(fds.next(), "a neighbour")?;
        move_into_thread_name_spaces(
            neighbour.as_fd(),
            ThreadNameSpaceType::from_bits_retain(*kinds as u32),
        )
        .doing(|| "enter the namespaces of another container".to_owned())?;
    }
    if plan.own_cgroup_namespace {
        // Only now: its root is the cgroup in which the caller is at this moment.
        sys::unshare(libc::CLONE_NEWCGROUP).doing(|| "make a cgroup namespace".to_owned())?;
    }
    Ok(())
}

fn name(plan: &InitPlan) -> Outcome<()> {
    if let Some(name) = &plan.hostname {
        sethostname(name.as_bytes()).doing(|| format!("set hostname {name:?}"))?;
    }
    if let Some(name) = &plan.domainname {
        setdomainname(name.as_bytes()).doing(|| format!("set domainname {name:?}"))?;
    }
    Ok(())
}

/// An image that cannot be written, as one that the host gives read-only, may lack what is mounted
/// on: then that is made in memory above it.
fn furnish_and_enter(plan: &InitPlan, mut trees: Trees) -> Outcome<root::Access> {
    let mut access = root::Access::AsPlanned;
    let mut image = root::prepare(&plan.root)?;
    match furnish(plan, &image, &mut trees) {
        Err(Failure::Step { errno, .. }) if errno == Errno::ROFS.raw_os_error() => {
            // Those that are mounted in it go with it.
            trees = trees.again()?;
            image = root::cover_with_memory(&plan.root, image)?;
            access = root::Access::ReadOnly;
            furnish(plan, &image, &mut trees)?;
        }
        furnished => furnished?,
    }
    run_hooks(&plan.hooks)?;
    root::enter(&image)?;
    Ok(access)
}

/// Those that see the guest's root beside the container's, which is furnished.
fn run_hooks(hooks: &HookPlan) -> Outcome<()> {
    if hooks.create.is_empty() {
        return Ok(());
    }
    Stage::set(&hooks.state, "creating", Some(c"/"))?.run(&hooks.create)
}

fn furnish(plan: &InitPlan, image: &Root, trees: &mut Trees) -> Outcome<()> {
    mounts::mount_all(image, &plan.mounts, trees)?;
    if let Some(nodes) = &plan.devices {
        let how = if plan.root.user_namespace {
            Nodes::Borrowed
        } else {
            Nodes::Made
        };
        dev::populate(image, nodes, how)?;
    }
    let cwd = &plan.process.cwd;
    if cwd != "/" {
        image
            .find_or_make(cwd, Kind::Folder)
            .doing(|| format!("make cwd {cwd:?}"))?;
    }
    Ok(())
}
