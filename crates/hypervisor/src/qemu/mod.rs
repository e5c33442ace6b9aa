//! The QEMU driver: the port [`Vmm`] over processes, sockets and QMP.
//!
//! It decides nothing about a VM's life; it starts what it is told to, finds what lives, and
//! tells what happened. Nothing here is remembered that a new daemon could not find again.

mod backend;
pub mod block;
pub mod cgroup;
pub mod command_line;
mod locks;
pub mod qmp;
mod session;
mod spawn;

use crate::{
    error::{Error, QmpError},
    layout::Layout,
    port::{Exit, ExitHow, LaunchPlan, Vmm},
    process::Held,
};
use backend::Carrier;
use command_line::{Firmware, check, name_of, stream_chardev, stream_device};
use qapi::qmp as q;
use runtime_core::{
    hypervisor::{BlockSpec, MachineType},
    ids::{HostProcess, SandboxUid},
    kit::Work,
    premises::Cgroup,
};
use serde_json::json;
use session::Session;
use std::{cell::RefCell, collections::BTreeMap, fs, path::PathBuf, rc::Rc, time::Duration};
use tokio::{sync::Mutex, time::sleep};

/// A member of a cgroup that has not become what is looked for by then never will: between fork and
/// exec lie a few system calls.
const BECOMING_LIMIT: u32 = 50;
const BECOMING_STEP: Duration = Duration::from_millis(10);

/// What the host gives the driver.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    pub binary: PathBuf,
    /// What starts the kernel: qboot takes a fifth of a second less than SeaBIOS.
    pub firmware: Firmware,
    /// vhost-device-vsock, for VMs whose channel is hybrid vsock.
    pub vsock_backend: PathBuf,
}

impl Default for QemuConfig {
    fn default() -> Self {
        Self {
            binary: "/usr/bin/qemu-system-x86_64".into(),
            firmware: Firmware("qboot.rom".into()),
            vsock_backend: "/usr/libexec/vhost-device-vsock".into(),
        }
    }
}

/// The driver.
#[derive(Clone)]
pub struct Qemu {
    config: Rc<QemuConfig>,
    vms: Rc<RefCell<BTreeMap<SandboxUid, Rc<Vm>>>>,
}

/// What the driver knows of one sandbox's VM.
#[derive(Default)]
struct Vm {
    /// Held while a process is started or looked for, so that nobody looks while one is started.
    starting: Mutex<()>,
    session: RefCell<Option<(MachineType, Session)>>,
}

impl Qemu {
    pub fn new(config: QemuConfig) -> Self {
        Self {
            config: Rc::new(config),
            vms: Rc::default(),
        }
    }

    fn vm(&self, uid: SandboxUid) -> Rc<Vm> {
        self.vms.borrow_mut().entry(uid).or_default().clone()
    }

    fn session(&self, uid: SandboxUid) -> Result<(MachineType, Session), Error> {
        let vms = self.vms.borrow();
        let session = vms.get(&uid).and_then(|vm| vm.session.borrow().clone());
        session.ok_or(Error::Unknown { uid })
    }

    async fn start(self, plan: LaunchPlan) -> Result<HostProcess, Error> {
        check(&plan).map_err(Error::Spec)?;
        let vm = self.vm(plan.spec.uid);
        let _starting = vm.starting.lock().await;
        let carrier = Carrier::start(&plan, &self.config.vsock_backend).await?;
        let held = match self.start_vmm(&plan).await {
            Ok(held) => held,
            Err(why) => {
                carrier.end(&Layout::of(&plan.spec)).await;
                return Err(why);
            }
        };
        let process = held.process();
        let session = Session::begin(&plan, held, carrier);
        vm.session.replace(Some((plan.spec.machine, session)));
        Ok(process)
    }

    async fn start_vmm(&self, plan: &LaunchPlan) -> Result<Held, Error> {
        let (of, config) = (plan.clone(), (*self.config).clone());
        let pid = blocking(move || spawn::vmm(&of, &config.binary, &config.firmware)).await?;
        Held::child(pid).map_err(|source| Error::Watch {
            process: HostProcess { pid, start_time: 0 },
            source,
        })
    }

    async fn look(
        self,
        plan: LaunchPlan,
        recorded: Option<HostProcess>,
    ) -> Result<Option<HostProcess>, Error> {
        let vm = self.vm(plan.spec.uid);
        let _starting = vm.starting.lock().await;
        if let Some((_, session)) = &*vm.session.borrow() {
            return Ok(session.process());
        }
        let held = match recorded {
            Some(process) => {
                Held::find(process).map_err(|source| Error::Watch { process, source })?
            }
            None => member(&plan.spec.cgroup, &name_of(plan.spec.uid)).await?,
        };
        let carrier = Carrier::find(&plan).await?;
        let session = match held {
            Some(held) => Session::begin(&plan, held, carrier),
            None => Session::vanished(&plan, carrier).await,
        };
        let process = session.process();
        vm.session.replace(Some((plan.spec.machine, session)));
        Ok(process)
    }

    async fn plug_stream(self, uid: SandboxUid, number: u32) -> Result<(), Error> {
        let (_, session) = self.session(uid)?;
        let device = format!("stream port {number}");
        let failed = |source| Error::Device {
            verb: "add",
            device: device.clone(),
            source,
        };
        let id = stream_chardev(number);
        let chardevs = session.run(q::query_chardev {}).await.map_err(failed)?;
        if !chardevs.iter().any(|chardev| chardev.label == id) {
            let path = session.layout().stream(number);
            let backend = json!({"type": "socket", "data": {
                "addr": {"type": "unix", "data": {"path": path}},
                "server": true,
                "wait": false,
            }});
            let backend = typed("chardev-add", backend).map_err(failed)?;
            let add = q::chardev_add {
                id: id.clone(),
                backend,
            };
            session.run(add).await.map_err(failed)?;
        }
        if has_device(&session, &format!("port-{number}"))
            .await
            .map_err(failed)?
        {
            return Ok(());
        }
        let add: q::device_add = typed("device_add", stream_device(number)).map_err(failed)?;
        session.run(add).await.map_err(failed)?;
        Ok(())
    }

    async fn plug_block(self, uid: SandboxUid, slot: u32, wish: BlockSpec) -> Result<(), Error> {
        let (machine, session) = self.session(uid)?;
        hotpluggable(machine, &wish.serial)?;
        block::check_serial(&wish.serial).map_err(Error::Spec)?;
        // Its image may lie on a file system that hangs.
        let of = wish.clone();
        let backing = blocking(move || spawn::backing(&of)).await?;
        let failed = |source| Error::Device {
            verb: "plug",
            device: wish.serial.clone(),
            source,
        };
        if has_device(&session, &block::device_id(&wish.serial))
            .await
            .map_err(failed)?
        {
            return Ok(());
        }
        let node_name = block::node_name(&wish.serial);
        // A node without its device is left over from an attempt that was cut off; there is none
        // in the usual case, and QEMU refuses.
        let _ = session
            .run(q::blockdev_del {
                node_name: node_name.clone(),
            })
            .await;
        let node = block::node(&wish, backing).map_err(Error::Spec)?;
        let node: q::BlockdevOptions = typed("blockdev-add", node).map_err(failed)?;
        session.run(q::blockdev_add(node)).await.map_err(failed)?;
        let device: q::device_add =
            typed("device_add", block::slot_device(&wish, slot)).map_err(failed)?;
        if let Err(refused) = session.run(device).await {
            // Once ours is closed, whoever holds it is another one.
            let closed = session.run(q::blockdev_del { node_name }).await.is_ok();
            let (path, only_read) = (wish.path.clone(), wish.read_only);
            let held = blocking(move || Ok(closed && locks::is_held(&path, only_read)));
            return Err(match held.await? {
                true => Error::Held {
                    device: wish.serial.clone(),
                    image: wish.path.clone(),
                    source: refused,
                },
                false => failed(refused),
            });
        }
        Ok(())
    }

    async fn unplug_block(self, uid: SandboxUid, serial: String) -> Result<(), Error> {
        let (machine, session) = self.session(uid)?;
        hotpluggable(machine, &serial)?;
        let failed = |source| Error::Device {
            verb: "unplug",
            device: serial.clone(),
            source,
        };
        let id = block::device_id(&serial);
        if has_device(&session, &id).await.map_err(failed)? {
            session.expect_release(&id);
            session
                .run(q::device_del { id: id.clone() })
                .await
                .map_err(failed)?;
            session.released(&id).await?;
        }
        // It keeps the disk open, also where its device never came or has gone already: the daemon that did
        // that was killed in between.
        let node_name = block::node_name(&serial);
        if has_node(&session, &node_name).await.map_err(failed)? {
            session
                .run(q::blockdev_del { node_name })
                .await
                .map_err(failed)?;
        }
        Ok(())
    }
}

impl Vmm for Qemu {
    fn spawn(&self, plan: LaunchPlan) -> Work<Result<HostProcess, Error>> {
        Box::pin(self.clone().start(plan))
    }

    fn connect(&self, uid: SandboxUid) -> Work<Result<(), Error>> {
        let session = self.session(uid);
        Box::pin(async move { session?.1.connected().await })
    }

    fn find(
        &self,
        plan: LaunchPlan,
        recorded: Option<HostProcess>,
    ) -> Work<Result<Option<HostProcess>, Error>> {
        Box::pin(self.clone().look(plan, recorded))
    }

    fn ended(&self, uid: SandboxUid) -> Work<Exit> {
        let session = self.session(uid);
        Box::pin(async move {
            match session {
                Ok((_, session)) => session.ended().await,
                Err(_) => Exit {
                    how: ExitHow::Unknown,
                    console: String::new(),
                    stderr: String::new(),
                },
            }
        })
    }

    fn kill(&self, uid: SandboxUid) -> Work<Result<(), Error>> {
        let session = self.session(uid);
        Box::pin(async move { session?.1.kill().await })
    }

    fn forget(&self, uid: SandboxUid) {
        self.vms.borrow_mut().remove(&uid);
    }

    fn add_stream(&self, uid: SandboxUid, number: u32) -> Work<Result<(), Error>> {
        Box::pin(self.clone().plug_stream(uid, number))
    }

    fn attach_block(
        &self,
        uid: SandboxUid,
        slot: u32,
        block: BlockSpec,
    ) -> Work<Result<(), Error>> {
        Box::pin(self.clone().plug_block(uid, slot, block))
    }

    fn detach_block(&self, uid: SandboxUid, serial: String) -> Work<Result<(), Error>> {
        Box::pin(self.clone().unplug_block(uid, serial))
    }

    fn pause(&self, uid: SandboxUid) -> Work<Result<(), Error>> {
        let session = self.session(uid);
        Box::pin(async move {
            let verb = "pause vm";
            let stopped = session?.1.run(q::stop {}).await;
            stopped
                .map(|_| ())
                .map_err(|source| Error::Qmp { verb, source })
        })
    }

    fn resume(&self, uid: SandboxUid) -> Work<Result<(), Error>> {
        let session = self.session(uid);
        Box::pin(async move {
            let verb = "resume vm";
            let resumed = session?.1.run(q::cont {}).await;
            resumed
                .map(|_| ())
                .map_err(|source| Error::Qmp { verb, source })
        })
    }
}

/// JSON of ours as a type of qapi's.
fn typed<T: serde::de::DeserializeOwned>(
    command: &'static str,
    value: serde_json::Value,
) -> Result<T, QmpError> {
    serde_json::from_value(value).map_err(|source| QmpError::Answer { command, source })
}

async fn has_device(session: &Session, id: &str) -> Result<bool, QmpError> {
    let path = "/machine/peripheral".to_owned();
    let devices = session.run(q::qom_list { path }).await?;
    Ok(devices.iter().any(|device| device.name == id))
}

async fn has_node(session: &Session, name: &str) -> Result<bool, QmpError> {
    let flat = Some(true);
    let nodes = session.run(q::query_named_block_nodes { flat }).await?;
    let mut names = nodes.into_iter().filter_map(|node| node.node_name);
    Ok(names.any(|known| known == name))
}

fn hotpluggable(machine: MachineType, device: &str) -> Result<(), Error> {
    match machine {
        MachineType::Q35 => Ok(()),
        MachineType::Microvm => Err(Error::NoHotplug {
            machine: "microvm",
            device: device.to_owned(),
        }),
    }
}

/// Runs what blocks beside everything else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// The member of a cgroup that has this argument: started, and perhaps never recorded.
async fn member(cgroup: &Cgroup, argument: &str) -> Result<Option<Held>, Error> {
    for _ in 0..BECOMING_LIMIT {
        let members = cgroup::members(cgroup)?;
        for pid in &members {
            if !is_named(*pid, argument) {
                continue;
            }
            let held = Held::child(*pid);
            // It may have ended just now; whose pid it is was checked while it was held.
            if let Some(held) = held.ok().filter(|_| is_named(*pid, argument)) {
                return Ok(Some(held));
            }
        }
        if members.is_empty() {
            return Ok(None);
        }
        sleep(BECOMING_STEP).await;
    }
    Ok(None)
}

fn is_named(pid: u32, name: &str) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments
        .split(|byte| *byte == 0)
        .any(|argument| argument == name.as_bytes())
}
