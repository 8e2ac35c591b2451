//! What an import brings in, and what it does to what happens afterwards.

use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::db::{Connection, Value};
use backscroll_shard::ids::{ConversationId, MessageId, Seq};
use backscroll_shard::model::{HistoryRecord, ListEntry, MessageType, Timestamp};
use backscroll_shard::node::Shard;

use crate::bed::{Bed, PATIENCE, caller, user};

crate::on_every_backend!(
    a_live_message_has_its_own_time_whatever_the_times_before,
    lists_follow_the_newest_message_not_the_greatest_time,
    times_that_cannot_be_are_refused,
);

const LONG_AGO: i64 = 1_507_466_702_000;
const YEAR_2447: i64 = 15_074_667_020_000;

/// Message `n` of a channel, by Alice.
fn record(channel: &str, n: i64) -> HistoryRecord {
    HistoryRecord {
        channel: channel.into(),
        user: user("alice"),
        at: LONG_AGO + n * 1000,
        text: format!("message {n}"),
        message_type: MessageType::Text,
        reply_to: None,
        attachments: None,
        reactions: None,
        metadata: None,
        edited_at: None,
        deleted_at: None,
    }
}

async fn import(bed: &Bed, records: &[HistoryRecord]) -> ConversationId {
    let store = &bed.store;
    let (id, stored) = store
        .import_begin(&records[0].channel, &user("alice"))
        .await
        .unwrap();
    store.import_append(id, stored, records).await.unwrap();
    bed.settle().await;
    id
}

fn shard(bed: &Bed, id: ConversationId) -> Arc<Shard> {
    let map = bed.store.map();
    let name = &map.locate(id.owner_key()).shard;
    Arc::clone(bed.store.router().shard(name).unwrap())
}

/// A connection to the database of a conversation, to make it what older versions left there.
async fn database(bed: &Bed, id: ConversationId) -> Connection {
    let deadline = Instant::now() + PATIENCE;
    shard(bed, id).primary().writer(deadline).await.unwrap()
}

async fn entry(bed: &Bed, id: ConversationId) -> ListEntry {
    bed.settle().await;
    let me = caller("alice");
    let list = bed.store.list_conversations(&me, None, 100);
    let mut entries = list.await.unwrap().conversations.into_iter();
    entries.find(|entry| entry.id == id).unwrap()
}

async fn a_live_message_has_its_own_time_whatever_the_times_before(bed: &Bed) {
    let records: Vec<_> = (1..=3).map(|n| record("future", n)).collect();
    let id = import(bed, &records).await;
    // As imports stored it that took such times.
    let args = [Value::from(YEAR_2447), Value::from(&id)];
    let mut database = database(bed, id).await;
    for set in [
        "UPDATE messages SET created_at = ? WHERE conversation_id = ? AND seq = 2",
        "UPDATE conversations SET last_at = ? WHERE id = ?",
    ] {
        assert_eq!(database.execute(set, &args).await.unwrap(), 1);
    }
    drop(database);
    let latest = |at: Timestamp| at <= Timestamp::now() && at > Timestamp(LONG_AGO + 10_000);

    let live = bed.say("alice", id, "live").await;
    assert!(latest(live.created_at), "{live:?}");
    let (me, second) = (
        caller("alice"),
        MessageId {
            conversation: id,
            seq: Seq(2),
        },
    );
    let edited = bed.store.edit_message(&me, second, "again".into()).await;
    assert!(edited.unwrap().edited_at.is_some_and(latest));
    let deleted = bed.store.delete_message(&me, second).await;
    assert!(deleted.unwrap().deleted_at.is_some_and(latest));

    let entry = entry(bed, id).await;
    assert!(latest(entry.last_activity_at), "{entry:?}");
    assert_eq!(entry.last_message.unwrap().created_at, live.created_at);
}

async fn lists_follow_the_newest_message_not_the_greatest_time(bed: &Bed) {
    let mut records: Vec<_> = (1..=3).map(|n| record("up and down", n)).collect();
    records[1].at += 1_000_000;
    let id = import(bed, &records).await;
    let newest = Timestamp(records[2].at);
    let listed = entry(bed, id).await;
    let preview = listed.last_message.unwrap();
    assert_eq!((preview.seq, preview.created_at), (Seq(3), newest));
    assert_eq!(listed.last_activity_at, newest);
    let shown = bed.store.conversation(&caller("alice"), id).await.unwrap();
    assert_eq!(shown.last_message.unwrap().created_at, newest);
}

async fn times_that_cannot_be_are_refused(bed: &Bed) {
    let (id, _) = bed
        .store
        .import_begin("times", &user("alice"))
        .await
        .unwrap();
    let usual = record("times", 1);
    let ahead = Timestamp::now().0 + 3_600_000;
    let wrong = [
        (
            HistoryRecord {
                at: ahead,
                ..usual.clone()
            },
            "at: ",
        ),
        (
            HistoryRecord {
                at: LONG_AGO / 1000,
                ..usual.clone()
            },
            "at: ",
        ),
        (
            HistoryRecord {
                at: -1,
                ..usual.clone()
            },
            "at: ",
        ),
        (
            HistoryRecord {
                edited_at: Some(ahead),
                ..usual.clone()
            },
            "editedAt: ",
        ),
        (
            HistoryRecord {
                deleted_at: Some(YEAR_2447),
                text: String::new(),
                ..usual.clone()
            },
            "deletedAt: ",
        ),
    ];
    for (wrong, field) in wrong {
        let records = [usual.clone(), wrong];
        let refused = bed.store.import_append(id, 0, &records).await.unwrap_err();
        assert!(refused.to_string().starts_with(field), "{refused}");
    }
    // A clock may be a little ahead.
    let little = HistoryRecord {
        at: Timestamp::now().0 + 60_000,
        ..usual
    };
    bed.store.import_append(id, 0, &[little]).await.unwrap();
}
