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
    a_user_whose_tokens_are_revoked_comes_back_with_a_new_one,
);

/// Gives when it was imposed.
async fn impose(bed: &Bed, kind: SanctionKind, until: Option<Timestamp>) -> Timestamp {
    let new = NewSanction {
        kind,
        until,
        reason: "advertising".to_owned(),
    };
    let (moderator, bob) = (user("moderator"), user("bob"));
    let imposed = bed.store.sanctions().impose(&moderator, &bob, &new);
    imposed.await.unwrap().imposed_at
}

/// The promise.
const WITHIN: Duration = Duration::from_secs(1);

async fn a_banned_user_is_gone_within_a_second(door: Door) {
    for (kind, until, reason) in [
        (SanctionKind::Ban, None, "banned"),
        (
            SanctionKind::Suspend,
            Some(Timestamp(Timestamp::now().0 + 3_600_000)),
            "suspended",
        ),
    ] {
        let mut took = gone_after(door, (kind, until), reason).await;
        // Once more: the machine is busy with other tests.
        if took >= WITHIN {
            took = took.min(gone_after(door, (kind, until), reason).await);
        }
        assert!(took < WITHIN, "{took:?}");
    }
}

/// How long it takes until all connections of a sanctioned user have ended; those of others stay.
async fn gone_after(
    door: Door,
    (kind, until): (SanctionKind, Option<Timestamp>),
    reason: &str,
) -> Duration {
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
    let took = begun.elapsed();
    bed.holds(1).await;
    alice.ask("sync", json!({})).await.unwrap();
    bed.close().await;
    took
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

async fn a_user_whose_tokens_are_revoked_comes_back_with_a_new_one(door: Door) {
    let bed = Bed::new().await;
    let mut bob = bed.connect(door, "bob").await;
    let revoked_at = impose(&bed, SanctionKind::Revoke, None).await;
    assert_eq!(bob.end().await, "token_invalid");
    // Tokens tell their time in seconds: one of the same second may have been issued before.
    while Timestamp::now().0 / 1000 <= revoked_at.0 / 1000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut again = bed.connect(door, "bob").await;
    again.ask("sync", json!({})).await.unwrap();
    bed.close().await;
}
