//! Files of conversations: who sees them, which messages use them, and when they go.

mod processing;

use std::time::Instant;

use backscroll_shard::archive;
use backscroll_shard::error::{Error, MediaFault};
use backscroll_shard::ids::{ConversationId, MediaId};
use backscroll_shard::media;
use backscroll_shard::model::{
    Caller, Media, MediaFacts, MediaKind, MediaProcessed, MediaState, MediaVariant, MediaVerdict,
    NewMessage, RawJson, Timestamp, VariantKeys, VariantName,
};
use backscroll_shard::owned::OwnedTransaction;
use backscroll_shard::store::MediaQuota;

use crate::bed::{Bed, PATIENCE, caller};
use crate::on_every_backend;

on_every_backend!(
    a_file_is_sent_and_goes_with_its_last_message,
    files_of_others_and_of_other_conversations_are_not_there,
    of_several_verdicts_the_first_counts,
    the_quota_is_kept,
    unused_files_expire_and_used_ones_do_not,
    a_deleted_conversation_takes_its_files_along,
);

const QUOTA: MediaQuota = MediaQuota {
    files: 5,
    bytes: 5000,
};

/// A file that `me` is about to upload.
pub(crate) fn pending(me: &Caller, conversation: ConversationId) -> Media {
    let now = Timestamp::now();
    Media {
        id: MediaId::new(conversation, rand::random()),
        conversation,
        uploader: me.user.clone(),
        state: MediaState::Pending,
        kind: MediaKind::Image,
        file_name: "Grüße 😀.png".into(),
        content_type: "image/png".into(),
        bytes: 1000,
        sha256: Some([7; 32]),
        upload_key: "upload/ab/cd".into(),
        upload_id: Some("id".into()),
        object_key: None,
        facts: MediaFacts::default(),
        variant_keys: None,
        variants: Vec::new(),
        process_at: None,
        reason: None,
        created_at: now,
        expires_at: Some(Timestamp(now.0 + 86_400_000)),
    }
}

pub(crate) fn ready(n: u32) -> MediaVerdict {
    MediaVerdict::Ready {
        object_key: format!("media/ab/{n}"),
        bytes: 900,
        content_type: "image/png".into(),
        facts: MediaFacts {
            width: Some(640),
            height: Some(480),
            ..MediaFacts::default()
        },
        variant_keys: None,
    }
}

/// Accepted, with smaller forms to be made.
pub(crate) fn to_process(n: u32) -> MediaVerdict {
    let MediaVerdict::Ready {
        object_key,
        bytes,
        content_type,
        facts,
        ..
    } = ready(n)
    else {
        unreachable!()
    };
    let key = |form: &str| format!("{object_key}-{form}");
    let variant_keys = Some(VariantKeys {
        small: key("small"),
        large: key("large"),
    });
    MediaVerdict::Ready {
        object_key,
        bytes,
        content_type,
        facts,
        variant_keys,
    }
}

/// What came of it.
pub(crate) fn processed() -> MediaProcessed {
    MediaProcessed::Ready {
        placeholder: "1QcSHQRnh493V4dIh4eXh1h4kJUI".into(),
        variants: vec![MediaVariant {
            variant: VariantName::Small,
            content_type: "image/jpeg".into(),
            width: 320,
            height: 240,
            bytes: 700,
        }],
    }
}

pub(crate) fn with_files(ids: &[MediaId]) -> NewMessage {
    let list: Vec<String> = ids
        .iter()
        .map(|id| format!(r#"{{"mediaId":"{id}"}}"#))
        .collect();
    NewMessage {
        attachments: Some(RawJson::parse(format!("[{}]", list.join(","))).unwrap()),
        ..NewMessage::default()
    }
}

async fn uploaded(bed: &Bed, me: &Caller, id: ConversationId) -> Media {
    let file = pending(me, id);
    bed.store.begin_media(me, &file, QUOTA).await.unwrap();
    let finished = bed.store.finish_media(me, &file, &ready(1)).await.unwrap();
    assert!(finished.1);
    finished.0
}

/// What a job would collect `later` milliseconds from now.
async fn expired(bed: &Bed, id: ConversationId, later: i64) -> Vec<MediaId> {
    let now = Timestamp(Timestamp::now().0 + later);
    let map = bed.store.map();
    let shard = bed.store.router().shard(&map.locate(id.owner_key()).shard);
    let deadline = Instant::now() + PATIENCE;
    let mut connection = shard.unwrap().primary().writer(deadline).await.unwrap();
    connection.begin().await.unwrap();
    let found = media::expired(&mut connection, now, Timestamp(0), 100).await;
    let found = found.unwrap();
    let mut rows = OwnedTransaction::for_job(&mut connection);
    for file in &found {
        assert!(media::remove_expired(&mut rows, file, now).await.unwrap());
    }
    archive::finish_erasures(&mut connection, now)
        .await
        .unwrap();
    connection.commit().await.unwrap();
    found.iter().map(|file| file.id).collect()
}

async fn a_file_is_sent_and_goes_with_its_last_message(bed: &Bed) {
    let (alice, bob) = (caller("alice"), caller("bob"));
    let id = bed.group("alice", &["bob"]).await;
    let file = pending(&alice, id);
    bed.store.begin_media(&alice, &file, QUOTA).await.unwrap();
    let early = bed.store.send(&alice, id, with_files(&[file.id])).await;
    assert!(matches!(early, Err(Error::Media(MediaFault::NotReady))));
    let (file, _) = bed
        .store
        .finish_media(&alice, &file, &ready(1))
        .await
        .unwrap();
    assert_eq!(file.state, MediaState::Ready);

    let sent = bed.store.send(&alice, id, with_files(&[file.id, file.id]));
    let first = sent.await.unwrap().message;
    let expected = format!(
        r#"{{"mediaId":"{}","state":"ready","kind":"image","fileName":"Grüße 😀.png","contentType":"image/png","bytes":900,"width":640,"height":480}}"#,
        file.id
    );
    assert_eq!(first.attachments.get(), format!("[{expected},{expected}]"));
    assert_eq!(bed.log("bob", id).await[0].attachments, first.attachments);
    bed.settle().await;
    let list = bed.store.list_conversations(&bob, None, 5).await.unwrap();
    let last = list.conversations[0].last_message.as_ref().unwrap();
    assert_eq!(last.content, "Photo");

    // A member may send it again; and now it is used twice.
    let second = bed.store.send(&bob, id, with_files(&[file.id])).await;
    let second = second.unwrap().message;
    let in_use = bed.store.delete_media(&alice, file.id).await;
    assert!(matches!(in_use, Err(Error::Media(MediaFault::InUse))));
    bed.store.delete_message(&alice, first.id).await.unwrap();
    assert_eq!(bed.store.media(&bob, file.id).await.unwrap().id, file.id);
    bed.store.delete_message(&bob, second.id).await.unwrap();
    for me in [&alice, &bob] {
        let gone = bed.store.media(me, file.id).await;
        assert!(matches!(gone, Err(Error::NotFound(_))));
        let again = bed.store.send(me, id, with_files(&[file.id])).await;
        assert!(matches!(again, Err(Error::NotFound(_))));
    }
    assert_eq!(expired(bed, id, 0).await, [file.id]);
}

async fn files_of_others_and_of_other_conversations_are_not_there(bed: &Bed) {
    let (alice, bob, eve) = (caller("alice"), caller("bob"), caller("eve"));
    let id = bed.group("alice", &["bob"]).await;
    let other = bed.group("alice", &["bob", "eve"]).await;
    let file = uploaded(bed, &alice, id).await;
    // Not sent yet: nobody but its uploader sees it.
    for result in [
        bed.store.media(&bob, file.id).await,
        bed.store.media(&eve, file.id).await,
    ] {
        assert!(matches!(result, Err(Error::NotFound(_) | Error::NotMember)));
    }
    let stolen = bed.store.send(&bob, id, with_files(&[file.id])).await;
    assert!(matches!(stolen, Err(Error::NotFound(_))), "{stolen:?}");
    let elsewhere = bed.store.send(&alice, other, with_files(&[file.id])).await;
    assert!(
        matches!(elsewhere, Err(Error::NotFound(_))),
        "{elsewhere:?}"
    );
    let forbidden = bed.store.begin_media(&eve, &pending(&eve, id), QUOTA).await;
    assert!(matches!(forbidden, Err(Error::NotMember)));

    bed.store
        .send(&alice, id, with_files(&[file.id]))
        .await
        .unwrap();
    bed.store.media(&bob, file.id).await.unwrap();
    assert!(matches!(
        bed.store.media(&eve, file.id).await,
        Err(Error::NotMember)
    ));
    assert!(matches!(
        bed.store.delete_media(&bob, file.id).await,
        Err(Error::Forbidden(_))
    ));
    // One message of several that are sent together is refused by itself.
    let together = vec![
        with_files(&[file.id]),
        with_files(&[MediaId::new(id, 1)]),
        with_files(&[file.id]),
    ];
    let outcomes = bed.store.send_all(&bob, id, together).await;
    let outcomes: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(outcomes, [true, false, true]);
}

async fn of_several_verdicts_the_first_counts(bed: &Bed) {
    let alice = caller("alice");
    let id = bed.group("alice", &["bob"]).await;
    let file = pending(&alice, id);
    bed.store.begin_media(&alice, &file, QUOTA).await.unwrap();
    let verdicts: Vec<MediaVerdict> = (0..8).map(ready).collect();
    let finished = verdicts
        .iter()
        .map(|verdict| bed.store.finish_media(&alice, &file, verdict));
    let finished = futures_util::future::join_all(finished).await;
    let finished: Vec<(Media, bool)> = finished.into_iter().map(Result::unwrap).collect();
    assert_eq!(finished.iter().filter(|(_, took)| *took).count(), 1);
    assert!(finished.iter().all(|(media, _)| *media == finished[0].0));
    let rejected = MediaVerdict::Rejected("damaged");
    let late = bed
        .store
        .finish_media(&alice, &file, &rejected)
        .await
        .unwrap();
    assert_eq!(late, (finished[0].0.clone(), false));
}

async fn the_quota_is_kept(bed: &Bed) {
    let alice = caller("alice");
    let id = bed.group("alice", &["bob"]).await;
    let large = Media {
        bytes: 5001,
        ..pending(&alice, id)
    };
    let refused = bed.store.begin_media(&alice, &large, QUOTA).await;
    assert!(matches!(
        refused,
        Err(Error::LimitReached { max: 5000, .. })
    ));
    for _ in 0..5 {
        let file = pending(&alice, id);
        bed.store.begin_media(&alice, &file, QUOTA).await.unwrap();
    }
    let refused = bed
        .store
        .begin_media(&alice, &pending(&alice, id), QUOTA)
        .await;
    assert!(matches!(refused, Err(Error::LimitReached { max: 5, .. })));
    let bob = caller("bob");
    bed.store
        .begin_media(&bob, &pending(&bob, id), QUOTA)
        .await
        .unwrap();
}

async fn unused_files_expire_and_used_ones_do_not(bed: &Bed) {
    let alice = caller("alice");
    let id = bed.group("alice", &["bob"]).await;
    let begun = pending(&alice, id);
    bed.store.begin_media(&alice, &begun, QUOTA).await.unwrap();
    let (unused, used) = (
        uploaded(bed, &alice, id).await,
        uploaded(bed, &alice, id).await,
    );
    bed.store
        .send(&alice, id, with_files(&[used.id]))
        .await
        .unwrap();
    assert_eq!(expired(bed, id, 86_000_000).await, []);
    let mut gone = expired(bed, id, 87_000_000).await;
    gone.sort_unstable();
    let mut expected = vec![begun.id, unused.id];
    expected.sort_unstable();
    assert_eq!(gone, expected);
    for file in expected {
        let gone = bed.store.media(&alice, file).await;
        assert!(matches!(gone, Err(Error::NotFound(_))));
    }
    let late = bed.store.finish_media(&alice, &begun, &ready(1)).await;
    assert!(matches!(late, Err(Error::NotFound(_))));
    bed.store.media(&alice, used.id).await.unwrap();
}

async fn a_deleted_conversation_takes_its_files_along(bed: &Bed) {
    let alice = caller("alice");
    let id = bed.group("alice", &["bob"]).await;
    let used = uploaded(bed, &alice, id).await;
    bed.store
        .send(&alice, id, with_files(&[used.id]))
        .await
        .unwrap();
    bed.store.delete_conversation(&alice, id).await.unwrap();
    assert!(matches!(
        bed.store.media(&alice, used.id).await,
        Err(Error::NotMember)
    ));
    let map = bed.store.map();
    let shard = bed.store.router().shard(&map.locate(id.owner_key()).shard);
    let deadline = Instant::now() + PATIENCE;
    let mut connection = shard.unwrap().primary().writer(deadline).await.unwrap();
    connection.begin().await.unwrap();
    while archive::purge_rows(&mut connection, id, 10).await.unwrap() {}
    connection.commit().await.unwrap();
    drop(connection);
    assert_eq!(expired(bed, id, 0).await, [used.id]);
}
