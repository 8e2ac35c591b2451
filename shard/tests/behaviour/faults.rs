//! Stale maps, frozen ranges, and what is left by a process that died.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backscroll_shard::db::{Connection, Database, Dialect, Value};
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, KeyFunction, Seq, ShardName, UserKey};
use backscroll_shard::map::Assignment;
use backscroll_shard::migrate::migrate_all;
use backscroll_shard::model::{
    Caller, ConversationKind, NewConversation, NewMembers, Position, Role,
};
use backscroll_shard::settings::{DatabaseUrl, Span};
use backscroll_shard::store::Store;
use backscroll_testkit::{TestDatabases, warnings};

use crate::bed::{Bed, PATIENCE, caller, text, user};
use crate::logged;

crate::on_every_backend!(
    a_stale_router_writes_to_the_new_owner_only,
    a_frozen_range_is_waited_for,
    a_freeze_stops_writers_exactly,
    a_router_starts_without_the_directory,
    lists_are_exact_after_a_crashed_relay,
    members_changed_by_another_process_are_known_at_once,
    what_the_database_refuses_fails_alone,
    migrating_twice_and_at_once_is_harmless,
);

/// A connection past the store, as an operator would have.
pub(crate) async fn connect(bed: &Bed, shard: &ShardName) -> Connection {
    let settings = bed
        .settings
        .shards
        .iter()
        .find(|s| s.name == *shard)
        .unwrap();
    connect_to(bed, &settings.primary).await
}

pub(crate) async fn connect_to(bed: &Bed, url: &DatabaseUrl) -> Connection {
    Database::open_any(url, &bed.settings.pool)
        .unwrap()
        .writer(Instant::now() + PATIENCE)
        .await
        .unwrap()
}

async fn count(connection: &mut Connection, sql: &str) -> i64 {
    connection
        .fetch_optional(sql, &[])
        .await
        .unwrap()
        .unwrap()
        .int(0)
        .unwrap()
}

pub(crate) fn home_of(bed: &Bed, name: &str) -> Assignment {
    bed.store
        .map()
        .locate(KeyFunction::Hashed.key(&user(name)).unwrap())
        .clone()
}

async fn set_fence(connection: &mut Connection, assignment: &Assignment, state: &str) {
    let start = UserKey(assignment.range.start).to_bytes();
    let args = [Value::from(state), Value::from(&start)];
    let until = Instant::now() + PATIENCE;
    let changed = loop {
        let statement = "UPDATE fences SET state = ? WHERE range_start = ?";
        match connection.execute(statement, &args).await {
            // Writers of the test have the database.
            Err(Error::Contention(_)) if Instant::now() < until => tokio::task::yield_now().await,
            outcome => break outcome.unwrap(),
        }
    };
    assert_eq!(changed, 1);
}

/// Whatever the checks before it miss, the database may still refuse: that keeps back nobody else's messages, and none of
/// the sender's own.
async fn what_the_database_refuses_fails_alone(bed: &Bed) {
    warnings::expect(logged::BATCH_FAILS);
    let id = bed.group("alice", &["bob"]).await;
    let mut connection = connect(bed, &home_of(bed, "alice").shard).await;
    let refuse = match connection.dialect() {
        Dialect::MySql => "ALTER TABLE messages ADD CONSTRAINT refused CHECK (content <> 'poison')",
        Dialect::Sqlite => {
            "CREATE TRIGGER refused BEFORE INSERT ON messages WHEN NEW.content = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        }
    };
    connection.execute(refuse, &[]).await.unwrap();
    drop(connection);
    let content = |n: usize, poison: usize| match n {
        n if n == poison => "poison".to_owned(),
        n => n.to_string(),
    };
    let (alice, bob) = (caller("alice"), caller("bob"));
    let together = (0..20).map(|n| text(&content(n, 7))).collect();
    let alone = (0..10).map(|n| {
        let message = text(&content(n, 3));
        bed.store.send(&bob, id, message)
    });
    let (together, alone) = futures_util::join!(
        bed.store.send_all(&alice, id, together),
        futures_util::future::join_all(alone)
    );
    for (outcomes, poison) in [(&together, 7), (&alone, 3)] {
        for (n, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Ok(sent) => assert_eq!(sent.message.content, content(n, usize::MAX)),
                Err(error) => assert!(
                    n == poison && matches!(error, Error::Statement { .. }),
                    "{n}: {error:?}"
                ),
            }
            assert_eq!(outcome.is_err(), n == poison, "{n}");
        }
    }
    let stored = together.iter().flatten().map(|sent| sent.message.seq);
    assert!(stored.is_sorted(), "in their order");
    assert_eq!(bed.log("bob", id).await.len(), 28);
}

/// INV-OWNER: a router that slept through a move is turned away by the old owner, and finds the new one.
async fn a_stale_router_writes_to_the_new_owner_only(bed: &Bed) {
    let mut settings = bed.settings.clone();
    settings.directory.refresh_interval = Span::secs(3600);
    let stale = Bed::another(&settings).await;
    let from = home_of(bed, "alice");
    let to = settings
        .shards
        .iter()
        .map(|s| s.name.clone())
        .find(|name| *name != from.shard)
        .unwrap();

    let start = UserKey(from.range.start).to_bytes();
    let end = from.range.end.map(|end| UserKey(end).to_bytes());
    set_fence(&mut connect(bed, &from.shard).await, &from, "gone").await;
    let mut directory = connect_to(bed, &settings.directory.url).await;
    let args = [Value::from(to.as_str()), Value::from(&start)];
    directory
        .execute(
            "UPDATE ranges SET shard = ?, epoch = 2 WHERE range_start = ?",
            &args,
        )
        .await
        .unwrap();
    let fence = [Value::from(&start), Value::from(end.as_ref())];
    let open = "INSERT INTO fences (range_start, range_end, epoch, state) VALUES (?, ?, 2, 'open')";
    connect(bed, &to).await.execute(open, &fence).await.unwrap();

    assert_eq!(
        stale.map().locate(UserKey(from.range.start)).shard,
        from.shard,
        "it has not noticed"
    );
    let new = NewConversation {
        kind: ConversationKind::Group,
        members: vec![user("bob")],
        title: None,
        metadata: None,
    };
    let (conversation, _) = stale
        .create_conversation(&caller("alice"), new, None)
        .await
        .unwrap();
    stale
        .send(&caller("alice"), conversation.id, text("after the move"))
        .await
        .unwrap();
    assert_eq!(
        stale.map().locate(UserKey(from.range.start)).shard,
        to,
        "now it has"
    );
    assert_eq!(
        count(
            &mut connect(bed, &from.shard).await,
            "SELECT COUNT(*) FROM messages"
        )
        .await,
        0
    );
    assert_eq!(
        count(
            &mut connect(bed, &to).await,
            "SELECT COUNT(*) FROM messages"
        )
        .await,
        1
    );
    assert_eq!(
        stale
            .list_conversations(&caller("alice"), None, 10)
            .await
            .unwrap()
            .conversations
            .len(),
        1
    );
    stale.close(Instant::now() + PATIENCE).await;
}

async fn a_frozen_range_is_waited_for(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    bed.settle().await;
    let home = home_of(bed, "alice");
    set_fence(&mut connect(bed, &home.shard).await, &home, "frozen").await;
    let in_a_hurry = Caller::new(user("alice"), Duration::from_millis(200));
    let refused = bed.store.send(&in_a_hurry, id, text("too early")).await;
    assert!(
        matches!(
            refused,
            Err(Error::ShardUnavailable(_) | Error::DeadlineExceeded)
        ),
        "{refused:?}"
    );
    let store = bed.store.clone();
    let mut patient = tokio::task::JoinSet::new();
    patient.spawn(async move { store.send(&caller("alice"), id, text("waited")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(
        bed.page("bob", id, Position::Latest, 10)
            .await
            .messages
            .is_empty(),
        "reads go on"
    );
    assert!(patient.try_join_next().is_none(), "the write waits");
    set_fence(&mut connect(bed, &home.shard).await, &home, "open").await;
    assert_eq!(
        patient
            .join_next()
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .message
            .content,
        "waited"
    );
    assert_eq!(bed.log("bob", id).await.len(), 1);
}

/// No writer gets through once the freeze has returned, whatever was in flight.
async fn a_freeze_stops_writers_exactly(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let home = home_of(bed, "alice");
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, stop) = (bed.store.clone(), stop.clone());
        writers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let caller = Caller::new(user("alice"), Duration::from_millis(300));
                let _ = store.send(&caller, id, text("x")).await;
            }
        });
    }
    let mut operator = connect(bed, &home.shard).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        set_fence(&mut operator, &home, "frozen").await;
        let head = count(&mut operator, "SELECT COALESCE(MAX(seq), 0) FROM messages").await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(
            count(&mut operator, "SELECT COALESCE(MAX(seq), 0) FROM messages").await,
            head
        );
        set_fence(&mut operator, &home, "open").await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let log = bed.log("bob", id).await;
    assert!(log.len() > 5, "they did write: {}", log.len());
    assert_eq!(log.last().unwrap().seq.0, log.len() as u64);
}

async fn a_router_starts_without_the_directory(bed: &Bed) {
    warnings::expect(logged::NOT_REACHED);
    warnings::expect(logged::DIRECTORY_AWAY);
    let mut settings = bed.settings.clone();
    settings.directory.url = match settings.directory.url.file() {
        // A folder cannot be opened; a file that is not there would be another mistake.
        Some(file) => DatabaseUrl(format!("sqlite://{}", file.parent().unwrap().display())),
        None => DatabaseUrl("mysql://root@127.0.0.1:1/nowhere".into()),
    };
    let store = Bed::another(&settings).await;
    assert_eq!(*store.map(), *bed.store.map(), "the fences say the same");
    let id = bed.group("alice", &["bob"]).await;
    store.send(&caller("bob"), id, text("hello")).await.unwrap();
    let health = store.health(Duration::from_secs(5)).await;
    assert!(!health.directory.ok && health.shards.iter().all(|shard| shard.primary.ok));
    store.close(Instant::now() + PATIENCE).await;
}

/// A relay that died between a commit and the lists leaves its mark behind; another process finds it.
async fn lists_are_exact_after_a_crashed_relay(bed: &Bed) {
    warnings::expect(logged::DIRECTORY_AWAY); // the dead store looks for it when it is gone
    let mut settings = bed.settings.clone();
    settings.relay.interval = Span::secs(3600); // after its first pass this one does nothing more
    settings.relay.sweep_interval = Span::secs(3600);
    let dying = Bed::another(&settings).await;
    let mut ids: Vec<ConversationId> = Vec::new();
    for n in 0..12 {
        ids.push(bed.group(&format!("owner{n}"), &["alice"]).await);
    }
    for _ in 0..3 {
        for (n, id) in ids.iter().enumerate() {
            dying
                .send(&caller(&format!("owner{n}")), *id, text("unheard"))
                .await
                .unwrap();
        }
    }
    settings.relay = bed.settings.relay.clone();
    settings.relay.sweep_interval = Span::millis(50);
    let mending = Bed::another(&settings).await;
    mending.relay_idle(Instant::now() + PATIENCE).await.unwrap();
    let unread = mending.unread_count(&caller("alice")).await.unwrap();
    assert_eq!((unread.total, unread.conversations), (36, 12));
    mending.close(Instant::now() + PATIENCE).await;
    drop(dying); // never closed, as after kill -9
}

/// What lanes remember of members is never older than the members are.
async fn members_changed_by_another_process_are_known_at_once(bed: &Bed) {
    let another = Bed::another(&bed.settings).await;
    let (alice, bob) = (caller("alice"), caller("bob"));
    let id = bed.group("alice", &["bob"]).await;
    bed.say("bob", id, "remembered from here on").await;
    for _ in 0..2 {
        another.remove_member(&alice, id, &bob.user).await.unwrap();
        let refused = bed.store.send(&bob, id, text("let me in")).await;
        assert!(matches!(refused, Err(Error::NotMember)), "{refused:?}");
        let back = NewMembers {
            members: vec![bob.user.clone()],
            role: Role::Member,
        };
        another.add_members(&alice, id, back).await.unwrap();
        bed.say("bob", id, "back again").await;
    }
    another.send(&alice, id, text("news")).await.unwrap();
    another.mark_read(&bob, id, None).await.unwrap();
    let unmoved = bed.store.mark_read(&bob, id, Some(Seq(1))).await.unwrap();
    assert_eq!((unmoved.read_seq, unmoved.unread_count), (Seq(4), 0));
    let newest = bed.say("bob", id, "and mine").await;
    let unmoved = another.mark_delivered(&bob, id, None).await.unwrap();
    assert_eq!(
        (unmoved.read_seq, unmoved.delivered_seq),
        (newest.seq, newest.seq)
    );
    another.close(Instant::now() + PATIENCE).await;
}

async fn migrating_twice_and_at_once_is_harmless(bed: &Bed) {
    let folder = tempfile::tempdir().unwrap();
    let on_server = bed.settings.directory.url.0.starts_with("mysql");
    let mut settings =
        backscroll_shard::settings::StoreSettings::embedded(folder.path().to_str().unwrap(), 3);
    let databases = if on_server {
        Some(TestDatabases::create(4).await)
    } else {
        None
    };
    if let Some(databases) = &databases {
        let mut urls = databases.urls().into_iter().map(DatabaseUrl);
        settings.directory.url = urls.next().unwrap();
        for shard in &mut settings.shards {
            shard.primary = urls.next().unwrap();
        }
    }
    let planned = migrate_all(&settings, true).await.unwrap();
    assert!(
        planned
            .iter()
            .all(|report| !report.up_to_date && !report.applied.is_empty())
    );
    let at_once =
        futures_util::future::join_all((0..4).map(|_| migrate_all(&settings, false))).await;
    let mut applied = BTreeMap::new();
    for report in at_once.into_iter().flat_map(|reports| reports.unwrap()) {
        *applied.entry(report.database).or_insert(0) += report.applied.len();
    }
    for report in planned {
        assert_eq!(
            applied[&report.database],
            report.applied.len(),
            "each migration of {} once",
            report.database
        );
    }
    assert!(
        migrate_all(&settings, false)
            .await
            .unwrap()
            .iter()
            .all(|report| report.up_to_date)
    );
    assert!(
        migrate_all(&settings, true)
            .await
            .unwrap()
            .iter()
            .all(|report| report.up_to_date)
    );
    if on_server {
        // Killed between the statements and their records. SQLite undoes those statements.
        let mut connection = connect_to(bed, &settings.shards[0].primary).await;
        let forget = "DELETE FROM schema_migrations";
        let forgotten = connection.execute(forget, &[]).await.unwrap();
        let again = migrate_all(&settings, false).await.unwrap();
        let applied: usize = again.iter().map(|report| report.applied.len()).sum();
        assert_eq!(applied as u64, forgotten);
    }
    let store = Bed::another(&settings).await;
    assert_eq!(store.map().assignments().len(), 3);
    store.close(Instant::now() + PATIENCE).await;
    settings.keyspace.function = KeyFunction::Numeric;
    let moved = Store::open(
        &settings,
        Arc::new(backscroll_shard::cold_tier::NoArchive),
        Arc::new(backscroll_shard::commit_event::NoListener),
        &backscroll_shard::tasks::Supervisor::default(),
    )
    .await;
    assert!(
        matches!(moved.err(), Some(Error::Invalid(_))),
        "another key function would place every user elsewhere"
    );
    if let Some(databases) = databases {
        databases.drop_all().await;
    }
}
