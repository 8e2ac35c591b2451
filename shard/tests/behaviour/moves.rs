//! Moving ranges between shards: nothing is lost, whatever dies when.

mod brakes;
mod contents;
mod deaths;
mod drain;
mod freezes;
mod jobs;
mod plan;
mod scans;
mod views;
mod writers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::db::{Connection, Database, Dialect, Value};
use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, KeyFunction, ShardName};
use backscroll_shard::map::Assignment;
use backscroll_shard::model::{ConversationKind, NewNotification, Timestamp};
use backscroll_shard::moves::{Hook, Move, MoveId, MoveState, Mover, Order, Step};
use backscroll_shard::range::KeyRange;
use backscroll_shard::settings::{DatabaseUrl, RebalanceSettings, Span};

use crate::bed::{Bed, PATIENCE, caller, text, text_as, user};
use crate::logged;
use contents::{Contents, contents};

crate::on_every_backend!(
    a_range_moves_there_and_back,
    part_of_a_range_moves,
    moves_exclude_each_other,
    a_move_is_given_up,
    a_move_is_reversed,
    an_archive_job_and_a_move_exclude_each_other,
);

/// Leases that end soon, no rows that are kept, and no brakes: the machine is busy with other tests.
pub(super) fn quick() -> RebalanceSettings {
    RebalanceSettings {
        lease: Span::millis(600),
        freeze_lease: Span::millis(400),
        longest_freeze: Span::millis(350),
        keep: Span::secs(0),
        chunk: Span::millis(5),
        load: 100,
        max_latency: Span::secs(60),
        max_threads_running: 1000,
        ..RebalanceSettings::default()
    }
}

pub(super) fn order() -> Order {
    Order {
        actor: "test".into(),
        reason: "to see".into(),
    }
}

pub(super) fn mover(bed: &Bed, settings: RebalanceSettings) -> Mover {
    Mover::new(Arc::clone(bed.store.router()), "test").with_settings(settings)
}

/// Runs a move until nothing is left to do, however long its last runner's lease still is, and however busy the machine.
pub(super) async fn finish(mover: &Mover, id: MoveId) -> Result<Move> {
    let until = Instant::now() + 3 * PATIENCE;
    loop {
        match mover.run(id).await {
            Err(Error::Closing) => return Err(Error::Closing),
            Err(error) if error.is_retryable() && Instant::now() < until => {
                tracing::debug!(%error, "again");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            outcome => return outcome,
        }
    }
}

pub(super) async fn connect(bed: &Bed, url: &DatabaseUrl) -> Connection {
    let database = Database::open_any(url, &bed.settings.pool).unwrap();
    database.writer(Instant::now() + PATIENCE).await.unwrap()
}

pub(super) fn url_of<'a>(bed: &'a Bed, name: &ShardName) -> &'a DatabaseUrl {
    let mut shards = bed.settings.shards.iter();
    &shards.find(|shard| shard.name == *name).unwrap().primary
}

pub(super) async fn execute(
    bed: &Bed,
    url: &DatabaseUrl,
    statement: &str,
    args: &[Value<'_>],
) -> u64 {
    connect(bed, url)
        .await
        .execute(statement, args)
        .await
        .unwrap()
}

/// The range that has alice, as the directory has it now.
pub(super) async fn home(bed: &Bed) -> Assignment {
    bed.store.router().refresh(&bed.store.map()).await.unwrap();
    let key = KeyFunction::Hashed.key(&user("alice")).unwrap();
    bed.store.map().locate(key).clone()
}

pub(super) fn another_shard(bed: &Bed, than: &ShardName) -> ShardName {
    let mut shards = bed.settings.shards.iter().map(|shard| shard.name.clone());
    shards.find(|name| name != than).unwrap()
}

/// Conversations of every kind, most of them alice's, with everything that a range has.
pub(super) async fn fill(bed: &Bed) -> Vec<ConversationId> {
    logged::expect_move();
    let store = &bed.store;
    let mut ids = Vec::new();
    for n in 0..6 {
        let id = bed.group("alice", &["bob", "carol", "dave"]).await;
        for i in 0..(5 + 3 * n) {
            let name = ["alice", "bob", "carol"][i % 3];
            let new = text_as(&format!("{n} {i}"), &format!("message {i} of {n} ☺"));
            store.send(&caller(name), id, new).await.unwrap();
        }
        ids.push(id);
    }
    let log = bed.log("alice", ids[0]).await;
    store
        .edit_message(&caller("alice"), log[0].id, "changed".into())
        .await
        .unwrap();
    store
        .delete_message(&caller("bob"), log[1].id)
        .await
        .unwrap();
    store.react(&caller("dave"), log[2].id, "👍").await.unwrap();
    store
        .mark_read(&caller("dave"), ids[1], None)
        .await
        .unwrap();
    store
        .remove_member(&caller("alice"), ids[2], &user("dave"))
        .await
        .unwrap();
    for n in 0..5 {
        let other = format!("friend{n}");
        let id = bed
            .create("alice", ConversationKind::Direct, &[&other])
            .await
            .unwrap();
        bed.say("alice", id, "hello").await;
    }
    for troll in ["troll1", "troll2"] {
        store.block(&caller("alice"), &user(troll)).await.unwrap();
    }
    store
        .unblock(&caller("alice"), &user("troll2"))
        .await
        .unwrap();
    let users = vec![user("alice"), user("bob"), user("friend1")];
    for n in 0..4 {
        let new = NewNotification {
            user_ids: users.clone(),
            kind: "offer".to_owned(),
            title: format!("offer {n}"),
            ..NewNotification::default()
        };
        store.notify(&caller("admin"), new).await.unwrap();
    }
    store.read_notifications(&caller("bob")).await.unwrap();
    let seen: Vec<_> = users.into_iter().map(|name| (name, Timestamp(5))).collect();
    store
        .save_last_seen(&seen, Instant::now() + PATIENCE)
        .await
        .unwrap();
    store
        .import_begin("a channel", &user("alice"))
        .await
        .unwrap();
    bed.settle().await;
    ids
}

/// Moves alice's range to another shard, and finds everything there.
pub(super) async fn go(bed: &Bed, before: &Contents) -> Assignment {
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let mover = mover(bed, quick());
    let job = mover.begin(from.range, &to, &order()).await.unwrap();
    let done = finish(&mover, job.id).await.unwrap();
    assert_eq!(done.state, MoveState::Done);
    let now = home(bed).await;
    assert_eq!(
        (now.range, &now.shard, now.epoch),
        (from.range, &to, from.epoch.next())
    );
    before.assert_eq(&contents(bed).await);
    now
}

async fn a_range_moves_there_and_back(bed: &Bed) {
    let ids = fill(bed).await;
    let logs = bed.log("bob", ids[3]).await;
    let before = contents(bed).await;
    for _ in 0..3 {
        go(bed, &before).await;
    }
    assert_eq!(bed.log("bob", ids[3]).await, logs);
    let stale = Bed::another(&bed.settings).await;
    go(bed, &before).await;
    let sent = stale
        .send(&caller("bob"), ids[3], text("on"))
        .await
        .unwrap()
        .message;
    assert_eq!(
        sent.seq.0,
        logs.last().unwrap().seq.0 + 1,
        "a router that has not noticed"
    );
    let repeat = text_as("0 3", "message 3 of 0 ☺");
    let again = bed.store.send(&caller("alice"), ids[0], repeat).await;
    assert!(!again.unwrap().created, "INV-IDEM");
    stale.close(Instant::now() + PATIENCE).await;
}

/// Shards of one deployment on SQLite files and on a server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_move_between_sqlite_and_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let bed = Bed::server_with(|settings| {
        let file = folder.path().join("shard1.db");
        settings.shards[0].primary = DatabaseUrl(format!("sqlite://{}", file.display()));
    })
    .await;
    let ids = fill(&bed).await;
    let mut logs = Vec::new();
    for id in &ids {
        logs.push(bed.log("bob", *id).await);
    }
    let first = home(&bed).await.shard;
    for _ in 0..4 {
        let from = home(&bed).await;
        let to = another_shard(&bed, &from.shard);
        let mover = mover(&bed, quick());
        let job = mover.begin(from.range, &to, &order()).await.unwrap();
        let done = finish(&mover, job.id).await.unwrap();
        assert_eq!(done.state, MoveState::Done);
        for (id, log) in ids.iter().zip(&logs) {
            assert_eq!(bed.log("bob", *id).await, *log);
        }
    }
    let dialects = bed
        .settings
        .shards
        .iter()
        .map(|it| Dialect::of(&it.primary).unwrap());
    assert!(
        dialects
            .collect::<Vec<_>>()
            .starts_with(&[Dialect::Sqlite, Dialect::MySql])
    );
    assert_eq!(
        home(&bed).await.shard,
        first,
        "from one to the other and back"
    );
    bed.say("carol", ids[0], "and on").await;
    bed.close().await;
}

async fn part_of_a_range_moves(bed: &Bed) {
    let ids = fill(bed).await;
    let before = contents(bed).await;
    let whole = home(bed).await;
    let key = ids[0].owner_key().0;
    let only = KeyRange::new(key, Some(key + 1)).unwrap();
    let to = another_shard(bed, &whole.shard);
    let mover = mover(bed, quick());
    let elsewhere = KeyRange::new(whole.range.start, None).unwrap();
    if elsewhere != whole.range {
        let refused = mover.begin(elsewhere, &to, &order()).await.unwrap_err();
        assert!(
            refused.to_string().contains("not within one range"),
            "{refused}"
        );
    }
    let job = mover.begin(only, &to, &order()).await.unwrap();
    assert_eq!(job.epoch, whole.epoch.next());
    assert_eq!(
        bed.log("alice", ids[0]).await.len(),
        5,
        "the pieces are served"
    );
    finish(&mover, job.id).await.unwrap();
    let now = home(bed).await;
    assert_eq!((now.range, now.shard), (only, to));
    before.assert_eq(&contents(bed).await);
    bed.say("bob", ids[0], "here").await;
    let sum: u128 = bed
        .store
        .map()
        .assignments()
        .iter()
        .map(|it| it.range.width())
        .sum();
    assert_eq!(sum, 1 << 64);
}

async fn moves_exclude_each_other(bed: &Bed) {
    fill(bed).await;
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let mover = mover(bed, quick());
    let job = mover.begin(from.range, &to, &order()).await.unwrap();
    for target in bed.settings.shards.iter().map(|shard| &shard.name) {
        let again = mover.begin(from.range, target, &order()).await.unwrap_err();
        assert!(
            matches!(again, Error::Busy(_) | Error::Invalid(_)),
            "{again}"
        );
    }
    let same = mover
        .begin(from.range, &from.shard, &order())
        .await
        .unwrap_err();
    assert!(same.to_string().contains("already"), "{same}");
    let unknown = ShardName::new("nowhere").unwrap();
    assert!(mover.begin(from.range, &unknown, &order()).await.is_err());
    let unfinished = mover.unfinished().await.unwrap();
    assert!(
        unfinished.len() == 1 && unfinished[0].id == job.id,
        "{unfinished:?}"
    );
    // Two runners: one works, the other is told who.
    let slow = Mover::new(Arc::clone(bed.store.router()), "slow")
        .with_settings(RebalanceSettings { load: 1, ..quick() });
    let outcome = tokio::select! {
        outcome = slow.run(job.id) => outcome,
        outcome = async {
            loop {
                if mover.find(job.id).await.unwrap().is_run() {
                    break mover.run(job.id).await;
                }
                tokio::task::yield_now().await;
            }
        } => outcome,
    };
    let Err(Error::Busy(why)) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(why.contains("slow works on move"), "{why}");
    assert_eq!(finish(&mover, job.id).await.unwrap().state, MoveState::Done);
    let events = mover.events(job.id, 0, 100).await.unwrap();
    let names: Vec<&str> = events.iter().map(|it| it.event.as_str()).collect();
    assert_eq!(names.first(), Some(&"copying"));
    for name in [
        "catching_up",
        "compared",
        "freezing",
        "committed",
        "served",
        "done",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert_eq!(mover.history(5).await.unwrap()[0].id, job.id);
}

/// Ends the runner at the first `step`, as a crash would.
pub(super) fn dying_at(step: Step) -> Hook {
    Hook::new(move |passed| match passed == step {
        true => Err(Error::Closing),
        false => Ok(()),
    })
}

async fn a_move_is_given_up(bed: &Bed) {
    let ids = fill(bed).await;
    let before = contents(bed).await;
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    for step in [
        Step::FenceCut,
        Step::Moving,
        Step::ChunkCopied,
        Step::Copied,
        Step::Compared,
        Step::Frozen,
        Step::GivenUp,
    ] {
        let dying = mover(bed, quick()).with_hook(dying_at(step));
        let job = dying.begin(from.range, &to, &order()).await.unwrap();
        assert!(
            matches!(dying.run(job.id).await, Err(Error::Closing)),
            "{step:?}"
        );
        let mover = mover(bed, quick());
        mover.abort(job.id, &order()).await.unwrap();
        bed.say("bob", ids[5], "it takes writes at once").await;
        let again = mover.abort(job.id, &order()).await.unwrap_err();
        assert!(matches!(again, Error::Conflict(_)), "{again}");
        assert_eq!(
            finish(&mover, job.id).await.unwrap().state,
            MoveState::Aborted
        );
        assert_eq!(home(bed).await, from, "{step:?}");
    }
    bed.settle().await;
    let rows = before.count() + 7;
    assert_eq!(
        contents(bed).await.count(),
        rows,
        "only what was sent is new"
    );
    let before = contents(bed).await;
    go(bed, &before).await;
}

async fn a_move_is_reversed(bed: &Bed) {
    let ids = fill(bed).await;
    let before = contents(bed).await;
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let keeping = mover(
        bed,
        RebalanceSettings {
            keep: Span::secs(3600),
            ..quick()
        },
    );
    let job = keeping.begin(from.range, &to, &order()).await.unwrap();
    assert_eq!(
        finish(&keeping, job.id).await.unwrap().state,
        MoveState::Draining
    );
    assert_eq!(home(bed).await.shard, to);
    bed.say("carol", ids[2], "written on the target").await;
    let log = bed.log("carol", ids[2]).await;
    let mover = mover(bed, quick());
    let back = mover.reverse(job.id, &order()).await.unwrap();
    assert!(mover.reverse(job.id, &order()).await.is_err());
    assert_eq!(
        finish(&mover, back.id).await.unwrap().state,
        MoveState::Done
    );
    assert_eq!(mover.find(job.id).await.unwrap().state, MoveState::Reversed);
    let now = home(bed).await;
    assert_eq!(
        (now.shard, now.epoch),
        (from.shard, from.epoch.next().next())
    );
    assert_eq!(bed.log("carol", ids[2]).await, log);
    let (rows, _) = mover.copied(&back).await.unwrap();
    assert_eq!(rows, 0, "its progress is not kept");
    bed.settle().await;
    assert_eq!(contents(bed).await.count(), before.count() + 1);
}

async fn an_archive_job_and_a_move_exclude_each_other(bed: &Bed) {
    use backscroll_shard::archive;
    fill(bed).await;
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let take = async |name: &ShardName| {
        let ranges: Vec<Assignment> = bed.store.map().ranges_of(name).cloned().collect();
        let mut connection = connect(bed, url_of(bed, name)).await;
        connection.begin().await.unwrap();
        let taken = archive::take_lease(
            &mut connection,
            (name, ranges),
            "archive run (bob)",
            PATIENCE,
        )
        .await;
        match &taken {
            Ok(_) => connection.commit().await.unwrap(),
            Err(_) => connection.rollback().await,
        }
        taken
    };
    let lease = take(&from.shard).await.unwrap();
    let mover = mover(bed, quick());
    let job = mover.begin(from.range, &to, &order()).await.unwrap();
    let refused = mover.run(job.id).await.unwrap_err();
    assert!(
        refused.to_string().contains("archive run (bob)"),
        "{refused}"
    );
    let mut connection = connect(bed, url_of(bed, &from.shard)).await;
    archive::give_up_lease(&mut connection, &lease)
        .await
        .unwrap();
    drop(connection);
    let dying = self::mover(bed, quick()).with_hook(dying_at(Step::ChunkCopied));
    assert!(matches!(dying.run(job.id).await, Err(Error::Closing)));
    assert!(matches!(
        take(&from.shard).await,
        Err(Error::NotOwner(_) | Error::Busy(_))
    ));
    let refused = take(&to).await.unwrap_err();
    assert!(refused.to_string().contains("copies"), "{refused}");
    finish(&mover, job.id).await.unwrap();
    home(bed).await;
    take(&to).await.unwrap();
}
