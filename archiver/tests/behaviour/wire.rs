//! S3 as it may be in the field: down, slow, lying, misconfigured.

use std::time::{Duration, Instant};

use backscroll_archiver::object_store::probe::{ProbeOutcome, probe};
use backscroll_archiver::object_store::s3::S3Store;
use backscroll_archiver::object_store::transfer::{self, put_stream};
use backscroll_archiver::object_store::{
    ChecksumMode, Deletion, ErrorKind, KeyPrefix, ObjectStore as _, ObjectStoreSettings, Operation,
    compose,
};
use backscroll_shard::settings::Span;
use backscroll_testkit::{Mode, Proxy};
use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use tokio::io::AsyncReadExt as _;

use crate::bed::{PLAIN, content, http_get, key};
use crate::beds::{OnServer, s3_settings};
use crate::s3_server::{Answer, Versioning};

/// A range that is answered with these headers and this body.
fn partial(content_range: &str, body: Bytes) -> Answer {
    Answer {
        status: 206,
        headers: vec![("content-range", content_range.into())],
        body,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_store_is_asked_again() {
    let bed = OnServer::start().await;
    let server = &bed.server;
    server.answer([
        Answer::error(503, "SlowDown"),
        Answer::error(500, "InternalError"),
        Answer::error(429, "TooManyRequests"),
    ]);
    bed.store.put(&key("a"), content(100)).await.unwrap();
    server.answer([
        Answer::error(400, "RequestTimeout"),
        Answer::error(503, "ServiceUnavailable"),
    ]);
    assert_eq!(
        bed.store.get_range(&key("a"), 0..100).await.unwrap(),
        content(100)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_range_is_never_taken_for_it() {
    let bed = OnServer::start().await;
    let server = &bed.server;
    bed.store.put(&key("a"), content(1000)).await.unwrap();
    let whole = Answer {
        status: 200,
        headers: vec![],
        body: content(1000),
    };
    server.answer([whole.clone()]);
    let error = bed.store.get_range(&key("a"), 0..100).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    server.answer([whole]);
    assert_eq!(
        bed.store.get_range(&key("a"), 0..1000).await.unwrap(),
        content(1000),
        "the whole was asked for"
    );

    // Another range, too few bytes, too many: each is asked for again.
    let before = bed.faults.requests(Operation::GetRange);
    server.answer([
        partial("bytes 100-199/1000", content(100)),
        partial("bytes 0-99/1000", content(99)),
        partial("bytes 0-99/1000", content(101)),
    ]);
    assert_eq!(
        bed.store.get_range(&key("a"), 0..100).await.unwrap(),
        content(100)
    );
    assert_eq!(
        bed.faults.requests(Operation::GetRange),
        before + 4,
        "three that were not taken, and one that was"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_told_apart() {
    let bed = OnServer::start().await;
    let url = bed.server.url();
    let kind = async |change: fn(&mut ObjectStoreSettings)| {
        let mut settings = s3_settings(&url);
        change(&mut settings);
        let store = S3Store::open(&settings).await.unwrap();
        let error = store.put(&key("a"), content(10)).await.unwrap_err();
        assert!(!error.to_string().contains("wrong-secret"), "{error}");
        error.kind()
    };
    let wrong_secret = |settings: &mut ObjectStoreSettings| {
        settings.secret_access_key = Some(serde_json::from_str("\"wrong-secret\"").unwrap());
    };
    assert_eq!(kind(wrong_secret).await, ErrorKind::Denied);
    assert_eq!(
        kind(|settings| settings.access_key_id = Some("AKIDOTHER".into())).await,
        ErrorKind::Denied
    );
    assert_eq!(
        kind(|settings| settings.bucket = "no-such-bucket".into()).await,
        ErrorKind::Misconfigured
    );
    assert_eq!(
        kind(|settings| settings.endpoint = Some("http://127.0.0.1:1".into())).await,
        ErrorKind::Unavailable
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_stuck_and_back_again() {
    let bed = OnServer::start().await;
    let proxy = Proxy::start(bed.server.address());
    let mut settings = s3_settings(&format!("http://{}", proxy.address()));
    settings.request_timeout = Span::millis(300);
    settings.max_attempts = 2;
    let store = compose(
        std::sync::Arc::new(S3Store::open(&settings).await.unwrap()),
        &settings,
    );
    store.put(&key("a"), content(100)).await.unwrap();

    proxy.set(Mode::Cut).await;
    let error = store.get_range(&key("a"), 0..100).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

    proxy.set(Mode::Hang).await;
    let begun = Instant::now();
    let error = store.get_range(&key("a"), 0..100).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );

    proxy.set(Mode::Pass).await;
    assert_eq!(
        store.get_range(&key("a"), 0..100).await.unwrap(),
        content(100)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thin_link_has_the_time_it_needs_and_no_more() {
    let bed = OnServer::start().await;
    let proxy = Proxy::start(bed.server.address());
    let mut settings = s3_settings(&format!("http://{}", proxy.address()));
    settings.request_timeout = Span::millis(500);
    settings.min_throughput = 100_000;
    settings.max_attempts = 1;
    let store = compose(
        std::sync::Arc::new(S3Store::open(&settings).await.unwrap()),
        &settings,
    );
    store.put(&key("a"), content(200_000)).await.unwrap();
    proxy
        .set(Mode::Throttle {
            bytes_per_second: 200_000,
        })
        .await;
    assert_eq!(
        store.get_range(&key("a"), 0..200_000).await.unwrap(),
        content(200_000)
    );
    proxy
        .set(Mode::Throttle {
            bytes_per_second: 20_000,
        })
        .await;
    assert_eq!(
        store
            .get_range(&key("a"), 0..199_999)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Timeout
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_breaks_off_is_no_object() {
    let bed = OnServer::start().await;
    let proxy = Proxy::start(bed.server.address());
    let store = S3Store::open(&s3_settings(&format!("http://{}", proxy.address())))
        .await
        .unwrap();
    store.put(&key("a"), content(1_000_000)).await.unwrap();
    proxy
        .set(Mode::Throttle {
            bytes_per_second: 200_000,
        })
        .await;
    let target = key("a");
    let (read, ()) = tokio::join!(store.get_range(&target, 0..1_000_000), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        proxy.set(Mode::Cut).await;
    });
    let error = read.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.is_retryable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_closed_without_an_answer_says_nothing_of_credentials() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = S3Store::open(&s3_settings(&format!(
        "http://{}",
        listener.local_addr().unwrap()
    )))
    .await
    .unwrap();
    let target = key("a");
    let (head, ()) = tokio::join!(store.head(&target), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
    });
    assert_eq!(head.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_checksum_modes_and_stores_without_conditions_work() {
    for checksum in [ChecksumMode::WhenSupported, ChecksumMode::WhenRequired] {
        for conditional_put in [true, false] {
            let bed = OnServer::start_with(|settings| {
                (settings.checksum, settings.conditional_put) = (checksum, conditional_put)
            })
            .await;
            bed.store.put(&key("small"), content(1000)).await.unwrap();
            assert_eq!(
                bed.store.get_range(&key("small"), 0..1000).await.unwrap(),
                content(1000)
            );
            let size = bed.store.part_size() + 1000;
            let source = stream::iter([Ok(content(size))]);
            assert_eq!(
                put_stream(&*bed.store, &key("large"), source)
                    .await
                    .unwrap(),
                size as u64
            );
            assert!(
                bed.store
                    .get_range(&key("large"), 0..size as u64)
                    .await
                    .unwrap()
                    == content(size)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_get_addresses_of_the_public_endpoint() {
    let bed = OnServer::start().await;
    let proxy = Proxy::start(bed.server.address());
    let mut settings = bed.settings.clone();
    settings.public_endpoint = Some(format!("http://{}", proxy.address()));
    let store = S3Store::open(&settings).await.unwrap();
    store
        .put(&key("a"), Bytes::from_static(b"public"))
        .await
        .unwrap();
    let url = store
        .sign_get(&key("a"), &PLAIN, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(
        url.starts_with(&format!("http://{}/", proxy.address())),
        "{url}"
    );
    assert!(http_get(proxy.address(), &url).await.ends_with("public"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_overwrites_is_used_with_a_reservation() {
    let bed = OnServer::start().await;
    bed.server.ignore_conditions();
    let report = probe(&*bed.store).await;
    assert!(report.failure().is_none(), "{report:#?}");
    assert!(
        matches!(&report.steps[1].outcome, ProbeOutcome::Reservation(text) if text.contains("overwrites"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_conditions_are_ignored_a_look_comes_before() {
    let bed = OnServer::start_with(|settings| settings.conditional_put = false).await;
    bed.server.ignore_conditions();
    for taken in [content(10), Bytes::new()] {
        let target = key(&format!("taken-{}", taken.len()));
        bed.store.put(&target, taken.clone()).await.unwrap();
        bed.store.put(&target, taken.clone()).await.unwrap();
        let error = bed.store.put(&target, content(20)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");

        let upload = bed.store.start_upload(&target).await.unwrap();
        let part = bed
            .store
            .upload_part(&upload, 1, content(20))
            .await
            .unwrap();
        let error = bed
            .store
            .complete_upload(&upload, &[part])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert_eq!(
            bed.store.head(&target).await.unwrap().size,
            taken.len() as u64
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_foreign_uploads_may_end_with_a_key_alone() {
    let bed = OnServer::start().await;
    let upload = bed.store.start_upload(&key("a")).await.unwrap();
    let page = "<ListMultipartUploadsResult><Bucket>archive</Bucket><IsTruncated>true</IsTruncated>\
         <NextKeyMarker>FOREIGN</NextKeyMarker>\
         <Upload><Key>FOREIGN</Key><UploadId>1</UploadId></Upload></ListMultipartUploadsResult>";
    bed.server.answer([Answer {
        status: 200,
        headers: vec![("content-type", "application/xml".into())],
        body: page.into(),
    }]);
    let page = bed.store.unfinished_uploads(None).await.unwrap();
    assert_eq!(page.len(), 1);
    assert_eq!(page[0].upload, upload);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_leaves_no_version() {
    let bed = OnServer::start().await;
    let store = &bed.store;
    assert_eq!(store.deletion().await.unwrap(), Deletion::Final);
    // Versions are turned on while this process believes that they are off: the answer to a deletion says it.
    store.put(&key("a/1"), content(10)).await.unwrap();
    store.put(&key("a/10"), content(10)).await.unwrap();
    store.delete(&key("a/none")).await.unwrap();
    bed.server.set_versioning(Versioning::On);
    store.delete(&key("a/1")).await.unwrap();
    assert_eq!(bed.server.kept_versions(), 0);
    assert!(store.head(&key("a/10")).await.is_ok(), "another object");

    let reopened = || async { S3Store::open(&bed.settings).await.unwrap() };
    let store = reopened().await;
    assert_eq!(store.deletion().await.unwrap(), Deletion::Versions);
    store.delete(&key("a/10")).await.unwrap();
    store.delete(&key("a/10")).await.unwrap();
    let error = store.head(&key("a/10")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(bed.server.kept_versions(), 0);

    // What cannot be deleted for good is no success.
    store.put(&key("b"), content(10)).await.unwrap();
    bed.server.set_versioning(Versioning::Hidden);
    let error = store.delete(&key("b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("keeps versions"), "{error}");
    bed.server.set_versioning(Versioning::Locked);
    assert_eq!(store.deletion().await.unwrap(), Deletion::Locked);
    let error = store.delete(&key("b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_that_does_not_go_on_is_refused() {
    let bed = OnServer::start().await;
    let page = |token: &str| Answer {
        status: 200,
        headers: vec![("content-type", "application/xml".into())],
        body: format!(
            "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>true</IsTruncated>{token}\
             <Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>"
        )
        .into(),
    };
    let token = "<NextContinuationToken>t1</NextContinuationToken>";
    let other = "<NextContinuationToken>t2</NextContinuationToken>";
    let everything = KeyPrefix::default();
    for answers in [
        vec![page("")],
        vec![page(token), page(token)],
        vec![page(token), page(other)],
    ] {
        bed.server.answer(answers);
        let listed: Result<Vec<_>, _> = transfer::list(bed.store.as_ref(), &everything)
            .try_collect()
            .await;
        let error = listed.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

/// `CompleteMultipartUpload` may say that it failed after it has said status 200.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_inside_an_answer_that_began_well_is_an_error() {
    let bed = OnServer::start().await;
    let upload = bed.store.start_upload(&key("a")).await.unwrap();
    let part = bed
        .store
        .upload_part(&upload, 1, content(10))
        .await
        .unwrap();
    bed.server.answer([Answer::error(200, "InternalError")]);
    bed.store.complete_upload(&upload, &[part]).await.unwrap();
    assert_eq!(bed.faults.requests(Operation::CompleteUpload), 2);
    assert_eq!(bed.store.head(&key("a")).await.unwrap().size, 10);
}
