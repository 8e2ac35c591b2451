//! What the layers do together: retries that are safe, shared reads, deadlines.

use std::sync::Arc;
use std::time::Duration;

use backscroll_archiver::object_store::faults::{Fault, Faults};
use backscroll_archiver::object_store::{ErrorKind, ObjectStoreSettings, Operation, compose};
use backscroll_shard::settings::Span;
use futures_util::future::join_all;

use crate::bed::{Bed, content, key};

crate::on_every_backend![
    what_fails_in_passing_is_done_again,
    an_effect_that_was_not_seen_is_no_conflict,
    what_keeps_failing_is_told,
    who_reads_the_same_shares_one_request,
    a_read_is_finished_for_those_who_come_later,
    a_failed_read_is_told_to_all_and_not_remembered,
    a_store_that_is_slow_is_given_up_in_time,
];

async fn what_fails_in_passing_is_done_again(bed: &Bed) {
    let target = key("a/b");
    for kind in [
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
        ErrorKind::Damaged,
    ] {
        for operation in [
            Operation::Put,
            Operation::GetRange,
            Operation::Head,
            Operation::Delete,
        ] {
            bed.faults.plan(operation, 2, Fault::Before(kind));
        }
        bed.store.put(&target, content(100)).await.unwrap();
        assert_eq!(
            bed.store.get_range(&target, 0..100).await.unwrap(),
            content(100)
        );
        assert_eq!(bed.store.head(&target).await.unwrap().size, 100);
        bed.store.delete(&target).await.unwrap();
    }
    assert_eq!(bed.faults.requests(Operation::Put), 9);
}

async fn an_effect_that_was_not_seen_is_no_conflict(bed: &Bed) {
    let target = key("unseen");
    bed.faults
        .plan(Operation::Put, 2, Fault::After(ErrorKind::Timeout));
    bed.store.put(&target, content(100)).await.unwrap();
    assert_eq!(bed.faults.requests(Operation::Put), 3);

    bed.faults.plan(
        Operation::CompleteUpload,
        2,
        Fault::After(ErrorKind::Unavailable),
    );
    bed.faults.plan(
        Operation::UploadPart,
        1,
        Fault::After(ErrorKind::Unavailable),
    );
    let upload = bed.store.start_upload(&key("unseen-upload")).await.unwrap();
    let part = bed
        .store
        .upload_part(&upload, 1, content(100))
        .await
        .unwrap();
    bed.store.complete_upload(&upload, &[part]).await.unwrap();
    assert_eq!(
        bed.store
            .get_range(&key("unseen-upload"), 0..100)
            .await
            .unwrap(),
        content(100)
    );

    bed.faults
        .plan(Operation::Delete, 2, Fault::After(ErrorKind::Unavailable));
    bed.store.delete(&target).await.unwrap();
}

async fn what_keeps_failing_is_told(bed: &Bed) {
    bed.faults
        .plan(Operation::Head, 100, Fault::Before(ErrorKind::Unavailable));
    let error = bed.store.head(&key("a")).await.unwrap_err();
    assert!(error.is_retryable());
    assert_eq!(
        bed.faults.requests(Operation::Head),
        bed.settings.max_attempts
    );
    bed.faults.clear();
    bed.faults
        .plan(Operation::Put, 1, Fault::Before(ErrorKind::Full));
    assert_eq!(
        bed.store
            .put(&key("a"), content(1))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Full
    );
    assert_eq!(bed.faults.requests(Operation::Put), 1);
}

async fn who_reads_the_same_shares_one_request(bed: &Bed) {
    let target = key("popular");
    bed.store.put(&target, content(1000)).await.unwrap();
    bed.faults.plan(
        Operation::GetRange,
        2,
        Fault::Delay(Duration::from_millis(200)),
    );
    let reads = join_all((0..50).map(|n| {
        bed.store
            .get_range(&target, if n == 49 { 0..999 } else { 0..1000 })
    }))
    .await;
    for (n, read) in reads.into_iter().enumerate() {
        assert_eq!(read.unwrap(), content(if n == 49 { 999 } else { 1000 }));
    }
    assert_eq!(
        bed.faults.requests(Operation::GetRange),
        2,
        "one for each range"
    );
    bed.store.get_range(&target, 0..1000).await.unwrap();
    assert_eq!(
        bed.faults.requests(Operation::GetRange),
        3,
        "what has ended is not kept"
    );
}

async fn a_read_is_finished_for_those_who_come_later(bed: &Bed) {
    let target = key("patience");
    bed.store.put(&target, content(1000)).await.unwrap();
    bed.faults.plan(
        Operation::GetRange,
        1,
        Fault::Delay(Duration::from_millis(300)),
    );
    let impatient = tokio::time::timeout(
        Duration::from_millis(50),
        bed.store.get_range(&target, 0..1000),
    )
    .await;
    assert!(impatient.is_err());
    assert_eq!(
        bed.store.get_range(&target, 0..1000).await.unwrap(),
        content(1000)
    );
    assert_eq!(bed.faults.requests(Operation::GetRange), 1);
}

async fn a_failed_read_is_told_to_all_and_not_remembered(bed: &Bed) {
    let target = key("denied");
    bed.store.put(&target, content(1000)).await.unwrap();
    bed.faults
        .plan(Operation::GetRange, 10, Fault::Before(ErrorKind::Denied));
    let reads = join_all((0..10).map(|_| bed.store.get_range(&target, 0..1000))).await;
    assert!(
        reads.iter().all(|read| read
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Denied)),
        "{reads:?}"
    );
    bed.faults.clear();
    assert_eq!(
        bed.store.get_range(&target, 0..1000).await.unwrap(),
        content(1000)
    );
}

async fn a_store_that_is_slow_is_given_up_in_time(bed: &Bed) {
    let settings = ObjectStoreSettings {
        request_timeout: Span::millis(100),
        max_attempts: 2,
        ..bed.settings.clone()
    };
    let (faulty, faults) = Faults::around(Arc::clone(&bed.backend));
    let store = compose(faulty, &settings);
    faults.plan(Operation::Head, 2, Fault::Delay(Duration::from_secs(60)));
    let begun = std::time::Instant::now();
    assert_eq!(
        store.head(&key("a")).await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
}
