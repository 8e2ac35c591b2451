//! No statement reads a whole table: every plan is looked at, with real values, on tables of some size.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::archive::{self, ArchivedRun, Copies, SegmentState};
use backscroll_shard::db::{Database, Dialect, Value, explain};
use backscroll_shard::dump::{ConversationsCursor, Part, RowsCursor, UsersCursor};
use backscroll_shard::error::Result;
use backscroll_shard::ids::{ConversationId, NotificationId, Rev, Seq};
use backscroll_shard::map::Assignment;
use backscroll_shard::media;
use backscroll_shard::mentions;
use backscroll_shard::message::{StoredMessage, latest_seqs};
use backscroll_shard::model::{
    ConversationKind, ConversationPatch, HistoryRecord, MediaProcessed, MessageEdit, MessageType,
    NewConversation, NewMembers, NewMessage, NewNotification, NotificationFilter, Position, Role,
    SearchRequest, SyncRequest, Timestamp,
};
use backscroll_shard::node::Shard;
use backscroll_shard::owned::{OwnedReader, OwnedTransaction};
use backscroll_shard::pins;
use backscroll_shard::settings::StoreSettings;
use backscroll_shard::store::MediaQuota;
use backscroll_shard::threads;

use crate::bed::{Bed, PATIENCE, caller, text_as, user};
use crate::media::{pending, processed, ready, to_process, with_files};

/// Tables that have few rows here: MySQL reads such a one whole, whatever index a statement names; MariaDB does not.
const FEW_ROWS: [&str; 5] = ["mentions", "receipts", "replies", "threads", "pins"];

/// Tables that grow with the deployment. The others have a row a range, or a row for what is being relayed just now.
pub(crate) const LARGE: [&str; 27] = [
    "blocks",
    "copied_conversations",
    "media",
    "media_refs",
    "mentions",
    "pins",
    "p",
    "receipts",
    "replies",
    "threads",
    "messages",
    "members",
    "conversations",
    "list_entries",
    "users",
    "last_seen",
    "notifications",
    "notification_heads",
    "imports",
    "archive_runs",
    "archive_segments",
    "erasures",
    "m",
    "c",
    "n",
    "o",
    "r",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_scans_on_sqlite() {
    let bed = Bed::sqlite_with(watch).await;
    no_statement_scans(&bed).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_scans_on_server() {
    let bed = Bed::server_with(watch).await;
    no_statement_scans(&bed).await;
    bed.close().await;
}

fn watch(settings: &mut StoreSettings) {
    settings.relay.max_members = 20;
    settings.limits.notifications = 20;
    for shard in &settings.shards {
        explain::watch(&shard.primary.0);
    }
}

async fn no_statement_scans(bed: &Bed) {
    fill(bed).await;
    use_everything(bed).await;
    use_live(bed).await;
    use_notifications(bed).await;
    use_media(bed).await;
    use_dump(bed).await;
    for shard in bed.store.router().shards() {
        use_archive(bed, shard).await.unwrap();
    }
    let is_mysql = std::env::var("BACKSCROLL_TEST_SQL_FLAVOR").is_ok_and(|it| it == "mysql");
    let mut statements = 0;
    let mut read = BTreeSet::new();
    for shard in &bed.settings.shards {
        for (statement, steps) in explain::seen(&shard.primary.0) {
            statements += 1;
            for step in steps {
                let table = step.table.as_str();
                let is_judged = LARGE.contains(&table) && !(is_mysql && FEW_ROWS.contains(&table));
                assert!(
                    !(step.scans && is_judged),
                    "{statement}\nscans {}",
                    step.table
                );
                read.insert(step.table);
            }
        }
    }
    assert!(statements > 40, "only {statements} statements were seen");
    for table in [
        "messages",
        "members",
        "m",
        "c",
        "conversations",
        "list_entries",
        "users",
        "notifications",
        "notification_heads",
        "archive_runs",
        "archive_segments",
        "erasures",
    ] {
        assert!(read.contains(table), "no plan reads {table}: {read:?}");
    }
}

/// All of the deployment is read, and what was read is taken in again.
async fn use_dump(bed: &Bed) {
    let store = &bed.store;
    let mut cursor = UsersCursor::default();
    loop {
        let rows = store.dump_users(&mut cursor).await.unwrap();
        if rows.is_empty() {
            break;
        }
        store.take_users(&rows).await.unwrap();
    }
    let mut cursor = ConversationsCursor::default();
    let found = store.dump_conversations(&mut cursor).await.unwrap();
    for (id, _) in found.into_iter().take(20) {
        let since = Some(Timestamp(1));
        let Some((begun, _)) = store.dump_begin(id, since).await.unwrap() else {
            continue;
        };
        let (rows, _) = store.dump_rows(id, &RowsCursor::default()).await.unwrap();
        let rev = Some(Rev(1));
        let messages = store.dump_messages(id, (Seq(0), 50), rev).await.unwrap();
        let copy = ConversationId::new(id.owner_key(), 0xC0B7);
        let (messages, _) = messages.unwrap_or_default();
        let part = Part {
            id: copy,
            rev: begun.rev,
            rows: Vec::new(),
            messages,
            dropped: Some(Seq(1)),
            head: None,
        };
        store.take_part(&part).await.unwrap();
        let head = Some(begun.head);
        let whole = Part {
            id,
            rows,
            head,
            ..part
        };
        let refused = store.take_part(&whole).await.unwrap().refused;
        assert!(refused.is_some(), "no export has brought it");
        store.take_deletion(copy, Timestamp(1)).await.unwrap();
    }
    store.dump_channels(&mut Vec::new()).await.unwrap();
}

/// Enough rows that an optimiser has a reason to use an index.
async fn fill(bed: &Bed) {
    for n in 0..60 {
        let owner = user(&format!("owner{n}"));
        let (id, _) = bed
            .store
            .import_begin(&format!("channel {n}"), &owner)
            .await
            .unwrap();
        let record = |i: i64| HistoryRecord {
            channel: format!("channel {n}"),
            user: user(&format!("speaker{}", i % 40)),
            at: 1_507_466_702_000 + i,
            text: format!("message {i}"),
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
        };
        let records: Vec<HistoryRecord> = (0..300).map(record).collect();
        bed.store.import_append(id, 0, &records).await.unwrap();
    }
    bed.settle().await;
    for shard in &bed.settings.shards {
        let database = Database::open_any(&shard.primary, &bed.settings.pool).unwrap();
        let mut connection = database
            .writer(std::time::Instant::now() + PATIENCE)
            .await
            .unwrap();
        match connection.dialect() {
            Dialect::Sqlite => connection.execute_raw("ANALYZE").await.unwrap(),
            Dialect::MySql => connection
                .execute_raw("ANALYZE TABLE messages, members, conversations, list_entries, users")
                .await
                .unwrap(),
        }
        drop(connection);
        database.close().await;
    }
}

/// What a node asks that serves connections.
async fn use_live(bed: &Bed) {
    let deadline = Instant::now() + PATIENCE;
    let (id, _) = bed
        .store
        .import_begin("channel 7", &user("owner7"))
        .await
        .unwrap();
    let users = [user("owner7"), user("speaker3")];
    let pairs = users.clone().map(|user| (id, user));
    assert!(!bed.store.standings(&pairs, deadline).await.is_empty());
    assert!(!bed.store.heads(&[id], deadline).await.is_empty());
    assert!(!bed.store.list_revs(&users, deadline).await.is_empty());
    bed.store.changes(id, Rev(290), deadline).await.unwrap();
    let others: Vec<_> = (0..200).map(|n| user(&format!("speaker{n}"))).collect();
    let me = user("speaker1");
    let contacts = bed.store.contacts_among(&me, &others, deadline).await;
    assert!(!contacts.is_empty());
    let (me, other) = (caller("speaker1"), user("nobody"));
    bed.store.block(&me, &other).await.unwrap();
    let blocked = bed.store.blocked_users(&me, None, 10).await.unwrap();
    assert_eq!(blocked.users, std::slice::from_ref(&other));
    bed.store.unblock(&me, &other).await.unwrap();
    bed.store
        .list_changes(&users[0], Rev(0), 10, deadline)
        .await
        .unwrap();
    let seen: Vec<_> = (0..200)
        .map(|n| (user(&format!("speaker{n}")), Timestamp(n)))
        .collect();
    bed.store.save_last_seen(&seen, deadline).await.unwrap();
    assert!(!bed.store.last_seen(&users, deadline).await.is_empty());
}

/// Sends, lists and reads notifications, with so few kept that old ones fall out.
async fn use_notifications(bed: &Bed) {
    let store = &bed.store;
    let users: Vec<_> = (0..100).map(|n| user(&format!("speaker{n}"))).collect();
    for n in 0..30 {
        let new = NewNotification {
            user_ids: users.clone(),
            kind: "offer".to_owned(),
            title: format!("offer {n}"),
            ..NewNotification::default()
        };
        let outcome = store.notify(&caller("admin"), new).await.unwrap();
        assert!(outcome.failed.is_empty());
    }
    let me = caller("speaker7");
    let kinds = [None, Some("offer")].into_iter();
    let filters =
        kinds.flat_map(|kind| [false, true].map(|unread| NotificationFilter { unread, kind }));
    for filter in filters {
        let list = store.notifications(&me, None, filter, 5).await.unwrap();
        let cursor = list.next_cursor.as_deref();
        store.notifications(&me, cursor, filter, 5).await.unwrap();
    }
    store.unread_notifications(&me).await.unwrap();
    store
        .read_notification(&me, NotificationId(28))
        .await
        .unwrap();
    store.read_notifications(&me).await.unwrap();
}

/// Uploads, sends and deletes files, and collects them.
async fn use_media(bed: &Bed) {
    let store = &bed.store;
    let me = caller("owner7");
    let (id, _) = store.import_begin("channel 7", &me.user).await.unwrap();
    for n in 0..300 {
        let file = pending(&me, id);
        let quota = MediaQuota {
            files: 1000,
            bytes: 1 << 40,
        };
        store.begin_media(&me, &file, quota).await.unwrap();
        let verdict = ready(n);
        store.finish_media(&me, &file, &verdict).await.unwrap();
        if n % 3 == 0 {
            let new = with_files(&[file.id]);
            let sent = store.send(&me, id, new).await.unwrap().message;
            assert!(
                store
                    .media(&me, file.id)
                    .await
                    .unwrap()
                    .expires_at
                    .is_none()
            );
            if n % 2 == 0 {
                store.delete_message(&me, sent.id).await.unwrap();
            }
        }
    }
    let file = pending(&me, id);
    let quota = MediaQuota {
        files: 1000,
        bytes: 1 << 40,
    };
    store.begin_media(&me, &file, quota).await.unwrap();
    store.delete_media(&me, file.id).await.unwrap();
    let shard = store
        .router()
        .shard(&store.map().locate(id.owner_key()).shard)
        .unwrap();
    let file = pending(&me, id);
    store.begin_media(&me, &file, quota).await.unwrap();
    let (file, _) = store
        .finish_media(&me, &file, &to_process(300))
        .await
        .unwrap();
    let sent = store.send(&me, id, with_files(&[file.id])).await.unwrap();
    store
        .postpone_processing(&file, Duration::ZERO)
        .await
        .unwrap();
    let mut taken = store.take_due_media(shard, 9).await.unwrap();
    let file = taken.pop().unwrap();
    let taken_id = file.id;
    let failed = MediaProcessed::Failed("damaged");
    let file = store.finish_processing(&file, &failed).await.unwrap();
    store.tell_processed(&file.unwrap()).await.unwrap();
    let file = store.media(&me, taken_id).await.unwrap();
    let keys = file.variant_keys.clone().unwrap();
    let file = store.process_again(&file, &keys).await.unwrap().unwrap();
    let file = store.finish_processing(&file, &processed()).await.unwrap();
    store.tell_processed(&file.unwrap()).await.unwrap();
    store.delete_message(&me, sent.message.id).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut connection = shard.primary().writer(deadline).await.unwrap();
    connection.begin().await.unwrap();
    let now = Timestamp::now();
    let expired = media::expired(&mut connection, now, Timestamp(0), 100).await;
    let expired = expired.unwrap();
    assert_eq!(expired.len(), 52);
    let mut rows = OwnedTransaction::for_job(&mut connection);
    let removed = media::remove_expired(&mut rows, &expired[0], now).await;
    assert!(removed.unwrap());
    media::forget(&mut connection, &expired[0]).await.unwrap();
    let page = media::after(&mut connection, None, 5).await.unwrap();
    let last = page.last().map(|file| (file.conversation, Some(file.id)));
    media::after(&mut connection, last, 5).await.unwrap();
    media::remove_all(&mut connection, id, now).await.unwrap();
    connection.commit().await.unwrap();
}

/// Archives the first half of every conversation of a shard, in the index only, and looks at it in every way.
async fn use_archive(bed: &Bed, shard: &Arc<Shard>) -> Result<()> {
    let now = Timestamp::now();
    let map = bed.store.map();
    let ranges: Vec<Assignment> = map.ranges_of(shard.name()).cloned().collect();
    let ttl = Duration::from_secs(60);
    let deadline = Instant::now() + PATIENCE;
    let connection = &mut shard.primary().writer(deadline).await?;
    connection.begin().await?;
    let lease = archive::take_lease(connection, (shard.name(), ranges), "a test", ttl).await?;
    archive::check_lease(connection, &lease).await?;
    archive::renew_lease(connection, &lease, ttl).await?;
    archive::lease_expiry(connection, &lease).await?;
    archive::believe_no_future(connection).await?;
    archive::date_heads(connection, lease.ranges[0].range, now).await?;
    let mut segments = Vec::new();
    let mut after = None;
    loop {
        let found =
            archive::candidates(connection, &lease.ranges[0], now, after.as_ref(), 7).await?;
        let Some(last) = found.last() else { break };
        after = Some(*last);
        let ids: Vec<ConversationId> = found.iter().map(|found| found.conversation).collect();
        archive::describe(connection, &ids).await?;
        for candidate in &found {
            let id = candidate.conversation;
            archive::count_messages_and_bytes(connection, candidate, now).await?;
            let rows = archive::rows_after(connection, id, Seq(0), 150).await?;
            archive::next_sent(connection, id, Seq(150), now).await?;
            let segment = archive::SegmentId::random();
            segments.push((id, segment));
            let generation = archive::begin_segment(connection, &lease, segment, now).await?;
            let run = |chunk: &[StoredMessage]| ArchivedRun {
                first_seq: chunk[0].seq,
                last_seq: chunk[chunk.len() - 1].seq,
                generation,
                first_rev: chunk[0].rev,
                last_rev: candidate.rev,
                last_at: now,
                segment: Some(segment),
                offset: 0,
                length: 1,
                digest: 0,
            };
            let runs: Vec<_> = rows.chunks(3).map(|chunk| (id, run(chunk))).collect();
            archive::publish(connection, segment, (1, 150), &runs, now).await?;
            archive::request_erasure(connection, id, Seq(3), now).await?;
        }
    }
    if connection.dialect() == Dialect::MySql {
        connection.commit().await?; // ANALYZE would do so by itself
        connection
            .execute_raw("ANALYZE TABLE archive_runs, archive_segments, erasures")
            .await?;
        connection.begin().await?;
    }
    for (id, segment) in &segments {
        let copies = Copies::find(connection, *id, (Seq(40), Seq(60))).await?;
        assert!(copies.runs().len() == 7 && copies.rev() > Rev(0));
        let changed = Copies::changed(connection, *id, Rev(20), 5).await?;
        assert!(changed.runs().len() == 5 && changed.rev() == copies.rev());
        archive::next_archived(connection, *id, Seq(40)).await?;
        let runs = archive::runs_of_conversation(connection, *id, None, 5).await?;
        let runs = archive::runs_of_conversation(connection, *id, runs.last(), 5).await?;
        {
            let mut rows = OwnedReader::for_job(connection);
            let latest = archive::latest_runs(&mut rows, *id, Seq(40), 5).await?;
            assert!(latest.len() == 5 && latest[0].holds(Seq(40)));
            latest_seqs(&mut rows, *id, (Seq(1), Seq(9)), 5).await?;
        }
        archive::runs_of_segment(connection, *segment, Some((*id, Seq(9))), 5).await?;
        archive::hot_revs(connection, *id, (Seq(1), Seq(9))).await?;
        archive::hot_states(connection, *id, (Seq(1), Seq(9))).await?;
        archive::hot_count(connection, *id, (Seq(1), Seq(9))).await?;
        archive::delete_run(connection, *id, (Seq(1), Seq(9)), Rev(5), now).await?;
        archive::settle_heads(connection, &[*id]).await?;
        archive::drop_run(connection, *id, &runs[0]).await?;
        archive::is_named(connection, *segment).await?;
        archive::overtaken_by(connection, *segment).await?;
        archive::segment(connection, *segment).await?;
        archive::is_held(connection, *id).await?;
        archive::erasures_of(connection, *id, None, 5).await?;
        archive::erasure_rewritten(connection, *id, Seq(3), now).await?;
    }
    archive::next_named_segment(connection, None).await?;
    archive::segments_after(connection, None, 5).await?;
    archive::segments_in(connection, SegmentState::Published, now, 5).await?;
    archive::segment_sums(connection, SegmentState::Published).await?;
    archive::heads_after(connection, None, 5).await?;
    archive::oldest_hot(connection).await?;
    archive::pending_erasures(connection, 5).await?;
    archive::open_erasures(connection).await?;
    archive::finish_erasures(connection, now).await?;
    for (id, segment) in &segments {
        let published = (SegmentState::Published, SegmentState::Superseded);
        let record = archive::segment(connection, *segment).await?.unwrap();
        let runs = archive::all_runs_of_segment(connection, *segment).await?;
        assert_eq!(
            archive::enter_segment(connection, &record, &runs[1..]).await?,
            0
        );
        assert_eq!(archive::enter_segment(connection, &record, &runs).await?, 1);
        archive::change_segment(connection, *segment, published, now).await?;
        archive::unname_segment(connection, *segment).await?;
        archive::supersede(connection, *segment, now).await?;
        let record = archive::segment(connection, *segment).await?.unwrap();
        assert!(archive::begin_deletion(connection, &record, now).await?);
        archive::forget_segment(connection, *segment).await?;
        // As many as make it worth to look for some of them.
        for other in 0..64_u8 {
            let pin = "INSERT INTO pins (conversation_id, seq) VALUES (?, ?)";
            let args = [Value::Bytes(&[other; 16]), Value::Int(Timestamp::now().0)];
            connection.execute(pin, &args).await?;
        }
        let mut rows = OwnedTransaction::for_job(connection);
        pins::remove_archived(&mut rows, *id, (Seq(1), Seq(9))).await?;
        mentions::remove_up_to(&mut rows, *id, Seq(9)).await?;
        threads::remove_up_to(&mut rows, *id, Seq(9)).await?;
        threads::note(connection, *id).await?;
        archive::purge_rows(connection, *id, 10).await?;
    }
    connection.commit().await
}

async fn use_everything(bed: &Bed) {
    let store = &bed.store;
    let me = caller("owner1");
    let friends: Vec<String> = (0..5).map(|n| format!("speaker{n}")).collect();
    let friends: Vec<&str> = friends.iter().map(String::as_str).collect();
    let id = bed.group("owner1", &friends).await;
    for new in [true, false] {
        let group = NewConversation {
            kind: ConversationKind::Group,
            members: friends.iter().map(|name| user(name)).collect(),
            title: None,
            metadata: None,
        };
        let (_, created) = store
            .create_conversation(&me, group, Some("key"))
            .await
            .unwrap();
        assert_eq!(created, new);
    }
    let first = bed.say("owner1", id, "hello").await;
    let sends = (0..60).map(|n| {
        store
            .send(&me, id, text_as(&format!("k{}", n % 50), "repeated"))
            .into_future()
    });
    futures_util::future::join_all(sends).await;
    for position in [
        Position::Latest,
        Position::Before(first.seq),
        Position::Around(first.seq),
        Position::After(first.seq),
    ] {
        bed.page("speaker1", id, position, 50).await;
    }
    store.message(&me, first.id).await.unwrap();
    store
        .edit_message(&me, first.id, "edited".into())
        .await
        .unwrap();
    store.react(&me, first.id, "👍").await.unwrap();
    let mentioning = NewMessage {
        mentions: vec![user("speaker1"), user("speaker2")],
        ..text_as("mentions", "hello")
    };
    let mentioning = store.send(&me, id, mentioning).await.unwrap().message;
    bed.settle().await;
    store.unread_count(&caller("speaker1")).await.unwrap();
    store.delete_message(&me, mentioning.id).await.unwrap();
    let reply = NewMessage {
        reply_to: Some(mentioning.id),
        ..text_as("reply", "an answer")
    };
    let reply = store.send(&me, id, reply).await.unwrap().message;
    store
        .replies(&me, mentioning.id, Some("1"), 5)
        .await
        .unwrap();
    store.history(&me, id, Position::Latest, 5).await.unwrap();
    store.receipts(&me, mentioning.id).await.unwrap();
    let edit = MessageEdit {
        content: "edited".into(),
        mentions: Some(vec![user("speaker3"), user("@all")]),
    };
    store.edit(&me, reply.id, edit).await.unwrap();
    store.delete_message(&me, reply.id).await.unwrap();
    store.pin_message(&me, first.id).await.unwrap();
    store.pins(&me, id, Some("9"), 5).await.unwrap();
    store.delete_message(&me, first.id).await.unwrap();
    store
        .mark_read(&caller("speaker1"), id, None)
        .await
        .unwrap();
    store
        .mark_delivered(&caller("speaker2"), id, None)
        .await
        .unwrap();
    let newcomers = NewMembers {
        members: vec![user("new1"), user("new2")],
        role: Role::Member,
    };
    store.add_members(&me, id, newcomers).await.unwrap();
    store
        .change_role(&me, id, &user("new1"), Role::Admin)
        .await
        .unwrap();
    store.remove_member(&me, id, &user("new2")).await.unwrap();
    let new1 = caller("new1");
    store.remove_member(&new1, id, &new1.user).await.unwrap();
    let back = || NewMembers {
        members: vec![user("new1")],
        role: Role::Member,
    };
    store.add_members(&me, id, back()).await.unwrap();
    store.add_members(&new1, id, back()).await.unwrap();
    let pushed = store.change_role(&me, id, &user("new1"), Role::Owner).await;
    assert!(pushed.is_err());
    store.members(&me, id, Some("speaker1"), 50).await.unwrap();
    let patch = ConversationPatch {
        title: Some("t".into()),
        pinned: Some(true),
        ..ConversationPatch::default()
    };
    store.update_conversation(&me, id, patch).await.unwrap();
    bed.settle().await;
    let list = store
        .list_conversations(&caller("speaker1"), None, 10)
        .await
        .unwrap();
    store
        .list_conversations(&caller("speaker1"), list.next_cursor.as_deref(), 10)
        .await
        .unwrap();
    store.unread_count(&caller("speaker1")).await.unwrap();
    let words = SearchRequest {
        q: "message".into(),
        ..SearchRequest::default()
    };
    let found = store.search(&caller("speaker1"), words).await.unwrap();
    assert!(!found.hits.is_empty());
    let known = std::collections::BTreeMap::from([(id, backscroll_shard::ids::Rev(1))]);
    let synced = store
        .sync(
            &caller("speaker1"),
            SyncRequest {
                cursor: None,
                conversations: known.clone(),
            },
        )
        .await
        .unwrap();
    store
        .sync(
            &caller("speaker1"),
            SyncRequest {
                cursor: Some(synced.cursor),
                conversations: known,
            },
        )
        .await
        .unwrap();
    store
        .export(id, backscroll_shard::ids::Seq(3), 100)
        .await
        .unwrap();
    store.delete_conversation(&me, id).await.unwrap();
    bed.settle().await;
}
