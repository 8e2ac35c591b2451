//! What an import brings in, and what it does to what happens afterwards.

use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::db::{Connection, Value};
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, MessageId, Seq};
use backscroll_shard::model::{
    HistoryRecord, ListEntry, Message, MessageType, NewMessage, RawJson, Timestamp,
};
use backscroll_shard::node::Shard;

use crate::bed::{Bed, PATIENCE, caller, user};

crate::on_every_backend!(
    a_live_message_has_its_own_time_whatever_the_times_before,
    lists_follow_the_newest_message_not_the_greatest_time,
    times_that_cannot_be_are_refused,
    what_clients_may_not_send_is_not_imported,
    a_deleted_message_has_no_content,
    stored_values_that_do_not_fit_are_left_out,
    a_record_is_one_line_whatever_was_sent,
    replies_are_to_records_whatever_was_said_between,
    a_channel_is_known_by_its_name,
    of_two_imports_at_once_one_is_refused,
    what_an_older_version_imported_is_gone_on_with,
    pins_and_mentions_come_out_as_they_went_in,
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
        mentions: Vec::new(),
        pinned_at: None,
        pinned_by: None,
        edited_at: None,
        deleted_at: None,
        to: None,
        status: None,
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

fn json(text: &str) -> Option<RawJson> {
    Some(RawJson::parse(text.to_owned()).unwrap())
}

async fn what_clients_may_not_send_is_not_imported(bed: &Bed) {
    let owner = user("alice");
    let (id, _) = bed.store.import_begin("strict", &owner).await.unwrap();
    let with = |change: fn(&mut HistoryRecord)| {
        let mut record = record("strict", 2);
        change(&mut record);
        record
    };
    let wrong = [
        (with(|it| it.reply_to = Some(Seq(0))), "replyTo: "),
        (with(|it| it.reply_to = Some(Seq(2))), "replyTo: "),
        (with(|it| it.reply_to = Some(Seq(3))), "replyTo: "),
        (
            with(|it| it.reactions = json(r#"{"👍":"bob"}"#)),
            "reactions: ",
        ),
        (
            with(|it| it.reactions = json(r#"{"👍":["b","b"]}"#)),
            "reactions: ",
        ),
        (
            with(|it| it.reactions = json(r#"{"":["bob"]}"#)),
            "reactions: ",
        ),
        (with(|it| it.attachments = json("[1]")), "attachments: "),
        (with(|it| it.metadata = json("[]")), "metadata: "),
        (
            with(|it| it.metadata = json(&format!(r#"{{"a":"{}"}}"#, "x".repeat(4096)))),
            "metadata: ",
        ),
    ];
    for (wrong, field) in wrong {
        let records = [record("strict", 1), wrong];
        let refused = bed.store.import_append(id, 0, &records).await.unwrap_err();
        assert!(refused.to_string().starts_with(field), "{refused}");
    }
    let fitting = with(|it| {
        it.reply_to = Some(Seq(1));
        it.reactions = json("{ \"❤\": [\"bob\"] }");
        it.metadata = json("{ \"k\": 1 }");
    });
    let records = [record("strict", 1), fitting];
    bed.store.import_append(id, 0, &records).await.unwrap();
    let log = bed.log("alice", id).await;
    assert_eq!(log[1].reply_to.map(|id| id.seq), Some(Seq(1)));
    assert_eq!(log[1].reactions.get(), "{\"❤\u{FE0F}\":[\"bob\"]}");
    assert_eq!(log[1].metadata.get(), r#"{"k":1}"#);
}

/// A number that the database of a conversation gives.
async fn number(bed: &Bed, id: ConversationId, statement: &str) -> i64 {
    let mut database = database(bed, id).await;
    let row = database
        .fetch_optional(statement, &[Value::from(&id)])
        .await;
    row.unwrap().unwrap().int(0).unwrap()
}

async fn a_deleted_message_has_no_content(bed: &Bed) {
    let deleted = HistoryRecord {
        deleted_at: Some(LONG_AGO + 10_000),
        reactions: json(r#"{"👍":["bob"]}"#),
        attachments: json(r#"[{"url":"secret.png"}]"#),
        metadata: json(r#"{"k":"secret"}"#),
        text: "secret".into(),
        ..record("del", 1)
    };
    let id = import(bed, &[deleted.clone(), record("del", 2), deleted]).await;
    let is_empty = |message: &Message| {
        let parts = [&message.attachments, &message.reactions, &message.metadata];
        message.deleted_at.is_some()
            && message.content.is_empty()
            && parts.map(RawJson::get) == ["[]", "{}", "{}"]
    };
    // As imports once stored them, which kept the content.
    let mut connection = database(bed, id).await;
    let set = "UPDATE messages SET content = 'secret', reactions = ?, metadata = ?, edit_history = ? \
         WHERE conversation_id = ? AND seq = 3";
    let args = [
        Value::from(r#"{"x":["bob"]}"#),
        Value::from(r#"{"k":1}"#),
        Value::from(r#"[{"content":"secret","replacedAt":"2017-10-08T12:45:02.000Z"}]"#),
        Value::from(&id),
    ];
    assert_eq!(connection.execute(set, &args).await.unwrap(), 1);
    drop(connection);
    let log = bed.log("alice", id).await;
    assert!(is_empty(&log[0]) && is_empty(&log[2]), "{log:?}");
    let me = caller("alice");
    let third = bed.store.message(&me, log[2].id).await.unwrap();
    assert!(
        is_empty(&third) && third.edit_history.is_none(),
        "{third:?}"
    );
    let listed = entry(bed, id).await;
    assert_eq!(listed.last_message.unwrap().content, "");
    let records = bed.store.export(id, Seq(0), 10).await.unwrap();
    assert_eq!(
        (records[2].1.text.as_str(), &records[2].1.reactions),
        ("", &None)
    );

    // Deleting it again removes what is left, and keeps when it was deleted.
    let again = bed.store.delete_message(&me, log[2].id).await.unwrap();
    assert_eq!(again.deleted_at, log[2].deleted_at);
    let left = "SELECT COUNT(*) FROM messages WHERE conversation_id = ? AND deleted_at IS NOT NULL AND (content <> '' OR \
         attachments IS NOT NULL OR reactions IS NOT NULL OR metadata IS NOT NULL OR edit_history IS NOT NULL)";
    assert_eq!(number(bed, id, left).await, 0);
    let once_more = bed.store.delete_message(&me, log[2].id).await.unwrap();
    assert_eq!(once_more.rev, again.rev);
}

async fn stored_values_that_do_not_fit_are_left_out(bed: &Bed) {
    let records: Vec<_> = (1..=2).map(|n| record("damaged", n)).collect();
    let id = import(bed, &records).await;
    let (me, first) = (
        caller("alice"),
        MessageId {
            conversation: id,
            seq: Seq(1),
        },
    );
    let mut connection = database(bed, id).await;
    let set = "UPDATE messages SET reactions = ?, attachments = ?, metadata = ?, edit_history = 'no list' \
         WHERE conversation_id = ?";
    let args = [
        Value::from(r#"{"👍":"bob","👎":["bob","bob"]}"#),
        Value::from("{}"),
        Value::from(r#"{"a""#),
        Value::from(&id),
    ];
    connection.execute(set, &args).await.unwrap();
    let set = "UPDATE conversations SET metadata = '[', first_members = ? WHERE id = ?";
    let args = [Value::from("{"), Value::from(&id)];
    connection.execute(set, &args).await.unwrap();
    drop(connection);
    let log = bed.log("alice", id).await;
    for message in &log {
        assert_eq!(message.reactions.get(), r#"{"👎":["bob"]}"#);
        assert_eq!(
            (message.attachments.get(), message.metadata.get()),
            ("[]", "{}")
        );
    }
    let shown = bed.store.message(&me, first).await.unwrap();
    assert_eq!(shown.edit_history.unwrap().get(), "[]");
    let shown = bed.store.conversation(&me, id).await.unwrap();
    assert_eq!(shown.metadata.get(), "{}");
    let exported = bed.store.export(id, Seq(0), 10).await.unwrap();
    assert_eq!(exported.len(), 2);

    let reacted = bed.store.react(&me, first, "👍").await.unwrap();
    assert_eq!(reacted.reactions.get(), r#"{"👍":["alice"],"👎":["bob"]}"#);
    bed.store
        .edit_message(&me, first, "again".into())
        .await
        .unwrap();
    assert_eq!(bed.say("alice", id, "more").await.seq, Seq(3));
    assert_eq!(entry(bed, id).await.head_seq, Seq(3));
    let deleted = bed.store.delete_message(&me, first).await.unwrap();
    assert!(deleted.deleted_at.is_some());
}

async fn a_record_is_one_line_whatever_was_sent(bed: &Bed) {
    let id = bed.group("alice", &[]).await;
    let new = NewMessage {
        content: "hi".into(),
        metadata: json("{\"a\":\n1, \"b\": \"x y\"}"),
        attachments: json("[ {\"url\":\r\n\"x\"} ]"),
        ..NewMessage::default()
    };
    let sent = bed.store.send(&caller("alice"), id, new).await.unwrap();
    assert_eq!(sent.message.metadata.get(), r#"{"a":1,"b":"x y"}"#);
    assert_eq!(sent.message.attachments.get(), r#"[{"url":"x"}]"#);
    // As older versions stored it.
    let mut connection = database(bed, id).await;
    let set = "UPDATE messages SET metadata = ? WHERE conversation_id = ?";
    let args = [Value::from("{\"a\":\n1}"), Value::from(&id)];
    connection.execute(set, &args).await.unwrap();
    drop(connection);
    let records = bed.store.export(id, Seq(0), 10).await.unwrap();
    let line = serde_json::to_string(&records[0].1).unwrap();
    assert!(
        !line.contains('\n') && line.contains(r#""metadata":{"a":1}"#),
        "{line}"
    );
}

async fn answers(bed: &Bed, id: ConversationId) -> Vec<(String, Option<u64>)> {
    let log = bed.log("alice", id).await.into_iter();
    let answer = |it: Message| Some((it.content, it.reply_to.map(|id| id.seq.0)));
    log.filter_map(answer).collect()
}

fn answer(channel: &str, n: i64, to: u64) -> HistoryRecord {
    HistoryRecord {
        reply_to: Some(Seq(to)),
        ..record(channel, n)
    }
}

async fn replies_are_to_records_whatever_was_said_between(bed: &Bed) {
    let records: Vec<_> = (1..=10).map(|n| record("resume", n)).collect();
    let id = import(bed, &records).await;
    for _ in 0..3 {
        bed.say("alice", id, "live").await;
    }
    let more = [
        record("resume", 11),
        answer("resume", 12, 5),
        answer("resume", 13, 11),
    ];
    bed.store.import_append(id, 10, &more).await.unwrap();
    bed.say("alice", id, "live").await;
    let last = [
        answer("resume", 14, 10),
        answer("resume", 15, 12),
        answer("resume", 16, 14),
    ];
    bed.store.import_append(id, 13, &last).await.unwrap();
    let said: Vec<String> = answers(bed, id)
        .await
        .into_iter()
        .map(|(text, _)| text)
        .collect();
    for (text, to) in answers(bed, id).await {
        let answered = to.map(|seq| said[usize::try_from(seq - 1).unwrap()].as_str());
        let expected = match text.as_str() {
            "message 12" => Some("message 5"),
            "message 13" => Some("message 11"),
            "message 14" => Some("message 10"),
            "message 15" => Some("message 12"),
            "message 16" => Some("message 14"),
            _ => None,
        };
        assert_eq!(answered, expected, "{text}");
    }
}

async fn a_channel_is_known_by_its_name(bed: &Bed) {
    let by_name = async |first: &str| {
        let begun = bed
            .store
            .import_begin_by_name("general", &user(first))
            .await;
        begun.unwrap()
    };
    let (id, stored) = by_name("alice").await;
    assert_eq!(stored, 0);
    let records = [record("general", 1), record("general", 2)];
    bed.store.import_append(id, 0, &records).await.unwrap();
    assert_eq!(by_name("bob").await, (id, 2), "whoever spoke first");
    let owned = bed.store.import_begin("general", &user("zoe")).await;
    assert_ne!(
        owned.unwrap().0,
        id,
        "one that is imported for an owner is another"
    );

    bed.store
        .delete_conversation(&caller("alice"), id)
        .await
        .unwrap();
    let gone = bed.store.export(id, Seq(0), 10).await.unwrap_err();
    assert!(gone.to_string().contains("deleted"), "{gone}");
    assert!(bed.store.import_append(id, 2, &records).await.is_err());
    let (new, stored) = by_name("bob").await;
    assert!(new != id && stored == 0);
    bed.store.import_append(new, 0, &records).await.unwrap();
    assert_eq!(by_name("carol").await, (new, 2));
    assert_eq!(bed.log("bob", new).await.len(), 2);
}

async fn of_two_imports_at_once_one_is_refused(bed: &Bed) {
    let (id, _) = bed
        .store
        .import_begin("both", &user("alice"))
        .await
        .unwrap();
    let mine: Vec<_> = (1..=4).map(|n| record("both", n)).collect();
    let theirs: Vec<_> = (11..=14).map(|n| record("both", n)).collect();
    bed.store.import_append(id, 0, &mine[..2]).await.unwrap();
    for (position, records) in [
        (0, &theirs[..2]),
        (0, &theirs[..4]),
        (0, &mine[..4]),
        (4, &theirs[..1]),
    ] {
        let refused = bed.store.import_append(id, position, records).await;
        assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    }
    let again = bed.store.import_append(id, 0, &mine[..2]).await;
    assert_eq!(again.unwrap(), 2, "a repeat of what was answered by nobody");
    bed.store.import_append(id, 2, &mine[2..]).await.unwrap();
    assert_eq!(bed.log("alice", id).await.len(), 4);
    let batches = bed.store.import_batches(id, 4).await.unwrap();
    assert_eq!(
        batches.iter().map(|it| it.last_record).collect::<Vec<_>>(),
        [2, 4]
    );
}

async fn what_an_older_version_imported_is_gone_on_with(bed: &Bed) {
    let records: Vec<_> = (1..=4).map(|n| record("older", n)).collect();
    let id = import(bed, &records).await;
    let mut connection = database(bed, id).await;
    let forget = "DELETE FROM import_batches WHERE conversation_id = ?";
    connection
        .execute(forget, &[Value::from(&id)])
        .await
        .unwrap();
    drop(connection);
    let batches = bed.store.import_batches(id, 4).await.unwrap();
    assert_eq!(
        (batches.len(), batches[0].last_record, batches[0].digest),
        (1, 4, None)
    );
    bed.say("alice", id, "live").await;
    for n in [5, 6] {
        let more = [answer("older", n, 2)];
        bed.store
            .import_append(id, (n - 1).cast_unsigned(), &more)
            .await
            .unwrap();
    }
    let batches = bed.store.import_batches(id, 6).await.unwrap();
    let known: Vec<_> = batches
        .iter()
        .map(|it| (it.last_record, it.digest.is_some()))
        .collect();
    assert_eq!(known, [(4, false), (5, true), (6, true)]);
    let log = bed.log("alice", id).await;
    assert_eq!(
        log.iter()
            .map(|it| it.reply_to.map(|id| id.seq.0))
            .collect::<Vec<_>>(),
        [None, None, None, None, None, Some(2), Some(2)]
    );
}

async fn pins_and_mentions_come_out_as_they_went_in(bed: &Bed) {
    let with = |n: i64, mentions: &[&str], pinned: bool| HistoryRecord {
        user: user(if n == 1 { "bob" } else { "alice" }),
        mentions: mentions.iter().map(|name| user(name)).collect(),
        pinned_at: pinned.then_some(LONG_AGO + 60_000),
        pinned_by: pinned.then(|| user("carol")),
        ..record("marked", n)
    };
    let mut deleted = with(6, &["bob"], true);
    deleted.deleted_at = Some(LONG_AGO + 70_000);
    let records = [
        with(1, &[], false),
        with(2, &["bob", "carol"], true),
        with(3, &["alice"], false),
        with(4, &["bob"], true),
        deleted,
    ];
    let id = import(bed, &records).await;
    let exported = bed.store.export(id, Seq(0), 10).await.unwrap();
    let exported: Vec<HistoryRecord> = exported.into_iter().map(|(_, record)| record).collect();
    assert_eq!(exported[..4], records[..4]);
    assert!(exported[4].mentions.is_empty() && exported[4].pinned_at.is_none());
    let pins = bed.store.pins(&caller("bob"), id, None, 10).await.unwrap();
    let pinned: Vec<Seq> = pins.messages.iter().map(|message| message.seq).collect();
    assert_eq!(pinned, [Seq(4), Seq(2)]);
    assert_eq!(pins.messages[0].pinned_by, Some(user("carol")));
    let list = bed.store.list_conversations(&caller("bob"), None, 10).await;
    assert_eq!(list.unwrap().conversations[0].unread_mentions, 2);

    // What an import may not bring.
    let (id, _) = bed
        .store
        .import_begin("wrong", &user("alice"))
        .await
        .unwrap();
    let mut half = record("wrong", 1);
    half.pinned_at = Some(LONG_AGO);
    let mut future = half.clone();
    future.pinned_at = Some(YEAR_2447);
    let mut many = record("wrong", 1);
    many.mentions = (0..21).map(|n| user(&format!("user{n}"))).collect();
    for (wrong, field) in [
        (half, "pinnedAt: write"),
        (future, "pinnedAt: "),
        (many, "mentions: at most 20"),
    ] {
        let refused = bed.store.import_append(id, 0, &[wrong]).await.unwrap_err();
        assert!(refused.to_string().starts_with(field), "{refused}");
    }
    let pinned = |n| HistoryRecord {
        pinned_at: Some(LONG_AGO),
        pinned_by: Some(user("alice")),
        ..record("wrong", n)
    };
    let records: Vec<HistoryRecord> = (1..=101).map(pinned).collect();
    let refused = bed.store.import_append(id, 0, &records).await.unwrap_err();
    assert!(
        matches!(refused, Error::LimitReached { max: 100, .. }),
        "{refused}"
    );
}
