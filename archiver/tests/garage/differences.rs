//! Where Garage differs from Amazon S3, and what comes of it here. The table in the head of the module
//! `object_store::s3` says so in words: what changes here changes there.

use std::net::SocketAddr;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::ByteStream;
use backscroll_archiver::object_store::probe::{ProbeOutcome, ProbeReport, probe};
use backscroll_archiver::object_store::s3::S3Store;
use backscroll_archiver::object_store::transfer::{abort_unfinished, put_stream};
use backscroll_archiver::object_store::{
    ChecksumMode, ErrorKind, ObjectKey, ObjectStore as _, ObjectStoreSettings, Operation,
    UnfinishedUpload,
};
use backscroll_shard::model::Timestamp;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::bed::{Bed, PLAIN, content, http_get, key};
use crate::beds::{garage_settings, garage_under, garage_with, variable};

/// Most uploads in a page of Garage's listing.
const PAGE_UPLOADS: usize = 1000;

fn reservations(report: &ProbeReport) -> Vec<(&'static str, &str)> {
    let reservation = |outcome| match outcome {
        &ProbeOutcome::Passed => None,
        ProbeOutcome::Reservation(text) => Some(text.as_str()),
        ProbeOutcome::Failed { .. } => panic!("{report:#?}"),
    };
    let steps = report.steps.iter();
    steps
        .filter_map(|step| Some((step.name, reservation(&step.outcome)?)))
        .collect()
}

/// The address in `http://ADDRESS`.
fn address_of(endpoint: &str) -> SocketAddr {
    endpoint.strip_prefix("http://").unwrap().parse().unwrap()
}

#[tokio::test]
async fn conditions_are_ignored_and_the_probe_says_so() {
    let bed = garage_with(|settings| settings.conditional_put = true).await;
    bed.store.put(&key("a"), content(1000)).await.unwrap();
    bed.store.put(&key("a"), content(999)).await.unwrap();
    assert_eq!(bed.store.head(&key("a")).await.unwrap().size, 999);
    let upload = bed.store.start_upload(&key("a")).await.unwrap();
    let part = bed.store.upload_part(&upload, 1, content(5)).await.unwrap();
    bed.store.complete_upload(&upload, &[part]).await.unwrap();
    assert_eq!(bed.store.head(&key("a")).await.unwrap().size, 5);

    let report = probe(&*bed.store).await;
    let [(step, text)] = reservations(&report)[..] else {
        panic!("{report:#?}")
    };
    assert_eq!(step, "refuse to overwrite it");
    assert!(text.contains("conditional_put = false"), "{text}");
}

#[tokio::test]
async fn an_upload_is_forgotten_when_its_key_is_put() {
    let bed = garage_with(|settings| settings.conditional_put = true).await;
    let upload = bed.store.start_upload(&key("a")).await.unwrap();
    let part = bed
        .store
        .upload_part(&upload, 1, content(20))
        .await
        .unwrap();
    bed.store.put(&key("a"), content(10)).await.unwrap();
    assert_eq!(bed.store.unfinished_uploads(None).await.unwrap(), []);
    let error = bed
        .store
        .complete_upload(&upload, &[part])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(error.to_string().contains("NoSuchUpload"), "{error}");
}

#[tokio::test]
async fn both_checksum_modes_work() {
    for checksum in [ChecksumMode::WhenSupported, ChecksumMode::WhenRequired] {
        let bed = garage_with(|settings| settings.checksum = checksum).await;
        bed.store.put(&key("small"), content(1000)).await.unwrap();
        assert_eq!(
            bed.store.get_range(&key("small"), 0..1000).await.unwrap(),
            content(1000)
        );
        let size = bed.store.part_size() + 1000;
        let source = stream::iter([Ok(content(size))]);
        put_stream(&*bed.store, &key("large"), source)
            .await
            .unwrap();
        let read = bed.store.get_range(&key("large"), 0..size as u64).await;
        assert!(read.unwrap() == content(size));

        let upload = bed.store.start_upload(&key("parts")).await.unwrap();
        let part = bed.store.upload_part(&upload, 1, content(5)).await.unwrap();
        assert_eq!(
            part.checksum.is_some(),
            checksum == ChecksumMode::WhenSupported
        );
    }
}

#[tokio::test]
async fn a_checksum_that_does_not_match_is_refused() {
    let settings = garage_settings();
    let secret = settings.secret_access_key.unwrap().0;
    let credentials = Credentials::new(settings.access_key_id.unwrap(), secret, None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(settings.region))
        .endpoint_url(settings.endpoint.unwrap())
        .credentials_provider(credentials)
        .force_path_style(true)
        .build();
    let put = Client::from_conf(config)
        .put_object()
        .bucket(settings.bucket)
        .key("damaged")
        .checksum_crc32("AAAAAA==")
        .body(ByteStream::from_static(b"on its way, a bit flips"));
    let error = put.send().await.unwrap_err().into_service_error();
    assert_eq!(error.code(), Some("InvalidDigest"), "{error:?}");
}

#[tokio::test]
async fn a_bucket_has_a_host_name_too() {
    let endpoint = variable("ENDPOINT");
    let address = address_of(&endpoint);
    let bed = garage_with(|settings| {
        settings.public_endpoint = Some(format!("http://localhost:{}", address.port()));
        settings.path_style = false;
    })
    .await;
    // The server's own address is one of numbers, for which the path is used in any case.
    let text = Bytes::from_static(b"by the host's name");
    bed.store.put(&key("a"), text).await.unwrap();
    let signed = bed
        .store
        .sign_get(&key("a"), &PLAIN, Duration::from_secs(60))
        .await;
    let url = signed.unwrap();
    let host = format!(
        "http://{}.localhost:{}/",
        bed.settings.bucket,
        address.port()
    );
    assert!(url.starts_with(&host), "{url}");
    let response = http_get(address, &url).await;
    assert!(
        response.starts_with("HTTP/1.1 200") && response.ends_with("by the host's name"),
        "{response}"
    );
}

#[tokio::test]
async fn what_is_wrong_is_told_apart() {
    let kind = async |change: fn(&mut ObjectStoreSettings)| {
        let mut settings = garage_settings();
        change(&mut settings);
        let store = S3Store::open(&settings).await.unwrap();
        store
            .put(&key("wrong"), content(10))
            .await
            .unwrap_err()
            .kind()
    };
    let wrong_secret = |settings: &mut ObjectStoreSettings| {
        settings.secret_access_key = Some(serde_json::from_str("\"wrong\"").unwrap());
    };
    assert_eq!(kind(wrong_secret).await, ErrorKind::Denied);
    assert_eq!(
        kind(|settings| settings.access_key_id = Some("GKother".into())).await,
        ErrorKind::Denied
    );
    assert_eq!(
        kind(|settings| settings.bucket = "no-such-bucket".into()).await,
        ErrorKind::Misconfigured
    );
    assert_eq!(
        kind(|settings| settings.region = "elsewhere".into()).await,
        ErrorKind::Misconfigured
    );
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_a_full_store() {
    let bed = garage_with(|settings| settings.bucket = variable("FULL_BUCKET")).await;
    let error = bed.store.put(&key("a"), content(10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    let upload = bed.store.start_upload(&key("a")).await.unwrap();
    let part = bed.store.upload_part(&upload, 1, content(5)).await.unwrap();
    let error = bed
        .store
        .complete_upload(&upload, &[part])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");

    let report = probe(&*bed.store).await;
    let failure = report.failure().unwrap();
    let ProbeOutcome::Failed { remedy, .. } = &failure.outcome else {
        panic!("{report:#?}")
    };
    assert_eq!(
        (failure.name, *remedy),
        ("put an object", "free some space, or raise the quota")
    );
}

/// Several pages of uploads, the last of the bucket: the marker of the second page is one of these, whoever lists them.
async fn bed_of_many_uploads() -> Bed {
    let bed = garage_under(&format!("zz-{:016x}", rand::random::<u64>()), |_| {}).await;
    let count = 2 * PAGE_UPLOADS + PAGE_UPLOADS / 2;
    let keys = (0..count).map(|n| key(&format!("{n:05}")));
    let starts = stream::iter(keys).map(async |key| bed.store.start_upload(&key).await);
    let started: Vec<_> = starts.buffer_unordered(32).try_collect().await.unwrap();
    assert_eq!(started.len(), count);
    bed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_uploads_are_listed_and_collected() {
    let bed = bed_of_many_uploads().await;
    let count = bed.faults.requests(Operation::StartUpload) as usize;
    let mut listed: Vec<UnfinishedUpload> = Vec::new();
    loop {
        let after = listed.last().map(|unfinished| &unfinished.upload);
        let page = bed.store.unfinished_uploads(after).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= PAGE_UPLOADS);
        listed.extend(page);
    }
    let keys = listed
        .iter()
        .map(|unfinished| unfinished.upload.key.as_str());
    assert!(keys.eq((0..count).map(|n| format!("{n:05}"))));

    let later = Timestamp(Timestamp::now().0 + 3_700_000);
    let aborted = abort_unfinished(
        &*bed.store,
        |_: &ObjectKey| true,
        Duration::from_secs(3600),
        later,
    )
    .await;
    assert_eq!(aborted.unwrap(), count as u64);
    assert_eq!(bed.store.unfinished_uploads(None).await.unwrap(), []);
}
