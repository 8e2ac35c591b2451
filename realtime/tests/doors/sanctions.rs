//! Users whom a moderator shuts out while they are connected.

use std::time::{Duration, Instant};

use backscroll_shard::model::Timestamp;
use backscroll_shard::sanctions::{NewSanction, SanctionKind};
use serde_json::json;

use crate::bed::{Bed, user};
use crate::client::Door;

super::through_both_doors!(
    a_banned_user_is_gone_within_a_second,
    a_muted_user_stays_and_is_told_why,
);

async fn impose(bed: &Bed, kind: SanctionKind, until: Option<Timestamp>) {
    let new = NewSanction {
        kind,
        until,
        reason: "advertising".to_owned(),
    };
    let (moderator, bob) = (user("moderator"), user("bob"));
    let imposed = bed.store.sanctions().impose(&moderator, &bob, &new);
    imposed.await.unwrap();
}

async fn a_banned_user_is_gone_within_a_second(door: Door) {
    for (kind, until, reason) in [
        (SanctionKind::Ban, None, "banned"),
        (
            SanctionKind::Suspend,
            Some(Timestamp(Timestamp::now().0 + 3_600_000)),
            "suspended",
        ),
    ] {
        let bed = Bed::new().await;
        let (mut first, mut second) = (
            bed.connect(door, "bob").await,
            bed.connect(door, "bob").await,
        );
        let mut alice = bed.connect(door, "alice").await;
        let begun = Instant::now();
        impose(&bed, kind, until).await;
        for bob in [&mut first, &mut second] {
            assert_eq!(bob.end().await, reason);
            assert_eq!(bob.is_final(), kind == SanctionKind::Ban);
        }
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        bed.holds(1).await;
        alice.ask("sync", json!({})).await.unwrap();
        bed.close().await;
    }
}

async fn a_muted_user_stays_and_is_told_why(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut bob = bed.connect(door, "bob").await;
    let here = json!({"conversationId": id});
    bob.ask("join_conversation", here.clone()).await.unwrap();
    impose(&bed, SanctionKind::Mute, None).await;
    for (command, data) in [
        (
            "send_message",
            json!({"conversationId": id, "content": "x"}),
        ),
        ("typing_start", here.clone()),
    ] {
        let refused = bob.ask(command, data).await.unwrap_err();
        assert_eq!(refused["code"], "muted", "{refused}");
        assert_eq!(refused["message"], "you are muted: advertising");
    }
    bob.ask("mark_read", here).await.unwrap();
    bed.close().await;
}
