//! Freezing, limits, numbers, and kills for want of memory.

use super::{
    house::{House, config, process},
    link::deadline,
    vm::asked,
};
use protocols::asynchronous::hutch_agent::{
    ExitReason, FreezeRequest, NextExitsRequest, NextExitsResponse, StatsRequest, StatsResponse,
    UpdateRequest,
};
use serde_json::json;

impl House {
    async fn freeze(&self, id: &str, frozen: bool) -> ttrpc::Result<()> {
        let request = FreezeRequest {
            container_id: id.to_owned(),
            frozen,
            ..FreezeRequest::default()
        };
        self.link.agent.freeze(deadline(), &request).await.map(drop)
    }

    async fn update(&self, id: &str, resources: &str) -> ttrpc::Result<Vec<String>> {
        let request = UpdateRequest {
            container_id: id.to_owned(),
            resources_json: resources.as_bytes().to_vec(),
            ..UpdateRequest::default()
        };
        let answer = self.link.agent.update(deadline(), &request).await?;
        Ok(answer.warnings)
    }

    async fn stats(&self, id: &str) -> ttrpc::Result<StatsResponse> {
        let request = StatsRequest {
            container_id: id.to_owned(),
            ..StatsRequest::default()
        };
        self.link.agent.stats(deadline(), &request).await
    }

    async fn news(&self, after: u64) -> NextExitsResponse {
        let request = NextExitsRequest {
            after,
            wait_ms: 30_000,
            ..NextExitsRequest::default()
        };
        self.link
            .agent
            .next_exits(deadline(), &request)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn a_frozen_container_stands_still_and_a_created_one_can_be_frozen() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;
    let config = config(&["/bin/sh", "-c", "echo up; read x; echo $x"], false);
    let mut peer = house.create("web", config).await;

    house.freeze("web", true).await.unwrap();
    house.freeze("web", true).await.unwrap();
    let refused = house.try_start("web").await.unwrap_err().to_string();
    house.freeze("web", false).await.unwrap();
    house.start("web").await;
    peer.expect("up").await;
    house.freeze("web", true).await.unwrap();
    let exec = house
        .try_exec("web", "e", process(&["/bin/true"], false))
        .await;
    peer.send(b"on\n");
    house.freeze("web", false).await.unwrap();
    house.freeze("web", false).await.unwrap();

    assert!(refused.contains("is paused"), "{refused}");
    let exec = exec.unwrap_err().to_string();
    assert!(exec.contains("is paused"), "{exec}");
    assert_eq!(peer.exit().await, 0);
    assert_eq!(peer.text(), "up\non\n");
    let ended = house.freeze("web", true).await.unwrap_err().to_string();
    assert!(ended.contains("is stopped"), "{ended}");
    assert!(house.freeze("no", true).await.is_err());
}

#[tokio::test]
async fn limits_change_together_and_numbers_say_so() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;
    let mut peer = house.run("web", "echo up; read x").await;
    peer.expect("up").await;

    let warnings = house
        .update(
            "web",
            r#"{"memory":{"limit":33554432,"swappiness":5},"pids":{"limit":9}}"#,
        )
        .await
        .unwrap();
    let refused = house
        .update(
            "web",
            r#"{"memory":{"limit":67108864},"cpu":{"cpus":"0-99"}}"#,
        )
        .await
        .unwrap_err()
        .to_string();
    let stats = house.stats("web").await.unwrap();

    assert_eq!(
        warnings,
        ["linux.resources.memory.swappiness: cgroup2 has no such thing, ignored"]
    );
    assert!(
        refused.contains("the guest has no cpu 1-99, only 0"),
        "{refused}"
    );
    assert_eq!(stats.files["memory.max"], "33554432\n");
    assert_eq!(stats.files["pids.max"], "9\n");
    assert!(stats.files["cpu.stat"].contains("usage_usec"));
    assert!(stats.at_ms > 0);
    assert!(house.stats("no").await.is_err());
}

#[tokio::test]
async fn every_kill_for_want_of_memory_is_told_once_and_kept() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;
    let mut config = config(
        &[
            "/bin/sh",
            "-c",
            "for i in 1 2 3; do dd if=/dev/zero of=/dev/null bs=48M count=1; done; echo up; cat",
        ],
        false,
    );
    config["linux"]["resources"] = json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}});
    let mut peer = house.create("web", config).await;
    house.start("web").await;
    peer.expect("up").await;

    let mut ooms = Vec::new();
    while ooms.len() < 3 {
        ooms.extend(house.news(ooms.len() as u64).await.ooms);
    }
    let seqs: Vec<_> = ooms.iter().map(|oom| oom.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert!(
        ooms.iter()
            .all(|oom| oom.container_id == "web" && oom.at_ms > 0)
    );
    assert_eq!(house.news(0).await.ooms.len(), 3, "kept until acknowledged");
    house.acknowledge(3).await;

    let mut hung = house
        .exec("web", "h", process(&["/bin/sleep", "1000"], false))
        .await;
    house.signal("web", "h", 9).await.unwrap();
    assert_eq!(hung.exit().await, 137);
    let exits = house.news(3).await.exits;
    assert_eq!((exits[0].seq, exits[0].code), (4, 137));
    assert_eq!(
        exits[0].reason,
        ExitReason::EXIT_REASON_SIGNALED.into(),
        "kills of others are not its end"
    );

    let hungry = [
        "/bin/dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=48M",
        "count=1",
    ];
    let mut exec = house.exec("web", "e", process(&hungry, false)).await;
    assert_eq!(exec.exit().await, 137);
    let mut news = house.news(4).await;
    if news.exits.is_empty() {
        news.exits = house.news(5).await.exits;
    }
    let kills: Vec<_> = news.ooms.iter().map(|oom| oom.seq).collect();
    assert_eq!(kills, [5], "told before the exit that it caused");
    assert_eq!((news.exits[0].seq, news.exits[0].code), (6, 137));
    assert_eq!(news.exits[0].reason, ExitReason::EXIT_REASON_OOM.into());

    house.signal("web", "", 9).await.unwrap();
    assert_eq!(peer.exit().await, 137);
    house.remove("web").await.unwrap();
    let last = house.news(6).await;
    assert_eq!(
        (last.ooms.len(), last.exits.len()),
        (0, 1),
        "none is invented"
    );
    assert_eq!(
        last.exits[0].reason,
        ExitReason::EXIT_REASON_SIGNALED.into()
    );
}
