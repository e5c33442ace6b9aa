//! What is generated from the protocol files in `proto/`; by hand only what a build speaks of them.
//!
//! `asynchronous` holds the messages and the services over tokio, which all our programs use;
//! `blocking` the services over threads, for daemons that tests play. Both speak the same messages.

pub mod annotations;
pub mod revision;

#[cfg(feature = "async")]
#[allow(clippy::all, clippy::unwrap_used, warnings)]
pub mod asynchronous {
    pub mod agent {
        include!(concat!(env!("OUT_DIR"), "/asynchronous/agent.rs"));
    }
    pub mod agent_ttrpc {
        include!(concat!(env!("OUT_DIR"), "/asynchronous/agent_ttrpc.rs"));
    }
    pub mod health {
        include!(concat!(env!("OUT_DIR"), "/asynchronous/health.rs"));
    }
    pub mod health_ttrpc {
        include!(concat!(env!("OUT_DIR"), "/asynchronous/health_ttrpc.rs"));
    }
    pub mod hutch {
        include!(concat!(env!("OUT_DIR"), "/asynchronous/hutch.rs"));
    }
    pub mod hutch_ttrpc {
        include!(concat!(env!("OUT_DIR"), "/asynchronous/hutch_ttrpc.rs"));
    }
    pub mod hutch_agent {
        include!(concat!(env!("OUT_DIR"), "/asynchronous/hutch_agent.rs"));
    }
    pub mod hutch_agent_ttrpc {
        include!(concat!(
            env!("OUT_DIR"),
            "/asynchronous/hutch_agent_ttrpc.rs"
        ));
    }
    pub mod oci {
        include!(concat!(env!("OUT_DIR"), "/asynchronous/oci.rs"));
    }
    pub mod types {
        include!(concat!(env!("OUT_DIR"), "/asynchronous/types.rs"));
    }
    pub use protobuf::well_known_types::empty;
}

#[cfg(feature = "sync")]
#[allow(clippy::all, clippy::unwrap_used, warnings)]
pub mod blocking {
    pub mod hutch {
        include!(concat!(env!("OUT_DIR"), "/blocking/hutch.rs"));
    }
    pub mod hutch_ttrpc {
        include!(concat!(env!("OUT_DIR"), "/blocking/hutch_ttrpc.rs"));
    }
}
