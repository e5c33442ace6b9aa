//! The host's end of the control stream, and the clients on it.

use super::vm::{LIMIT, Vm, until};
use protocols::asynchronous::{
    agent_ttrpc::AgentServiceClient, health_ttrpc::HealthClient, hutch_agent_ttrpc::AgentClient,
};
use std::sync::atomic::{AtomicU8, Ordering};
use stream::{ControlEvent, ControlHost, Nonce, Padding};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::UnixStream,
    select,
};
use ttrpc::{
    r#async::{Client, transport::Socket},
    context::{self, Context},
};

static SESSIONS: AtomicU8 = AtomicU8::new(1);

/// One session with the agent.
pub struct Link {
    pub health: HealthClient,
    pub kata: AgentServiceClient,
    pub agent: AgentClient,
    /// For calls by their names.
    pub client: Client,
}

impl Link {
    /// Connects; a first session needs no padding, any later one does.
    pub async fn open(vm: &Vm, padding: Padding) -> Self {
        let path = vm.socket("c");
        until(LIMIT, || path.exists().then_some(())).unwrap();
        let port = UnixStream::connect(&path).await.unwrap();
        let (near, far) = duplex(65_536);
        tokio::spawn(carry(port, ControlHost::new(nonce(), padding), near));
        let client = Client::new(Socket::new(far));
        Self {
            health: HealthClient::new(client.clone()),
            kata: AgentServiceClient::new(client.clone()),
            agent: AgentClient::new(client.clone()),
            client,
        }
    }
}

/// One that no other session of this run has.
pub fn nonce() -> Nonce {
    Nonce([SESSIONS.fetch_add(1, Ordering::Relaxed); 16])
}

/// The deadline of every call.
pub fn deadline() -> Context {
    context::with_duration(LIMIT)
}

async fn carry(mut port: UnixStream, mut control: ControlHost, mut client: DuplexStream) {
    let (mut from_guest, mut from_client) = (vec![0; 65_536], vec![0; 32_768]);
    loop {
        let outgoing = control.outgoing().to_vec();
        if !outgoing.is_empty() {
            if port.write_all(&outgoing).await.is_err() {
                return;
            }
            control.sent(outgoing.len());
        }
        let established = control.is_established();
        select! {
            count = port.read(&mut from_guest) => {
                let Ok(1..) = count else { return };
                for event in control.feed(&from_guest[..count.unwrap()]) {
                    match event {
                        ControlEvent::Received(bytes) => {
                            if client.write_all(&bytes).await.is_err() {
                                return;
                            }
                        }
                        ControlEvent::Established => {}
                        other => panic!("control stream: {other:?}"),
                    }
                }
            }
            count = client.read(&mut from_client), if established => {
                let Ok(1..) = count else { return };
                control.send(&from_client[..count.unwrap()]).unwrap();
            }
        }
    }
}
