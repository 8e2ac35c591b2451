//! Files of conversations: they go with their messages, from the archive too, and erasures wait for them.

mod deaths;
mod rebuilding;

use std::time::{Duration, Instant};

use backscroll_archiver::media::processing;
use backscroll_archiver::media::settings::MediaSettings;
use backscroll_archiver::media::worker::Program;
use backscroll_archiver::object_store::faults::Fault;
use backscroll_archiver::object_store::{ErrorKind, Operation};
use backscroll_shard::ids::{ConversationId, MediaId};
use backscroll_shard::model::{
    Media, MediaFacts, MediaKind, MediaProcessed, MediaState, MediaVariant, MediaVerdict,
    NewMessage, RawJson, Timestamp, VariantKeys, VariantName,
};
use backscroll_shard::store::MediaQuota;
use backscroll_shard::tasks::Supervisor;
use backscroll_testkit::warnings;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::bed::{Backend, Bed, caller, on_both, order};
use super::logged;
use crate::bed::key;

on_both![
    a_deleted_message_takes_its_file_along,
    what_nothing_uses_is_collected,
    a_held_conversation_keeps_its_files,
    missing_objects_are_found,
    a_picture_takes_its_smaller_forms_along,
    what_was_left_to_process_is_taken_up,
];

/// A key as the program makes them, for something of this name.
fn own(prefix: &str, name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}/ab/ab{digits:0>30}")
}

/// A file that alice is about to upload.
fn pending_file(id: ConversationId, name: &str, expires_in: i64) -> Media {
    let now = Timestamp::now();
    Media {
        id: MediaId::new(id, now.0.cast_unsigned()),
        conversation: id,
        uploader: caller("alice").user,
        state: MediaState::Pending,
        kind: MediaKind::File,
        file_name: format!("{name}.bin"),
        content_type: "application/octet-stream".into(),
        bytes: 4,
        sha256: None,
        upload_key: own("upload", name),
        upload_id: None,
        object_key: None,
        facts: MediaFacts::default(),
        variant_keys: None,
        variants: Vec::new(),
        process_at: None,
        reason: None,
        created_at: now,
        expires_at: Some(Timestamp(now.0 + expires_in)),
    }
}

/// A file of alice's whose objects are there; ready, unless it expires.
async fn file(bed: &Bed, id: ConversationId, name: &str, expires_in: i64) -> Media {
    let alice = caller("alice");
    let (upload_key, object_key) = (own("upload", name), own("media", name));
    let media = pending_file(id, name, expires_in);
    let quota = MediaQuota {
        files: 10,
        bytes: 1000,
    };
    bed.store.begin_media(&alice, &media, quota).await.unwrap();
    bed.objects
        .put(&key(&upload_key), Bytes::from_static(b"file"))
        .await
        .unwrap();
    if expires_in < 0 {
        return media;
    }
    bed.objects
        .put(&key(&object_key), Bytes::from_static(b"file"))
        .await
        .unwrap();
    let verdict = MediaVerdict::Ready {
        object_key,
        bytes: 4,
        content_type: media.content_type.clone(),
        facts: MediaFacts::default(),
        variant_keys: None,
    };
    bed.store
        .finish_media(&alice, &media, &verdict)
        .await
        .unwrap()
        .0
}

async fn send(bed: &Bed, id: ConversationId, file: &Media) -> u64 {
    let list = format!(r#"[{{"mediaId":"{}"}}]"#, file.id);
    let new = NewMessage {
        attachments: Some(RawJson::parse(list).unwrap()),
        ..NewMessage::default()
    };
    let sent = bed.store.send(&caller("alice"), id, new).await.unwrap();
    sent.message.seq.0
}

async fn file_keys(bed: &Bed) -> Vec<String> {
    let keys = bed.keys().await.into_iter().map(|key| key.to_string());
    keys.filter(|key| !key.starts_with("archive/")).collect()
}

async fn a_deleted_message_takes_its_file_along(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 30).await;
    let sent = file(&bed, id, "one", 86_400_000).await;
    let (archived, hot) = (send(&bed, id, &sent).await, send(&bed, id, &sent).await);
    assert_eq!(hot, archived + 1);
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    let log = bed.walk(id).await;
    assert!(log[log.len() - 1].attachments.get().contains("one.bin"));

    bed.delete(id, archived).await;
    bed.all_jobs().await;
    assert_eq!(
        file_keys(&bed).await,
        [own("media", "one")],
        "another message uses it"
    );
    bed.delete(id, hot).await;
    let gone = bed.store.media(&caller("alice"), sent.id).await;
    assert!(gone.is_err(), "{gone:?}");

    // As long as the object may be there, there is no receipt.
    warnings::expect(logged::JOB_ENDS_EARLY);
    bed.run().await;
    bed.erase().await;
    bed.faults
        .plan(Operation::Delete, 1000, Fault::Before(ErrorKind::Denied));
    let outcomes = bed.archive.collect(&order(), false).await.unwrap();
    assert!(outcomes.iter().any(|outcome| outcome.error.is_some()));
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert!(
        receipts.iter().any(|receipt| receipt.erased_at.is_none()),
        "{receipts:?}"
    );
    bed.faults.clear();
    bed.all_jobs().await;
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert_eq!(receipts.len(), 2);
    assert!(
        receipts.iter().all(|receipt| receipt.erased_at.is_some()),
        "{receipts:?}"
    );
    assert_eq!(file_keys(&bed).await, [""; 0]);
    bed.close().await;
}

async fn what_nothing_uses_is_collected(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 3).await;
    let used = file(&bed, id, "used", 86_400_000).await;
    send(&bed, id, &used).await;
    let unused = file(&bed, id, "unused", 86_400_000).await;
    file(&bed, id, "expired", -1).await;
    bed.objects
        .put(&key(&own("media", "orphan")), Bytes::from_static(b"x"))
        .await
        .unwrap();
    let upload = bed
        .objects
        .start_upload(&key(&own("upload", "orphan")))
        .await
        .unwrap();
    let dry: u64 = {
        let outcomes = bed.archive.collect(&order(), true).await.unwrap();
        outcomes.iter().map(|outcome| outcome.figures.files).sum()
    };
    // The expired one; the orphan; and what ready files left where they were uploaded.
    assert_eq!(dry, 4);
    assert_eq!(file_keys(&bed).await.len(), 6);
    bed.collect().await;
    assert_eq!(
        file_keys(&bed).await,
        [own("media", "used"), own("media", "unused")]
    );
    let parts = bed.objects.list_parts(&upload).await.unwrap_err();
    assert_eq!(parts.kind(), ErrorKind::NotFound);
    bed.store.media(&caller("alice"), unused.id).await.unwrap();
    let report = bed.archive.verify_files(Timestamp::now()).await.unwrap();
    assert_eq!(
        (report.files, report.bytes, report.faulty, report.orphans),
        (2, 8, 0, 0)
    );
    bed.close().await;
}

async fn a_held_conversation_keeps_its_files(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 3).await;
    file(&bed, id, "expired", -1).await;
    let hold = "INSERT INTO holds (conversation_id, placed_at, actor, reason) \
                SELECT id, 1, 'a test', 'a test' FROM conversations";
    bed.execute(id, hold).await;
    bed.collect().await;
    assert_eq!(file_keys(&bed).await, [own("upload", "expired")]);
    bed.execute(id, "DELETE FROM holds").await;
    bed.collect().await;
    assert_eq!(file_keys(&bed).await, [""; 0]);
    bed.close().await;
}

/// A picture whose upload has begun.
async fn begun_picture(bed: &Bed, id: ConversationId, name: &str) -> Media {
    let file = Media {
        kind: MediaKind::Image,
        ..pending_file(id, name, 86_400_000)
    };
    let quota = MediaQuota {
        files: 10,
        bytes: 1000,
    };
    let alice = caller("alice");
    bed.store.begin_media(&alice, &file, quota).await.unwrap();
    file
}

/// A picture whose smaller forms are to be made, and whose objects are there.
async fn picture(bed: &Bed, id: ConversationId, name: &str) -> Media {
    let file = begun_picture(bed, id, name).await;
    let [object, small, large] =
        ["", "small", "large"].map(|form| own("media", &format!("{name}{form}")));
    put(bed, &object, b"file").await;
    let verdict = MediaVerdict::Ready {
        object_key: object,
        bytes: 4,
        content_type: "image/png".into(),
        facts: MediaFacts::default(),
        variant_keys: Some(VariantKeys { small, large }),
    };
    let finished = bed
        .store
        .finish_media(&caller("alice"), &file, &verdict)
        .await;
    finished.unwrap().0
}

/// Its smaller forms are made.
async fn process(bed: &Bed, file: &Media) {
    let mut variants = Vec::new();
    for variant in [VariantName::Small, VariantName::Large] {
        let key = file.variant_keys.as_ref().unwrap().of(variant);
        put(bed, key, b"a form").await;
        variants.push(MediaVariant {
            variant,
            content_type: "image/jpeg".into(),
            width: 320,
            height: 240,
            bytes: 6,
        });
    }
    let processed = MediaProcessed::Ready {
        placeholder: "hash".into(),
        variants,
    };
    let finished = bed.store.finish_processing(file, &processed).await.unwrap();
    bed.store.tell_processed(&finished.unwrap()).await.unwrap();
}

async fn a_picture_takes_its_smaller_forms_along(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 3).await;
    let file = picture(&bed, id, "pic").await;
    let (archived, hot) = (send(&bed, id, &file).await, send(&bed, id, &file).await);
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    // Processed only now: the archived messages follow.
    process(&bed, &file).await;
    for message in bed.walk(id).await.iter().skip(3) {
        assert!(
            message.attachments.get().contains(r#""state":"ready""#),
            "{message:?}"
        );
    }
    bed.all_jobs().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    let keys = ["pic", "piclarge", "picsmall"].map(|name| own("media", name));
    let mut found = file_keys(&bed).await;
    found.sort();
    let mut expected = keys.to_vec();
    expected.sort();
    assert_eq!(found, expected);
    let report = bed.archive.verify_files(Timestamp::now()).await.unwrap();
    assert_eq!(
        (report.files, report.variants, report.faulty, report.orphans),
        (1, 2, 0, 0)
    );
    bed.objects.delete(&key(&keys[2])).await.unwrap();
    let report = bed.archive.verify_files(Timestamp::now()).await.unwrap();
    assert_eq!((report.faulty, &report.faults[0].object), (1, &keys[2]));

    bed.delete(id, archived).await;
    bed.all_jobs().await;
    assert_eq!(file_keys(&bed).await.len(), 2, "another message uses it");
    bed.delete(id, hot).await;
    // Put by a process that had died before it could say so: the key is the row's all the same.
    put(&bed, &keys[2], b"late").await;
    bed.all_jobs().await;
    assert_eq!(file_keys(&bed).await, [""; 0]);
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert!(
        receipts.iter().all(|receipt| receipt.erased_at.is_some()),
        "{receipts:?}"
    );
    bed.close().await;
}

/// A node has died with a picture, and another one starts; its workers say that every picture is damaged.
async fn what_was_left_to_process_is_taken_up(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 3).await;
    let file = picture(&bed, id, "pic").await;
    send(&bed, id, &file).await;
    bed.store
        .postpone_processing(&file, Duration::ZERO)
        .await
        .unwrap();
    // `{"failed":"damaged"}` has 20 bytes.
    let answers = r#"printf '\000\000\000\024{"failed":"damaged"}'; exec sleep 60"#;
    let program = Program {
        path: "/bin/sh".into(),
        arguments: vec!["-c".into(), answers.into()],
    };
    let (tasks, stop) = (Supervisor::default().group(), CancellationToken::new());
    let settings = MediaSettings::default();
    let _queue = processing::start(
        &bed.store,
        &bed.objects,
        (&settings, &program),
        &tasks,
        &stop,
    );
    let told = async {
        loop {
            let log = bed.walk(id).await;
            if log[3]
                .attachments
                .get()
                .contains(r#""state":"failed","reason":"damaged""#)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told)
        .await
        .unwrap();
    stop.cancel();
    assert!(tasks.finish(Instant::now() + Duration::from_secs(20)).await);
    let file = bed.store.media(&caller("alice"), file.id).await.unwrap();
    assert_eq!(file.state, MediaState::Failed);
    bed.close().await;
}

async fn put(bed: &Bed, name: &str, content: &'static [u8]) {
    bed.objects
        .put(&key(name), Bytes::from_static(content))
        .await
        .unwrap();
}

async fn missing_objects_are_found(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 3).await;
    let used = file(&bed, id, "used", 86_400_000).await;
    send(&bed, id, &used).await;
    bed.objects
        .delete(&key(&own("media", "used")))
        .await
        .unwrap();
    let report = bed.archive.verify_files(Timestamp::now()).await.unwrap();
    assert_eq!((report.files, report.faulty), (1, 1));
    let fault = &report.faults[0];
    assert_eq!((fault.media_id, fault.fault), (used.id, "missing"));
    bed.objects
        .put(
            &key(&own("media", "used")),
            Bytes::from_static(b"more than"),
        )
        .await
        .unwrap();
    let report = bed.archive.verify_files(Timestamp::now()).await.unwrap();
    assert_eq!(report.faults[0].fault, "size");
    bed.close().await;
}
