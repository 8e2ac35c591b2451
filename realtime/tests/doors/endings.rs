//! Clients that do not read.

use std::time::{Duration, Instant};

use backscroll_realtime::push::{Push, PushKind, Topic};
use backscroll_shard::ids::{ConversationId, Rev};
use serde_json::json;

use crate::bed::Bed;
use crate::client::{Client, Door};

super::through_both_doors!(
    a_client_that_reads_too_slowly_is_closed_with_the_reason,
    a_client_that_never_reads_is_dropped,
);

/// Bytes of one message.
const LARGE: usize = 16 << 10;

/// A client that has a conversation with many events open.
async fn with_many_events(bed: &Bed, door: Door, megabytes: usize) -> Client {
    let id = bed.group("alice", &["bob"]).await;
    let mut bob = bed.connect(door, "bob").await;
    let data = json!({"conversationId": id});
    let head = bob.ask("join_conversation", data).await.unwrap();
    let first = head["rev"].as_u64().unwrap() + 1;
    let count = u64::try_from((megabytes << 20) / LARGE).unwrap();
    for rev in first..first + count {
        publish(bed, id, rev);
        if rev % 16 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await; // the hub's own queue is not what is tested
        }
    }
    bob
}

fn publish(bed: &Bed, id: ConversationId, rev: u64) {
    let data = json!({"conversationId": id, "message": {"rev": rev, "content": "x".repeat(LARGE)}});
    let push = Push::change(PushKind::NewMessage, Rev(rev), &data);
    bed.bus.publish(&Topic::Conversation(id), &push);
}

async fn a_client_that_reads_too_slowly_is_closed_with_the_reason(door: Door) {
    let bed = Bed::with(|settings| settings.queue_bytes = 256 << 10).await;
    let mut bob = with_many_events(&bed, door, 64).await;
    // What it reads now is what was sent before, in order and without a hole, and then the reason.
    let mut last = None;
    let end = bob.end().await;
    assert_eq!(end, "slow_consumer");
    assert!(!bob.is_final(), "it may come back");
    while bob.events_so_far().contains(&"new_message") {
        let received = bob.event("new_message").await;
        let rev = received["message"]["rev"].as_u64().unwrap();
        assert!(
            last.is_none_or(|last| rev == last + 1),
            "{rev} after {last:?}"
        );
        last = Some(rev);
    }
    assert!(last.is_some());
    bed.holds(0).await;
    bed.close().await;
}

async fn a_client_that_never_reads_is_dropped(door: Door) {
    let bed = Bed::with(|settings| settings.queue_bytes = 256 << 10).await;
    let begun = Instant::now();
    let bob = with_many_events(&bed, door, 64).await;
    // Within the time that one write may take, the farewell, and what the connection needs to break.
    let limit = Duration::from_secs(25);
    while bed.gateway.count() > 0 {
        assert!(begun.elapsed() < limit, "it is still held");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(bob);
    bed.close().await;
}
