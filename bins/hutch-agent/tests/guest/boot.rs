//! From power on to the first answers, and off again.

use super::{
    link::{Link, deadline},
    vm::{LIMIT, Vm, Wanted, asked, until},
};
use protocols::asynchronous::{
    agent::{DestroySandboxRequest, GetMetricsRequest, GuestDetailsRequest},
    health::{CheckRequest, health_check_response::ServingStatus},
};
use std::time::Instant;
use stream::Padding;

#[tokio::test]
async fn a_guest_answers_again_to_a_new_host_and_switches_off_when_told() {
    if !asked() {
        return;
    }
    let mut vm = Vm::boot(Wanted::default());
    let link = Link::open(&vm, Padding::None).await;

    let answer = link
        .health
        .check(deadline(), &CheckRequest::new())
        .await
        .unwrap();
    eprintln!("first answer after {:?}", vm.booted.elapsed());
    assert_eq!(answer.status, ServingStatus::SERVING.into());

    let asked = Instant::now();
    let request = GuestDetailsRequest {
        mem_block_size: true,
        ..Default::default()
    };
    let details = link
        .kata
        .get_guest_details(deadline(), &request)
        .await
        .unwrap();
    eprintln!("details in {:?}", asked.elapsed());
    let agent = details.agent_details.unwrap();
    assert!(agent.init_daemon);
    assert_eq!(
        agent.extra_features,
        ["hutch.agent.v1", "hutch.places-execs"]
    );
    assert_eq!(details.mem_block_size_bytes, 128 << 20);

    let refused = link
        .kata
        .get_metrics(deadline(), &GetMetricsRequest::new())
        .await
        .unwrap_err();
    assert!(matches!(&refused, ttrpc::Error::RpcStatus(status)
        if status.code() == ttrpc::Code::UNIMPLEMENTED && status.message().contains("GetMetrics")));

    let console = vm.console();
    assert!(console.contains(": ready "), "{console}");
    assert!(console.contains(" ms after boot, init at "), "{console}");

    drop(link);
    let link = Link::open(&vm, Padding::Full).await;
    link.health
        .check(deadline(), &CheckRequest::new())
        .await
        .unwrap();

    link.kata
        .destroy_sandbox(deadline(), &DestroySandboxRequest::new())
        .await
        .unwrap();
    assert!(vm.ended());
}

#[tokio::test]
async fn a_word_that_the_agent_does_not_know_ends_the_guest_with_its_name_on_the_console() {
    if !asked() {
        return;
    }
    let mut vm = Vm::boot(Wanted {
        words: "hutch.colour=red",
        ..Wanted::default()
    });

    assert!(vm.ended());
    let console = until(LIMIT, || Some(vm.console())).unwrap();
    assert!(
        console.contains("option not known: hutch.colour=red"),
        "{console}"
    );
}
