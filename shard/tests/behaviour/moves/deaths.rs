//! The runner dies at every step, once and twice; the next one goes on, and nothing is lost or there twice.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backscroll_shard::db::Value;
use backscroll_shard::error::{Error, Result};
use backscroll_shard::moves::{Hook, MoveState, Mover, Step};
use backscroll_shard::settings::{RebalanceSettings, Span};

use super::{
    another_shard, connect, contents, dying_at, execute, fill, finish, home, mover, order, quick,
    url_of,
};
use crate::bed::{Bed, PATIENCE, caller, text};

crate::on_every_backend!(
    a_runner_dies_at_every_step,
    a_runner_that_was_overtaken_changes_nothing,
    a_copy_may_begin_again_anywhere,
    a_row_that_was_altered_on_the_target_is_named,
    a_freeze_without_its_runner_ends,
    several_processes_make_the_fences_follow_at_once,
    what_the_target_loses_after_the_commit_is_named,
);

/// The steps of a move that nothing goes wrong with.
fn steps() -> Vec<Step> {
    let all = Step::ALL.into_iter();
    let rare = [
        Step::FreezeEnded,
        Step::MarksCopied,
        Step::MarksCleared,
        Step::MapMerged, // no move does that
    ];
    all.filter(|step| !rare.contains(step)).collect()
}

async fn a_runner_dies_at_every_step(bed: &Bed) {
    let ids = fill(bed).await;
    let before = contents(bed).await;
    for step in steps() {
        let from = home(bed).await;
        let to = another_shard(bed, &from.shard);
        let dying = mover(bed, quick()).with_hook(dying_at(step));
        let job = dying.begin(from.range, &to, &order()).await.unwrap();
        let died = dying.run(job.id).await;
        assert!(matches!(died, Err(Error::Closing)), "{step:?}: {died:?}");
        let started = Bed::another(&bed.settings).await;
        started.close(Instant::now() + PATIENCE).await;
        let mover = mover(bed, quick());
        // Any process looks after it: within the freeze's lease the range is readable.
        let until = Instant::now() + PATIENCE;
        loop {
            mover.settle().await.unwrap();
            let job = mover.find(job.id).await.unwrap();
            if job.state != MoveState::Frozen && job.state != MoveState::Committed {
                break;
            }
            assert!(Instant::now() < until, "{step:?}: {job:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(bed.log("carol", ids[5]).await.len(), 20, "{step:?}");
        let done = finish(&mover, job.id).await.unwrap();
        assert_eq!(done.state, MoveState::Done, "{step:?}");
        assert_eq!(home(bed).await.shard, to, "{step:?}");
        before.assert_eq(&contents(bed).await);
        for shard in &bed.settings.shards {
            let mut connection = connect(bed, &shard.primary).await;
            for table in ["arrivals", "move_marks"] {
                let rows = connection
                    .fetch_all(&format!("SELECT * FROM {table}"), &[])
                    .await
                    .unwrap();
                assert!(rows.is_empty(), "{step:?} leaves something in {table}");
            }
        }
    }
    bed.say("bob", ids[5], "and on").await;
}

/// A runner is held up at a step until another one has finished the move.
async fn a_runner_that_was_overtaken_changes_nothing(bed: &Bed) {
    fill(bed).await;
    let before = contents(bed).await;
    for step in [
        Step::Taken,
        Step::Moving,
        Step::WorkBegun,
        Step::ChunkCopied,
        Step::Copied,
        Step::Compared,
        Step::FreezeNoted,
        Step::Frozen,
        Step::RestCopied,
        Step::GivenUp,
        Step::RowsDeleted,
    ] {
        let from = home(bed).await;
        let to = another_shard(bed, &from.shard);
        let (reached, wait) = std::sync::mpsc::channel::<()>();
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        let held = Mutex::new(Some(held));
        let hook = Hook::new(move |passed| {
            if passed == step
                && let Some(held) = held.lock().unwrap().take()
            {
                reached.send(()).unwrap();
                held.recv().ok();
            }
            Ok(())
        });
        let slow = mover(bed, quick()).with_hook(hook);
        let job = slow.begin(from.range, &to, &order()).await.unwrap();
        let id = job.id;
        let runtime = tokio::runtime::Handle::current();
        let slow = tokio::task::spawn_blocking(move || runtime.block_on(slow.run(id)));
        tokio::task::block_in_place(|| wait.recv()).unwrap();
        let done = finish(&mover(bed, quick()), job.id).await;
        go_on.send(()).unwrap();
        let outcome: Result<_> = slow.await.unwrap();
        assert_eq!(done.unwrap().state, MoveState::Done, "{step:?}");
        assert!(
            outcome.is_err() || outcome.as_ref().is_ok_and(|it| it.state == MoveState::Done),
            "{step:?}: {outcome:?}"
        );
        before.assert_eq(&contents(bed).await);
        assert_eq!(home(bed).await.shard, to);
    }
}

/// Wherever its progress is set back to, the copy ends with the same rows on the target.
async fn a_copy_may_begin_again_anywhere(bed: &Bed) {
    fill(bed).await;
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let target = url_of(bed, &to);
    let begin = mover(bed, quick());
    let job = begin.begin(from.range, &to, &order()).await.unwrap();
    let copied = || mover(bed, quick()).with_hook(dying_at(Step::Copied));
    let died = copied().run(job.id).await;
    assert!(matches!(died, Err(Error::Closing)), "{died:?}");
    let once = backscroll_testkit::dump(&target.0).await;
    let moved = |dump: &backscroll_testkit::Dump| {
        let mut moved = dump.clone();
        moved.remove("arrivals");
        moved
    };
    for step in (0..13).rev() {
        let args = [Value::Int(step), Value::Bytes(job.id.as_bytes())];
        execute(
            bed,
            target,
            "UPDATE arrivals SET step = ?, position = '' WHERE job = ?",
            &args,
        )
        .await;
        let outcome = loop {
            match copied().run(job.id).await {
                Err(Error::Busy(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                outcome => break outcome,
            }
        };
        assert!(matches!(outcome, Err(Error::Closing)), "{outcome:?}");
        let again = backscroll_testkit::dump(&target.0).await;
        assert_eq!(moved(&again), moved(&once), "from table {step}");
    }
    assert_eq!(finish(&begin, job.id).await.unwrap().state, MoveState::Done);
}

async fn a_row_that_was_altered_on_the_target_is_named(bed: &Bed) {
    let ids = fill(bed).await;
    let before = contents(bed).await;
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let id = ids[4].as_bytes();
    let alterations = [
        (
            "UPDATE messages SET content = 'other' WHERE conversation_id = ? AND seq = 3",
            "messages",
            "content differs",
        ),
        (
            "DELETE FROM messages WHERE conversation_id = ? AND seq = 7",
            "messages",
            "the target does not have it",
        ),
        (
            "UPDATE members SET read_seq = 99 WHERE conversation_id = ? AND user_id = X'626f62'",
            "members",
            "read_seq differs",
        ),
        (
            "INSERT INTO imports (conversation_id, position) VALUES (?, 7)",
            "imports",
            "the source does not have it",
        ),
    ];
    for (alteration, table, how) in alterations {
        let copying = mover(bed, quick()).with_hook(dying_at(Step::Copied));
        let job = copying.begin(from.range, &to, &order()).await.unwrap();
        assert!(matches!(copying.run(job.id).await, Err(Error::Closing)));
        assert_eq!(
            execute(bed, url_of(bed, &to), alteration, &[Value::Bytes(id)]).await,
            1,
            "{alteration}"
        );
        let mover = mover(bed, quick());
        let refused = finish(&mover, job.id).await.unwrap_err().to_string();
        for words in [table, how, &ids[4].to_string()] {
            assert!(refused.contains(words), "{words} is not in: {refused}");
        }
        let events = mover.events(job.id, 0, 100).await.unwrap();
        assert!(
            events
                .iter()
                .any(|it| it.event == "differs" && it.detail.contains(how)),
            "{events:?}"
        );
        assert_eq!(home(bed).await, from, "the source serves it");
        mover.abort(job.id, &order()).await.unwrap();
        assert_eq!(
            finish(&mover, job.id).await.unwrap().state,
            MoveState::Aborted
        );
        before.assert_eq(&contents(bed).await);
    }
}

/// The mover dies with the range frozen: writers wait, and succeed once the freeze's lease has ended.
async fn a_freeze_without_its_runner_ends(bed: &Bed) {
    let ids = fill(bed).await;
    for step in [Step::FreezeNoted, Step::Frozen, Step::GivenUp] {
        let from = home(bed).await;
        let to = another_shard(bed, &from.shard);
        let settings = RebalanceSettings {
            lease: Span::secs(1),
            ..quick()
        };
        let dying = mover(bed, settings).with_hook(dying_at(step));
        let job = dying.begin(from.range, &to, &order()).await.unwrap();
        assert!(matches!(dying.run(job.id).await, Err(Error::Closing)));
        let mover = mover(bed, quick());
        let settle = async {
            loop {
                mover.settle().await.unwrap();
                if mover.find(job.id).await.unwrap().state == MoveState::CatchingUp {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            mover.abort(job.id, &order()).await.unwrap();
        };
        let caller = caller("bob");
        let send = bed.store.send(&caller, ids[1], text("through"));
        let (sent, ()) = tokio::join!(send, settle);
        assert!(sent.unwrap().created, "{step:?}");
        finish(&mover, job.id).await.unwrap();
    }
}

/// Every node looks after all moves, so each change of a fence is made by several processes at once: none of them fails.
async fn several_processes_make_the_fences_follow_at_once(bed: &Bed) {
    fill(bed).await;
    let before = contents(bed).await;
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(Bed::another(&bed.settings).await);
    }
    let movers = nodes
        .iter()
        .map(|node| Mover::new(Arc::clone(node.router()), "another node").with_settings(quick()));
    let movers: Vec<Mover> = movers.collect();
    for _ in 0..4 {
        let from = home(bed).await;
        let to = another_shard(bed, &from.shard);
        let dying = mover(bed, quick()).with_hook(dying_at(Step::Committed));
        // As on a shard that never had the range: its fence is a new row.
        let forgotten = "DELETE FROM fences WHERE state = 'gone'";
        execute(bed, url_of(bed, &to), forgotten, &[]).await;
        let job = dying.begin(from.range, &to, &order()).await.unwrap();
        let died = dying.run(job.id).await;
        assert!(matches!(died, Err(Error::Closing)), "{died:?}");
        let settling = movers.iter().map(Mover::settle);
        futures_util::future::try_join_all(settling).await.unwrap();
        let now = dying.find(job.id).await.unwrap();
        assert_eq!(now.state, MoveState::Draining, "one round is enough");
        finish(&mover(bed, quick()), job.id).await.unwrap();
        before.assert_eq(&contents(bed).await);
    }
    for node in nodes {
        node.close(Instant::now() + PATIENCE).await;
    }
}

/// The target loses a message that was copied last, as a server does that did not flush it: the source keeps its rows.
async fn what_the_target_loses_after_the_commit_is_named(bed: &Bed) {
    let ids = fill(bed).await;
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let (reached, passed) = std::sync::mpsc::channel::<Step>();
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let hook = Hook::new(move |step| {
        if matches!(step, Step::Compared | Step::TargetOpened) {
            reached.send(step).unwrap();
            held.lock().unwrap().recv().unwrap();
        }
        Ok(())
    });
    let held_up = mover(bed, quick()).with_hook(hook);
    let id = held_up.begin(from.range, &to, &order()).await.unwrap().id;
    let runtime = tokio::runtime::Handle::current();
    let running = tokio::task::spawn_blocking(move || runtime.block_on(held_up.run(id)));
    let next = || tokio::task::block_in_place(|| passed.recv()).unwrap();
    assert_eq!(next(), Step::Compared);
    bed.say("bob", ids[4], "copied last").await;
    go_on.send(()).unwrap();
    assert_eq!(next(), Step::TargetOpened);
    let key = Value::Bytes(ids[4].as_bytes());
    let last = "DELETE FROM messages WHERE conversation_id = ? AND content = 'copied last'";
    assert_eq!(execute(bed, url_of(bed, &to), last, &[key]).await, 1);
    go_on.send(()).unwrap();
    let refused = running.await.unwrap().unwrap_err().to_string();
    for words in ["the target does not have it", &ids[4].to_string()] {
        assert!(refused.contains(words), "{words} is not in: {refused}");
    }
    let mover = mover(bed, quick());
    let job = mover.run(id).await.unwrap();
    assert!(job.is_kept() && job.paused, "{job:?}");
    let key = Value::Bytes(ids[4].as_bytes());
    let found = connect(bed, url_of(bed, &from.shard))
        .await
        .fetch_all(
            "SELECT seq FROM messages WHERE conversation_id = ? AND content = 'copied last'",
            &[key],
        )
        .await
        .unwrap();
    assert_eq!(found.len(), 1, "the source still has it");
    mover.pause(id, false, &order()).await.unwrap();
    assert_eq!(finish(&mover, id).await.unwrap().state, MoveState::Done);
}
