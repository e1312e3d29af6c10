//! What is acknowledged stays, whatever happens to the process.

use crate::support::{Peer, Process};

#[tokio::test]
async fn an_acknowledged_update_survives_a_kill_a_moment_later() {
    let mut process = Process::start().await;
    let ack = process.client.write("a", "tab-1", &Peer::new().insert(0, "kept")).await;
    process.kill().await;

    let process = process.restart().await;
    assert_eq!(process.client.text("a").await, "kept");
    let state = process.client.get("/docs/a/state").await.expect_json(200);
    assert_eq!(state["epoch"], ack.epoch);
    assert_eq!(state["seq"], ack.seq);
}
