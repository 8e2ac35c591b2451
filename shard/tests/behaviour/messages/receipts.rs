//! Who has read what was written, and to whom it was delivered.

use std::collections::BTreeMap;
use std::time::Instant;

use backscroll_shard::error::Error;
use backscroll_shard::ids::{Rev, Seq};
use backscroll_shard::model::{DeliveryStatus, Position};

use crate::bed::{Bed, PATIENCE, caller};

crate::on_every_backend!(
    watermarks_only_grow,
    who_writes_has_read,
    messages_are_delivered_and_read,
);

async fn watermarks_only_grow(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    for n in 0..5 {
        bed.say("alice", id, &n.to_string()).await;
    }
    let read = bed
        .store
        .mark_read(&caller("bob"), id, Some(Seq(3)))
        .await
        .unwrap();
    assert_eq!(
        (read.read_seq, read.delivered_seq, read.unread_count),
        (Seq(3), Seq(3), 2)
    );
    let back = bed
        .store
        .mark_read(&caller("bob"), id, Some(Seq(1)))
        .await
        .unwrap();
    assert_eq!(back.read_seq, Seq(3));
    let delivered = bed
        .store
        .mark_delivered(&caller("bob"), id, None)
        .await
        .unwrap();
    assert_eq!(
        (delivered.read_seq, delivered.delivered_seq),
        (Seq(3), Seq(5))
    );
    assert!(matches!(
        bed.store.mark_read(&caller("bob"), id, Some(Seq(6))).await,
        Err(Error::Invalid(_))
    ));
    let head = bed.store.conversation(&caller("bob"), id).await.unwrap();
    assert_eq!(
        (head.unread_count, head.rev),
        (2, Rev(6)),
        "watermarks take no rev"
    );
    bed.settle().await;
    assert_eq!(
        bed.store.unread_count(&caller("bob")).await.unwrap().total,
        2
    );
    assert_eq!(
        bed.store
            .unread_count(&caller("alice"))
            .await
            .unwrap()
            .total,
        0,
        "what I sent I have read"
    );
}

/// Also those of whom the head no longer says that they wrote, and as another process sees it.
async fn who_writes_has_read(bed: &Bed) {
    let names: Vec<String> = (0..40).map(|n| format!("writer{n:02}")).collect();
    let others: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = bed.group("alice", &others).await;
    let mut newest = BTreeMap::from([("alice".to_owned(), Seq(0))]);
    for name in names.iter().chain(&names[35..]).chain(&names[..5]) {
        let sent = bed.say(name, id, "read so far").await;
        newest.insert(name.clone(), sent.seq);
    }
    let head = Seq(50);
    bed.settle().await;
    let another = Bed::another(&bed.settings).await;
    for store in [&bed.store, &another] {
        let page = store.members(&caller("alice"), id, None, 50).await.unwrap();
        let told = page.members.into_iter().map(|member| {
            assert_eq!(member.delivered_seq, member.read_seq, "{}", member.user_id);
            (member.user_id.to_string(), member.read_seq)
        });
        assert_eq!(told.collect::<BTreeMap<_, _>>(), newest);
        for (name, seq) in &newest {
            let conversation = store.conversation(&caller(name), id).await.unwrap();
            assert_eq!(conversation.read_seq, *seq, "{name}");
            assert_eq!(conversation.unread_count, head.0 - seq.0, "{name}");
            let unread = store.unread_count(&caller(name)).await.unwrap();
            assert_eq!(unread.total, head.0 - seq.0, "{name}'s list");
        }
        let moved = store.mark_read(&caller("writer39"), id, Some(Seq(7))).await;
        assert_eq!(moved.unwrap().read_seq, newest["writer39"], "never back");
    }
    another.close(Instant::now() + PATIENCE).await;
    let pair = bed.group("alice", &["bob"]).await;
    let question = bed.say("alice", pair, "?").await;
    bed.say("bob", pair, "!").await;
    let page = bed.page("alice", pair, Position::Latest, 10).await;
    let status = |seq: Seq| page.messages.iter().find(|m| m.seq == seq).unwrap().status;
    assert_eq!(status(question.seq), DeliveryStatus::Read);
    let alone = bed.store.message(&caller("alice"), question.id).await;
    assert_eq!(alone.unwrap().status, DeliveryStatus::Read);
}

async fn messages_are_delivered_and_read(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol"]).await;
    bed.say("alice", id, "hi").await;
    let status = || async { bed.log("alice", id).await[0].status };
    assert_eq!(status().await, DeliveryStatus::Sent);
    bed.store
        .mark_delivered(&caller("bob"), id, None)
        .await
        .unwrap();
    assert_eq!(status().await, DeliveryStatus::Sent, "not by carol yet");
    bed.store
        .mark_read(&caller("carol"), id, None)
        .await
        .unwrap();
    assert_eq!(status().await, DeliveryStatus::Delivered);
    bed.store.mark_read(&caller("bob"), id, None).await.unwrap();
    assert_eq!(status().await, DeliveryStatus::Read);
}
