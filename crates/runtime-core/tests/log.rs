//! Every line that a life leaves in the log says whose it is.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{House, settle};
use runtime_core::{container::Force, ids::ProcessId};
use std::{
    io,
    sync::{Arc, Mutex},
};
use tokio::task::LocalSet;
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn every_line_of_a_life_names_its_sandbox() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::DEBUG)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _heard = tracing::subscriber::set_default(subscriber);

    let life = async {
        let house = House::open().await;
        let uid = house.create("web").await.unwrap().place.uid;
        house.start("web").await.unwrap();
        let house = house.restart().await;
        house.world.exit(uid, ProcessId::Init, 7);
        house.wait("web").await.unwrap();
        house.delete("web", Force::No).await.unwrap();
        settle().await;
        uid
    };
    let uid = LocalSet::new().run_until(life).await;

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let sandbox = format!("sandbox{{uid={uid} id=web}}:");
    let (mut of_sandbox, mut of_host) = (0, 0);
    for line in text.lines() {
        match (line.contains(&sandbox), line.contains(" host:")) {
            (true, _) => of_sandbox += 1,
            (false, true) => of_host += 1,
            (false, false) => panic!("nobody's: {line}"),
        }
    }
    for step in ["launching", "greeting", "ready", "running", "stopping"] {
        let to = format!("to=\"{step}\"");
        let told = |line: &str| line.contains(&to) && line.contains(&sandbox);
        assert!(text.lines().any(told), "no line says {to}");
    }
    assert!(of_sandbox > 20 && of_host > 2, "{of_sandbox} and {of_host}");
}
