//! A daemon that takes what relays say, over a real socket.

use protobuf::MessageField;
use protocols::blocking::hutch::{
    AttachRequest, AttachResponse, ExitInfo, ExitedRequest, ExitedResponse, WaitRequest,
    WaitResponse,
};
use protocols::blocking::hutch_ttrpc::{Runtime, create_runtime};
use std::path::Path;
use std::sync::{Arc, Mutex};
use ttrpc::{Server, TtrpcContext};

#[derive(Default)]
pub struct Heard {
    pub attached: Mutex<Vec<AttachRequest>>,
    pub exited: Mutex<Vec<ExitedRequest>>,
}

struct Service {
    heard: Arc<Heard>,
    exit_code: u32,
}

impl Runtime for Service {
    fn attach(&self, _: &TtrpcContext, request: AttachRequest) -> ttrpc::Result<AttachResponse> {
        self.heard.attached.lock().unwrap().push(request);
        Ok(AttachResponse::default())
    }

    fn exited(&self, _: &TtrpcContext, request: ExitedRequest) -> ttrpc::Result<ExitedResponse> {
        self.heard.exited.lock().unwrap().push(request);
        Ok(ExitedResponse::default())
    }

    fn wait(&self, _: &TtrpcContext, _: WaitRequest) -> ttrpc::Result<WaitResponse> {
        Ok(WaitResponse {
            exit: MessageField::some(ExitInfo {
                code: self.exit_code,
                ..ExitInfo::default()
            }),
            ..WaitResponse::default()
        })
    }
}

pub struct FakeDaemon {
    pub heard: Arc<Heard>,
    server: Option<Server>,
}

impl FakeDaemon {
    /// `exit_code` is what it knows about every process.
    pub fn listen(socket: &Path, exit_code: u32) -> Self {
        let heard = Arc::new(Heard::default());
        let service = Service {
            heard: heard.clone(),
            exit_code,
        };
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_runtime(Arc::new(service)));
        server.start().unwrap();
        Self {
            heard,
            server: Some(server),
        }
    }

    pub fn exit_codes(&self) -> Vec<u32> {
        let exited = self.heard.exited.lock().unwrap();
        exited.iter().map(|request| request.code).collect()
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown();
        }
    }
}
