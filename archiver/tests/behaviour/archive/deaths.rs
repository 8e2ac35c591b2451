//! Jobs that die, fail or are stopped between any two steps, and what the next one finds.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backscroll_archiver::jobs::{ArchiveJobs, Hook, Progress, Step};
use backscroll_archiver::object_store::faults::Fault;
use backscroll_archiver::object_store::{ErrorKind, Operation};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_shard::ids::{MessageId, Seq};
use backscroll_shard::model::{Message, Timestamp};
use backscroll_shard::settings::Span;
use backscroll_testkit::{Mode, warnings};
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::bed::{Backend, Bed, caller, on_both, order, small};
use super::logged;

on_both!(
    a_job_may_die_after_any_step,
    a_job_may_die_in_the_middle_of_deleting,
    erasing_and_collecting_may_die_after_any_step,
    restoring_may_die,
    an_object_store_that_fails_costs_nothing,
    what_comes_back_wrong_is_not_published,
    a_job_that_is_stopped_gives_its_lease_up,
    a_rebuild_that_is_stopped_gives_all_its_leases_up,
);

/// The database goes away between two steps, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_may_be_lost_after_any_step() {
    warnings::expect(logged::JOB_ENDS_EARLY);
    warnings::expect(logged::DATABASE_AWAY);
    warnings::expect(logged::JOB_END_LOST);
    warnings::expect(logged::LISTS_WAIT);
    let steps = [
        Step::Leased,
        Step::Intended,
        Step::ReadBack,
        Step::Published,
        Step::Deleted,
        Step::Emptied,
    ];
    for step in steps {
        let bed = Bed::open(Backend::Server).await;
        let id = bed.import("talk", 250).await;
        let log = bed.walk(id).await;
        let proxy = bed.proxy.as_ref().unwrap();
        let (told, mut passed) = tokio::sync::mpsc::channel(1);
        let hook = move |now: Step| {
            if now == step && told.try_send(()).is_ok() {
                std::thread::sleep(Duration::from_millis(300)); // until the connections are cut
            }
        };
        let archive = bed.archive_with(Arc::new(hook));
        let (order, progress) = (order(), Progress::default());
        let run = archive.run(&order, Timestamp::now(), &progress);
        let cut = async {
            passed.recv().await;
            proxy.set(Mode::Cut).await;
            passed
        };
        let (outcomes, _passed) = futures_util::future::join(run, cut).await;
        let outcomes = outcomes.unwrap();
        assert!(
            outcomes.iter().any(|outcome| outcome.error.is_some()),
            "{step:?}"
        );
        proxy.set(Mode::Pass).await;
        bed.shards_come_back().await;
        bed.leases_end().await;
        assert_all_there(&bed, id, &log, step).await;
        bed.run().await;
        assert_eq!(bed.hot_rows(id).await, 0, "lost after {step:?}");
        assert_all_there(&bed, id, &log, step).await;
        bed.close().await;
    }
}

/// Dies at the `nth` passing of `step`.
fn death_at(step: Step, nth: u32) -> Hook {
    let passed = AtomicU32::new(0);
    Arc::new(move |now: Step| {
        if now == step && passed.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            std::panic::panic_any("a death on purpose");
        }
    })
}

/// Whether the job died, as its hook wanted.
async fn dies<T>(job: impl Future<Output = T>) -> bool {
    AssertUnwindSafe(job).catch_unwind().await.is_err()
}

async fn assert_all_there(
    bed: &Bed,
    id: backscroll_shard::ids::ConversationId,
    log: &[Message],
    step: Step,
) {
    assert_eq!(bed.walk(id).await, log, "after a death at {step:?}");
    let report = bed.verify().await;
    assert!(report.is_clean(), "after a death at {step:?}: {report:#?}");
}

async fn a_job_may_die_after_any_step(backend: Backend) {
    let steps = [
        Step::Leased,
        Step::Intended,
        Step::Uploaded,
        Step::ReadBack,
        Step::Published,
        Step::Deleted,
        Step::Emptied,
        Step::Settled,
    ];
    for step in steps {
        let bed = Bed::open(backend).await;
        let id = bed.import("talk", 250).await;
        let log = bed.walk(id).await;
        let dying = bed.archive_with(death_at(step, 1));
        let progress = Progress::default();
        let order = order();
        assert!(
            dies(dying.run(&order, Timestamp::now(), &progress)).await,
            "{step:?}"
        );
        assert_all_there(&bed, id, &log, step).await;
        bed.leases_end().await;
        bed.run().await;
        assert_eq!(bed.hot_rows(id).await, 0, "after a death at {step:?}");
        assert_all_there(&bed, id, &log, step).await;
        let report = bed.verify().await;
        bed.collect().await;
        let collected = bed.verify().await;
        assert_eq!(collected.orphans, 0);
        // What the dead job had uploaded and not published is gone, and nothing else.
        let dead = match step {
            Step::Uploaded => 1,
            Step::ReadBack => 2, // with its terms
            _ => 0,
        };
        assert_eq!(
            report.objects - collected.objects,
            dead,
            "after a death at {step:?}"
        );
        assert_all_there(&bed, id, &log, step).await;
        bed.close().await;
    }
}

async fn a_job_may_die_in_the_middle_of_deleting(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 400).await;
    let log = bed.walk(id).await;
    for nth in [1, 2, 3] {
        let dying: ArchiveJobs = bed.archive_with(death_at(Step::Deleted, nth));
        let (order, progress) = (order(), Progress::default());
        assert!(dies(dying.run(&order, Timestamp::now(), &progress)).await);
        assert!(bed.hot_rows(id).await > 0);
        assert_all_there(&bed, id, &log, Step::Deleted).await;
        bed.leases_end().await;
    }
    let outcomes = bed.run().await;
    assert!(outcomes.iter().any(|outcome| outcome.figures.resumed > 0));
    assert_eq!(bed.hot_rows(id).await, 0);
    assert_all_there(&bed, id, &log, Step::Deleted).await;
    bed.close().await;
}

async fn erasing_and_collecting_may_die_after_any_step(backend: Backend) {
    let steps = [
        Step::Intended,
        Step::Uploaded,
        Step::ReadBack,
        Step::Rewritten,
        Step::DeletionBegun,
        Step::ObjectDeleted,
    ];
    for step in steps {
        let bed = Bed::open(backend).await;
        let id = bed.import("talk", 120).await;
        bed.run().await;
        let secret = MessageId {
            conversation: id,
            seq: Seq(50),
        };
        bed.store
            .delete_message(&caller("alice"), secret)
            .await
            .unwrap();
        let log = bed.walk(id).await;
        let dying = bed.archive_with(death_at(step, 1));
        let (order, progress) = (order(), Progress::default());
        let died = dies(async {
            dying.erase(&order, &progress).await.unwrap();
            dying.collect(&order, false).await.unwrap();
        });
        assert!(died.await, "{step:?}");
        assert_all_there(&bed, id, &log, step).await;
        bed.leases_end().await;
        bed.archive.erase(&order, &progress).await.unwrap();
        bed.collect().await;
        bed.collect().await; // receipts for what the first has deleted
        assert_all_there(&bed, id, &log, step).await;
        assert!(
            !bed.stored_text().await.contains("talk message 50 "),
            "{step:?}"
        );
        assert!(!bed.stored_terms().await.contains("50"), "{step:?}");
        let receipts = bed.archive.erasures(id).await.unwrap();
        assert!(
            receipts.iter().all(|erasure| erasure.erased_at.is_some()),
            "{step:?} {receipts:?}"
        );
        bed.close().await;
    }
}

async fn restoring_may_die(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 200).await;
    let log = bed.walk(id).await;
    bed.run().await;
    let dying = bed.archive_with(death_at(Step::Restored, 2));
    let (order, progress) = (order(), Progress::default());
    assert!(dies(dying.restore(&order, id, &progress)).await);
    assert_all_there(&bed, id, &log, Step::Restored).await;
    bed.leases_end().await;
    let outcome = bed.archive.restore(&order, id, &progress).await.unwrap();
    assert_eq!(outcome.error, None);
    assert_eq!(bed.hot_rows(id).await, 200);
    assert_all_there(&bed, id, &log, Step::Restored).await;
    // The next run takes it away again.
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    assert_all_there(&bed, id, &log, Step::Restored).await;
    bed.close().await;
}

async fn an_object_store_that_fails_costs_nothing(backend: Backend) {
    warnings::expect(logged::JOB_ENDS_EARLY);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 150).await;
    let log = bed.walk(id).await;
    let faults = [
        (Operation::Put, Fault::Before(ErrorKind::Denied)),
        (Operation::Put, Fault::Before(ErrorKind::Full)),
        (Operation::Put, Fault::After(ErrorKind::Timeout)),
        (Operation::Put, Fault::Before(ErrorKind::Throttled)),
        (Operation::GetRange, Fault::Before(ErrorKind::NotFound)),
        (Operation::GetRange, Fault::Before(ErrorKind::Unavailable)),
        (Operation::GetRange, Fault::Shortened),
    ];
    for (operation, fault) in faults {
        bed.faults.plan(operation, 1000, fault);
        let outcomes = bed.run_before(Timestamp::now()).await;
        bed.faults.clear();
        assert!(
            outcomes.iter().any(|outcome| outcome.error.is_some()),
            "{fault:?}"
        );
        assert_eq!(bed.hot_rows(id).await, 150, "{fault:?}");
        assert_eq!(bed.walk(id).await, log);
    }
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    assert_eq!(bed.walk(id).await, log);
    bed.collect().await;
    bed.assert_clean().await;
    assert_eq!(bed.verify().await.orphans, 0);
    bed.close().await;
}

async fn what_comes_back_wrong_is_not_published(backend: Backend) {
    warnings::expect(logged::JOB_ENDS_EARLY);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.faults.plan(Operation::GetRange, 1, Fault::FlippedBit);
    let outcomes = bed.run_before(Timestamp::now()).await;
    assert!(
        outcomes.iter().any(|outcome| outcome.error.is_some()),
        "{outcomes:?}"
    );
    assert_eq!(bed.hot_rows(id).await, 60);
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    bed.assert_clean().await;
    bed.close().await;
}

/// A lease that nobody waits for the end of.
async fn open_with_long_leases(backend: Backend) -> Bed {
    let settings = ArchiveSettings {
        lease: Span::secs(3600),
        ..small()
    };
    Bed::open_with(backend, settings).await
}

/// An archive that is stopped when `step` is passed for the `nth` time.
fn stopped_at(bed: &Bed, step: Step, nth: u32) -> ArchiveJobs {
    let (stop, passed) = (CancellationToken::new(), AtomicU32::new(0));
    let stopping = stop.clone();
    let hook = move |now: Step| {
        if now == step && passed.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            stopping.cancel();
        }
    };
    bed.archive_with(Arc::new(hook)).stopped_by(stop)
}

async fn a_job_that_is_stopped_gives_its_lease_up(backend: Backend) {
    warnings::expect(logged::JOB_ENDS_EARLY);
    let steps = [
        Step::Leased,
        Step::Intended,
        Step::Uploaded,
        Step::ReadBack,
        Step::Published,
        Step::Deleted,
        Step::Settled,
    ];
    for step in steps {
        let bed = open_with_long_leases(backend).await;
        let id = bed.import("talk", 250).await;
        let log = bed.walk(id).await;
        let (order, progress) = (order(), Progress::default());
        let stopped = stopped_at(&bed, step, 1);
        let outcomes = stopped.run(&order, Timestamp::now(), &progress).await;
        let told: Vec<_> = outcomes
            .unwrap()
            .into_iter()
            .filter_map(|it| it.error)
            .collect();
        assert!(!told.is_empty(), "{step:?}");
        assert!(
            told.iter().all(|why| why.starts_with("stopped")),
            "{step:?} {told:?}"
        );
        assert_all_there(&bed, id, &log, step).await;
        bed.run().await; // which requires that no shard is busy
        assert_eq!(bed.hot_rows(id).await, 0, "stopped at {step:?}");
        assert_all_there(&bed, id, &log, step).await;
        bed.close().await;
    }
}

async fn a_rebuild_that_is_stopped_gives_all_its_leases_up(backend: Backend) {
    warnings::expect(logged::JOB_ENDS_EARLY);
    let bed = open_with_long_leases(backend).await;
    let id = bed.import("talk", 120).await;
    bed.run().await;
    let log = bed.walk(id).await;
    let (order, progress) = (order(), Progress::default());
    let shards = u32::try_from(bed.store.router().shards().count()).unwrap();
    let stopped = stopped_at(&bed, Step::Leased, shards);
    let outcome = stopped.rebuild(&order, &progress).await.unwrap();
    assert!(outcome.error.unwrap().starts_with("stopped"));
    let outcome = bed.archive.rebuild(&order, &progress).await.unwrap();
    assert_eq!(outcome.error, None);
    assert_all_there(&bed, id, &log, Step::Leased).await;
    bed.close().await;
}
