//! What a move waits for, what slows it down, and that both are told.

use std::time::{Duration, Instant};

use backscroll_shard::db::Value;
use backscroll_shard::error::Error;
use backscroll_shard::ids::ShardName;
use backscroll_shard::moves::{Move, MoveState, Mover, Reason, Step};
use backscroll_shard::settings::{RebalanceSettings, Span};

use super::{another_shard, connect, contents, dying_at, fill, finish, home, mover, order, quick};
use crate::bed::{Bed, PATIENCE};

crate::on_every_backend!(
    a_slow_database_is_waited_for,
    a_move_does_not_begin_without_room,
    a_throttle_counts_while_a_move_runs,
    there_is_always_one_reason,
);

/// Waits until `explain` gives a reason of this name, while `running` goes on.
async fn until_told(mover: &Mover, job: &Move, name: &str) -> Reason {
    let until = Instant::now() + PATIENCE;
    loop {
        let now = mover.find(job.id).await.unwrap();
        let reason = mover.explain(&now).await.unwrap();
        if reason.name() == name {
            return reason;
        }
        assert!(Instant::now() < until, "{reason:?} instead of {name}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the end of a dead runner's lease leaves: none, however long it still was.
async fn end_lease(bed: &Bed, job: &Move) {
    connect(bed, &bed.settings.directory.url)
        .await
        .execute(
            "UPDATE moves SET runner_until = 0 WHERE id = ?",
            &[Value::Bytes(job.id.as_bytes())],
        )
        .await
        .unwrap();
}

async fn put_down(bed: &Bed) -> (Move, ShardName) {
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let mover = mover(bed, quick());
    (mover.begin(from.range, &to, &order()).await.unwrap(), to)
}

async fn a_slow_database_is_waited_for(bed: &Bed) {
    fill(bed).await;
    let before = contents(bed).await;
    let (job, to) = put_down(bed).await;
    let patient = mover(bed, quick());
    let slow = RebalanceSettings {
        max_latency: Span::millis(0),
        ..quick()
    };
    let waiting = mover(bed, slow);
    let reason = tokio::select! {
        outcome = waiting.run(job.id) => panic!("{outcome:?}"),
        reason = until_told(&patient, &job, "latency") => reason,
    };
    let Reason::Latency { shard, most_ms, .. } = &reason else {
        panic!("{reason:?}")
    };
    assert_eq!((shard, *most_ms), (&job.source, 0));
    assert!(
        reason.to_string().contains("rebalance.max_latency"),
        "{reason}"
    );
    assert_eq!(patient.copied(&job).await.unwrap(), (0, 0));
    assert_eq!(
        finish(&patient, job.id).await.unwrap().state,
        MoveState::Done
    );
    assert_eq!(home(bed).await.shard, to);
    before.assert_eq(&contents(bed).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_is_waited_for() {
    let bed = Bed::server().await;
    fill(&bed).await;
    let (job, _) = put_down(&bed).await;
    let patient = mover(&bed, quick());
    let busy = RebalanceSettings {
        max_threads_running: 0,
        max_latency: Span::secs(60),
        ..quick()
    };
    let waiting = mover(&bed, busy);
    let reason = tokio::select! {
        outcome = waiting.run(job.id) => panic!("{outcome:?}"),
        reason = until_told(&patient, &job, "load") => reason,
    };
    assert!(
        matches!(
            reason,
            Reason::Load {
                running: 1..,
                most: 0,
                ..
            }
        ),
        "{reason:?}"
    );
    assert_eq!(
        finish(&patient, job.id).await.unwrap().state,
        MoveState::Done
    );
    bed.close().await;
}

async fn a_move_does_not_begin_without_room(bed: &Bed) {
    fill(bed).await;
    let (job, to) = put_down(bed).await;
    let small = RebalanceSettings {
        max_shard_bytes: 1,
        ..quick()
    };
    let waiting = mover(bed, small);
    let patient = mover(bed, quick());
    let reason = tokio::select! {
        outcome = waiting.run(job.id) => panic!("{outcome:?}"),
        reason = until_told(&patient, &job, "disk") => reason,
    };
    let Reason::Disk {
        shard,
        bytes,
        most: 1,
    } = &reason
    else {
        panic!("{reason:?}")
    };
    assert!(*shard == to && *bytes > 1000, "{reason:?}");
    let weighed = patient.find(job.id).await.unwrap();
    assert!(
        weighed.expected_rows > Some(100) && weighed.expected_bytes > Some(5000),
        "{weighed:?}"
    );
    patient.abort(job.id, &order()).await.unwrap();
    let done = finish(&patient, job.id).await.unwrap();
    assert_eq!(done.state, MoveState::Aborted);
    let (job, _) = put_down(bed).await;
    let large = RebalanceSettings {
        max_shard_bytes: 1 << 40,
        ..quick()
    };
    assert_eq!(
        finish(&mover(bed, large), job.id).await.unwrap().state,
        MoveState::Done
    );
}

async fn a_throttle_counts_while_a_move_runs(bed: &Bed) {
    fill(bed).await;
    let before = contents(bed).await;
    let (job, _) = put_down(bed).await;
    let mover = mover(bed, quick());
    let none = mover.throttle(job.id, Some(0), &order()).await.unwrap_err();
    assert!(matches!(none, Error::Invalid(_)), "{none}");
    let slowed = mover.throttle(job.id, Some(5), &order()).await.unwrap();
    assert_eq!(slowed.throttle, Some(5));
    let begun = Instant::now();
    let slowly = async {
        until_told(&mover, &job, "copying").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let rows = mover.copied(&job).await.unwrap().0;
        let most = 5.0 * (begun.elapsed().as_secs_f64() + 2.0);
        assert!((rows as f64) < most, "{rows} rows in {:?}", begun.elapsed());
        let now = mover.find(job.id).await.unwrap();
        assert_eq!(now.state, MoveState::Copying);
        mover.throttle(job.id, None, &order()).await.unwrap();
        std::future::pending::<()>().await
    };
    let done = tokio::select! {
        done = finish(&mover, job.id) => done.unwrap(),
        () = slowly => unreachable!(),
    };
    assert_eq!(done.state, MoveState::Done);
    before.assert_eq(&contents(bed).await);
    let events = mover.events(job.id, 0, 100).await.unwrap();
    let throttled: Vec<&str> = events
        .iter()
        .filter(|it| it.event == "throttled")
        .map(|it| it.detail.as_str())
        .collect();
    assert_eq!(throttled, ["5 rows a second: to see", "no limit: to see"]);
    let over = mover.throttle(job.id, Some(5), &order()).await.unwrap_err();
    assert!(matches!(over, Error::Conflict(_)), "{over}");
}

async fn there_is_always_one_reason(bed: &Bed) {
    fill(bed).await;
    let patient = mover(
        bed,
        RebalanceSettings {
            keep: Span::secs(3600),
            ..quick()
        },
    );
    let (job, to) = put_down(bed).await;
    until_told(&patient, &job, "no_runner").await;
    patient.pause(job.id, true, &order()).await.unwrap();
    let paused = until_told(&patient, &job, "paused").await;
    assert_eq!(
        paused,
        Reason::Paused {
            why: "to see".into()
        }
    );
    patient.pause(job.id, false, &order()).await.unwrap();
    for (step, name) in [
        (Step::ChunkCopied, "copying"),
        (Step::Copied, "copying"),
        (Step::Compared, "comparing"),
        (Step::Frozen, "frozen"),
    ] {
        until_told(&patient, &job, "no_runner").await;
        let dying = mover(
            bed,
            RebalanceSettings {
                lease: Span::secs(3600),
                ..quick()
            },
        )
        .with_hook(dying_at(step));
        assert!(
            matches!(dying.run(job.id).await, Err(Error::Closing)),
            "{step:?}"
        );
        until_told(&patient, &job, name).await;
        end_lease(bed, &job).await;
        patient.settle().await.unwrap();
    }
    assert_eq!(
        finish(&patient, job.id).await.unwrap().state,
        MoveState::Draining
    );
    let kept = until_told(&patient, &job, "keeps_rows").await;
    let Reason::KeepsRows {
        shard, served_by, ..
    } = kept
    else {
        panic!("{kept:?}")
    };
    assert_eq!((shard, served_by), (job.source.clone(), to.clone()));
    let back = patient.reverse(job.id, &order()).await.unwrap();
    let over = until_told(&patient, &job, "over").await;
    assert_eq!(
        over,
        Reason::Over {
            state: MoveState::Reversed
        }
    );
    // A freeze that takes too long ends, and is the reason until the next one.
    let hasty = RebalanceSettings {
        longest_freeze: Span::millis(0),
        ..quick()
    };
    let hasty = mover(bed, hasty);
    let ended = tokio::select! {
        outcome = finish(&hasty, back.id) => panic!("{outcome:?}"),
        ended = until_told(&patient, &back, "freeze_ended") => ended,
    };
    assert!(
        matches!(ended, Reason::FreezeEnded { attempt: 1.., .. }),
        "{ended:?}"
    );
    assert_eq!(
        finish(&mover(bed, quick()), back.id).await.unwrap().state,
        MoveState::Done
    );
}
