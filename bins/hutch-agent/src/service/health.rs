//! Liveness and versions.

use super::VERSION;
use async_trait::async_trait;
use protocols::asynchronous::{
    health::{
        CheckRequest, HealthCheckResponse, VersionCheckResponse,
        health_check_response::ServingStatus,
    },
    health_ttrpc,
};
use ttrpc::r#async::TtrpcContext;

/// Version of the first interface's messages.
const INTERFACE: &str = "0.0.1";

pub struct Health;

#[async_trait]
impl health_ttrpc::Health for Health {
    async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<HealthCheckResponse> {
        Ok(HealthCheckResponse {
            status: ServingStatus::SERVING.into(),
            ..HealthCheckResponse::default()
        })
    }

    async fn version(
        &self,
        _: &TtrpcContext,
        _: CheckRequest,
    ) -> ttrpc::Result<VersionCheckResponse> {
        Ok(VersionCheckResponse {
            grpc_version: INTERFACE.to_owned(),
            agent_version: VERSION.to_owned(),
            ..VersionCheckResponse::default()
        })
    }
}
