//! Uploads in parts: unseen until complete, aborted when they fail.

use std::io;
use std::time::Duration;

use backscroll_archiver::object_store::faults::Fault;
use backscroll_archiver::object_store::transfer::{abort_unfinished, get_stream, put_stream};
use backscroll_archiver::object_store::{
    ErrorKind, KeyPrefix, ListPage, ObjectKey, Operation, UnfinishedUpload, Upload,
};
use backscroll_shard::model::Timestamp;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _, stream};

use crate::bed::{Bed, content, key};

crate::on_every_backend![
    streams_of_any_length_are_stored_whole,
    nothing_is_seen_before_the_end,
    parts_may_be_given_again,
    a_taken_key_is_not_replaced,
    a_source_that_fails_leaves_nothing,
    a_store_that_fails_leaves_nothing,
    unfinished_uploads_are_listed_and_collected,
];

/// `bytes` in pieces of `size`.
fn pieces(bytes: &Bytes, size: usize) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let bytes = bytes.clone();
    stream::iter(
        (0..bytes.len())
            .step_by(size)
            .map(move |start| Ok(bytes.slice(start..bytes.len().min(start + size)))),
    )
}

async fn unfinished(bed: &Bed) -> Vec<UnfinishedUpload> {
    let (mut all, mut after) = (Vec::new(), None::<Upload>);
    loop {
        let page = bed.store.unfinished_uploads(after.as_ref()).await.unwrap();
        let Some(last) = page.last() else { return all };
        after = Some(last.upload.clone());
        all.extend(page);
    }
}

async fn streams_of_any_length_are_stored_whole(bed: &Bed) {
    let part = bed.store.part_size();
    for (number, size) in [0, 1, part - 1, part, part + 1, 2 * part, 2 * part + 4321]
        .into_iter()
        .enumerate()
    {
        let (target, stored) = (key(&format!("stream-{number}")), content(size));
        assert_eq!(
            put_stream(&*bed.store, &target, pieces(&stored, 65_537))
                .await
                .unwrap(),
            size as u64
        );
        let (meta, stream) = get_stream(&*bed.store, &target).await.unwrap();
        let got: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert_eq!(meta.size, size as u64);
        assert!(got.concat() == stored, "{size} bytes");
        let uploads = bed.faults.requests(Operation::StartUpload);
        assert_eq!(uploads > 0, size > part, "{size} bytes");
    }
    assert_eq!(bed.faults.requests(Operation::UploadPart), 2 + 2 + 3);
    assert_eq!(unfinished(bed).await, []);
}

async fn nothing_is_seen_before_the_end(bed: &Bed) {
    let target = key("slow");
    let upload = bed.store.start_upload(&target).await.unwrap();
    let part = bed
        .store
        .upload_part(&upload, 1, content(100))
        .await
        .unwrap();
    assert_eq!(
        bed.store.head(&target).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        bed.store
            .list_page(&KeyPrefix::default(), None)
            .await
            .unwrap(),
        ListPage::default()
    );

    bed.store
        .complete_upload(&upload, std::slice::from_ref(&part))
        .await
        .unwrap();
    assert_eq!(
        bed.store.get_range(&target, 0..100).await.unwrap(),
        content(100)
    );
    // Again, as after an answer that was lost.
    bed.store.complete_upload(&upload, &[part]).await.unwrap();
    // And giving up too late takes nothing away.
    bed.store.abort_upload(&upload).await.unwrap();
    assert_eq!(bed.store.head(&target).await.unwrap().size, 100);
}

async fn parts_may_be_given_again(bed: &Bed) {
    let (target, size) = (key("again"), bed.store.part_size());
    let upload = bed.store.start_upload(&target).await.unwrap();
    bed.store
        .upload_part(&upload, 1, Bytes::from(vec![1; size]))
        .await
        .unwrap();
    let second = bed
        .store
        .upload_part(&upload, 2, Bytes::from_static(b"end"))
        .await
        .unwrap();
    let first = bed
        .store
        .upload_part(&upload, 1, content(size))
        .await
        .unwrap();
    bed.store
        .complete_upload(&upload, &[first, second])
        .await
        .unwrap();
    let all = bed
        .store
        .get_range(&target, 0..size as u64 + 3)
        .await
        .unwrap();
    assert!(all == [content(size), Bytes::from_static(b"end")].concat());
}

async fn a_taken_key_is_not_replaced(bed: &Bed) {
    for taken_meanwhile in [false, true] {
        let target = key(&format!("taken-{taken_meanwhile}"));
        if !taken_meanwhile {
            bed.store.put(&target, content(10)).await.unwrap();
        }
        let upload = bed.store.start_upload(&target).await.unwrap();
        let part = bed
            .store
            .upload_part(&upload, 1, content(20))
            .await
            .unwrap();
        if taken_meanwhile {
            bed.store.put(&target, content(10)).await.unwrap();
        }
        let error = bed
            .store
            .complete_upload(&upload, &[part])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        bed.store.abort_upload(&upload).await.unwrap();
        assert_eq!(
            bed.store.get_range(&target, 0..10).await.unwrap(),
            content(10)
        );
    }
    assert_eq!(unfinished(bed).await, []);
}

async fn a_source_that_fails_leaves_nothing(bed: &Bed) {
    let size = bed.store.part_size();
    for good_parts in [0, 1, 2] {
        let good = (0..good_parts).map(|_| Ok(content(size)));
        let source = stream::iter(good.chain([Err(io::Error::other("the source broke"))]));
        let error = put_stream(&*bed.store, &key("broken"), source)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("the source broke") && !error.is_retryable(),
            "{error}"
        );
    }
    assert_eq!(
        bed.store
            .list_page(&KeyPrefix::default(), None)
            .await
            .unwrap(),
        ListPage::default()
    );
    assert_eq!(unfinished(bed).await, []);
}

async fn a_store_that_fails_leaves_nothing(bed: &Bed) {
    let size = bed.store.part_size();
    for operation in [
        Operation::StartUpload,
        Operation::UploadPart,
        Operation::CompleteUpload,
    ] {
        bed.faults
            .plan(operation, 1, Fault::Before(ErrorKind::Denied));
        let error = put_stream(
            &*bed.store,
            &key("refused"),
            pieces(&content(size + 1), size),
        )
        .await
        .unwrap_err();
        assert_eq!(
            (error.kind(), error.operation()),
            (ErrorKind::Denied, operation)
        );
    }
    assert_eq!(
        bed.store
            .list_page(&KeyPrefix::default(), None)
            .await
            .unwrap(),
        ListPage::default()
    );
    assert_eq!(unfinished(bed).await, []);
}

async fn unfinished_uploads_are_listed_and_collected(bed: &Bed) {
    let mut started = Vec::new();
    for name in ["c/3", "a/1", "b", "a/1", "d.x"] {
        started.push(bed.store.start_upload(&key(name)).await.unwrap());
    }
    started.sort();
    let listed: Vec<Upload> = unfinished(bed)
        .await
        .into_iter()
        .map(|unfinished| unfinished.upload)
        .collect();
    assert_eq!(listed, started);

    let (now, hour) = (Timestamp::now(), Duration::from_secs(3600));
    let later = Timestamp(now.0 + 3_700_000);
    let abort = async |prefix: &str, now| {
        let concerns = |key: &ObjectKey| key.as_str().starts_with(prefix);
        abort_unfinished(&*bed.store, concerns, hour, now)
            .await
            .unwrap()
    };
    assert_eq!(abort("", now).await, 0);
    assert_eq!(abort("a/", later).await, 2);
    assert_eq!(abort("", later).await, 3);
    assert_eq!(unfinished(bed).await, []);
    let error = bed
        .store
        .upload_part(&started[0], 1, content(5))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let part = backscroll_archiver::object_store::Part {
        number: 1,
        size: 5,
        tag: "x".into(),
        checksum: None,
    };
    assert_eq!(
        bed.store
            .complete_upload(&started[0], &[part])
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
}
