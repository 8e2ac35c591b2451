//! Files of conversations: they go with their messages, from the archive too, and erasures wait for them.

use backscroll_archiver::object_store::faults::Fault;
use backscroll_archiver::object_store::{ErrorKind, Operation};
use backscroll_shard::ids::{ConversationId, MediaId};
use backscroll_shard::model::{
    Media, MediaFacts, MediaKind, MediaState, MediaVerdict, NewMessage, RawJson, Timestamp,
};
use backscroll_shard::store::MediaQuota;
use backscroll_testkit::warnings;
use bytes::Bytes;

use super::bed::{Backend, Bed, caller, on_both, order};
use super::logged;
use crate::bed::key;

on_both![
    a_deleted_message_takes_its_file_along,
    what_nothing_uses_is_collected,
    a_held_conversation_keeps_its_files,
    missing_objects_are_found,
];

/// A key as the program makes them, for something of this name.
fn own(prefix: &str, name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}/ab/ab{digits:0>30}")
}

/// A file of alice's whose objects are there; ready, unless it expires.
async fn file(bed: &Bed, id: ConversationId, name: &str, expires_in: i64) -> Media {
    let alice = caller("alice");
    let now = Timestamp::now();
    let (upload_key, object_key) = (own("upload", name), own("media", name));
    let media = Media {
        id: MediaId::new(id, now.0.cast_unsigned()),
        conversation: id,
        uploader: alice.user.clone(),
        state: MediaState::Pending,
        kind: MediaKind::File,
        file_name: format!("{name}.bin"),
        content_type: "application/octet-stream".into(),
        bytes: 4,
        sha256: None,
        upload_key: upload_key.clone(),
        upload_id: None,
        object_key: None,
        facts: MediaFacts::default(),
        reason: None,
        created_at: now,
        expires_at: Some(Timestamp(now.0 + expires_in)),
    };
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
