//! No statement reads a whole table: every plan is looked at, with real values, on tables of some size.

use std::collections::BTreeSet;

use backscroll_shard::db::{Database, Dialect, explain};
use backscroll_shard::model::{
    ConversationPatch, HistoryRecord, MessageType, NewMembers, Position, Role, SyncRequest,
};
use backscroll_shard::settings::StoreSettings;

use crate::bed::{Bed, PATIENCE, caller, text_as, user};

/// Tables that grow with the deployment. The others have a row a range, or a row for what is being relayed just now.
const LARGE: [&str; 8] = [
    "messages",
    "members",
    "conversations",
    "list_entries",
    "users",
    "imports",
    "m",
    "c",
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
    for shard in &settings.shards {
        explain::watch(&shard.primary.0);
    }
}

async fn no_statement_scans(bed: &Bed) {
    fill(bed).await;
    use_everything(bed).await;
    let mut statements = 0;
    let mut read = BTreeSet::new();
    for shard in &bed.settings.shards {
        for (statement, steps) in explain::seen(&shard.primary.0) {
            statements += 1;
            for step in steps {
                assert!(
                    !(step.scans && LARGE.contains(&step.table.as_str())),
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
    ] {
        assert!(read.contains(table), "no plan reads {table}: {read:?}");
    }
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
            at: i,
            text: format!("message {i}"),
            message_type: MessageType::Text,
            reply_to: None,
            attachments: None,
            reactions: None,
            metadata: None,
            edited_at: None,
            deleted_at: None,
        };
        let records: Vec<HistoryRecord> = (0..300).map(record).collect();
        bed.store.import_append(id, 0, &records).await.unwrap();
    }
    bed.settle().await;
    for shard in &bed.settings.shards {
        let database = Database::open(&shard.primary, &bed.settings.pool, 1).unwrap();
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

async fn use_everything(bed: &Bed) {
    let store = &bed.store;
    let me = caller("owner1");
    let friends: Vec<String> = (0..5).map(|n| format!("speaker{n}")).collect();
    let friends: Vec<&str> = friends.iter().map(String::as_str).collect();
    let id = bed.group("owner1", &friends).await;
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
