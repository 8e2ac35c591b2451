//! Files of conversations: who sees them, which messages use them, and when they go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::archive;
use backscroll_shard::commit_event::CommitEvent;
use backscroll_shard::error::{Error, MediaFault};
use backscroll_shard::ids::{ConversationId, MediaId};
use backscroll_shard::media;
use backscroll_shard::model::{
    Caller, Media, MediaFacts, MediaKind, MediaProcessed, MediaState, MediaVariant, MediaVerdict,
    NewMessage, RawJson, Timestamp, VariantKeys, VariantName,
};
use backscroll_shard::node::Shard;
use backscroll_shard::owned::OwnedTransaction;
use backscroll_shard::store::{MediaQuota, Store};

use crate::bed::{Bed, PATIENCE, caller};
use crate::live::listening;
use crate::on_every_backend;

on_every_backend!(
    a_file_is_sent_and_goes_with_its_last_message,
    files_of_others_and_of_other_conversations_are_not_there,
    of_several_verdicts_the_first_counts,
    the_quota_is_kept,
    unused_files_expire_and_used_ones_do_not,
    a_deleted_conversation_takes_its_files_along,
    a_picture_is_processed_and_its_messages_follow,
    one_at_a_time_works_on_a_picture,
    what_is_worked_on_is_collected_afterwards,
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

fn shard_of(store: &Store, id: ConversationId) -> Arc<Shard> {
    let map = store.map();
    let name = &map.locate(id.owner_key()).shard;
    Arc::clone(store.router().shard(name).unwrap())
}

async fn accepted(store: &Store, me: &Caller, id: ConversationId) -> Media {
    let file = pending(me, id);
    store.begin_media(me, &file, QUOTA).await.unwrap();
    store
        .finish_media(me, &file, &to_process(1))
        .await
        .unwrap()
        .0
}

async fn a_picture_is_processed_and_its_messages_follow(bed: &Bed) {
    let (alice, bob) = (caller("alice"), caller("bob"));
    let id = bed.group("alice", &["bob"]).await;
    let (store, told) = listening(bed).await;
    let (file, unused) = (
        accepted(&store, &alice, id).await,
        accepted(&store, &alice, id).await,
    );
    assert_eq!(
        (file.state, file.variants.len()),
        (MediaState::Processing, 0)
    );
    let early = store
        .send(&alice, id, with_files(&[file.id]))
        .await
        .unwrap()
        .message;
    assert!(early.attachments.get().contains(r#""state":"processing""#));
    let free = NewMessage {
        attachments: Some(RawJson::parse(r#"[{"url":"x"}]"#.into()).unwrap()),
        ..NewMessage::default()
    };
    let other = store.send(&alice, id, free).await.unwrap().message;
    told.0.lock().unwrap().clear();

    let now = store
        .finish_processing(&file, &processed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(now.state, MediaState::Ready);
    // Sent before it is told: it has everything already.
    let late = store
        .send(&bob, id, with_files(&[file.id]))
        .await
        .unwrap()
        .message;
    for _ in 0..2 {
        store.tell_processed(&now).await.unwrap();
    }
    let log = bed.log("bob", id).await;
    let expected = format!(
        r#"[{{"mediaId":"{}","state":"ready","kind":"image","fileName":"Grüße 😀.png","contentType":"image/png","bytes":900,"width":640,"height":480,"placeholder":"1QcSHQRnh493V4dIh4eXh1h4kJUI","variants":[{{"variant":"small","contentType":"image/jpeg","width":320,"height":240,"bytes":700}}]}}]"#,
        file.id
    );
    assert_eq!(
        (log[0].attachments.get(), log[2].attachments.get()),
        (&*expected, &*expected)
    );
    assert_eq!(
        (log[0].edited_at, log[0].rev.0, log[2].rev),
        (None, late.rev.0 + 1, late.rev)
    );
    assert_eq!(
        (&log[1].attachments, log[1].rev),
        (&other.attachments, other.rev)
    );
    store
        .finish_processing(&unused, &MediaProcessed::Failed("damaged"))
        .await
        .unwrap()
        .unwrap();
    let failed = store.media(&alice, unused.id).await.unwrap();
    assert_eq!(
        (failed.state, failed.reason.as_deref()),
        (MediaState::Failed, Some("damaged"))
    );
    store.tell_processed(&failed).await.unwrap();
    store
        .send(&alice, id, with_files(&[unused.id]))
        .await
        .unwrap();
    store.close(Instant::now() + PATIENCE).await;
    let told = told.0.lock().unwrap();
    let events: Vec<String> = told
        .iter()
        .filter_map(|event| match event {
            CommitEvent::MessageUpdated(message) => Some(format!("updated {}", message.seq)),
            CommitEvent::MediaProcessed { user, media } => {
                Some(format!("{user} {:?} {}", media.state, media.variants.len()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(events, ["updated 1", "alice Ready 1", "alice Failed 0"]);
}

async fn one_at_a_time_works_on_a_picture(bed: &Bed) {
    let alice = caller("alice");
    let id = bed.group("alice", &["bob"]).await;
    let store = &bed.store;
    let shard = shard_of(store, id);
    let first = accepted(store, &alice, id).await;
    assert_eq!(store.take_due_media(&shard, 9).await.unwrap(), []);
    store
        .postpone_processing(&first, Duration::ZERO)
        .await
        .unwrap();
    let takes = (0..4).map(|_| store.take_due_media(&shard, 9));
    let takes = futures_util::future::join_all(takes).await;
    let mut taken: Vec<Media> = takes.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(taken.len(), 1, "{taken:?}");
    let second = taken.pop().unwrap();
    assert_eq!(
        (second.id, second.state),
        (first.id, MediaState::Processing)
    );
    assert_eq!(
        store.finish_processing(&first, &processed()).await.unwrap(),
        None
    );
    store
        .postpone_processing(&first, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(store.take_due_media(&shard, 9).await.unwrap(), []);
    // It dies after it has put down what came of it: the next only tells.
    store
        .finish_processing(&second, &processed())
        .await
        .unwrap()
        .unwrap();
    store
        .postpone_processing(&second, Duration::ZERO)
        .await
        .unwrap();
    let third = store
        .take_due_media(&shard, 9)
        .await
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!((third.state, third.variants.len()), (MediaState::Ready, 1));
    store.tell_processed(&third).await.unwrap();
    assert_eq!(
        store.media(&alice, first.id).await.unwrap().process_at,
        None
    );
    // Nothing is done with what was removed.
    let gone = accepted(store, &alice, id).await;
    store
        .postpone_processing(&gone, Duration::ZERO)
        .await
        .unwrap();
    store.delete_media(&alice, gone.id).await.unwrap();
    assert_eq!(store.take_due_media(&shard, 9).await.unwrap(), []);
}

async fn what_is_worked_on_is_collected_afterwards(bed: &Bed) {
    let alice = caller("alice");
    let id = bed.group("alice", &["bob"]).await;
    let file = accepted(&bed.store, &alice, id).await;
    bed.store.delete_media(&alice, file.id).await.unwrap();
    assert_eq!(
        bed.store
            .finish_processing(&file, &processed())
            .await
            .unwrap(),
        None
    );
    assert_eq!(expired(bed, id, 60_000).await, []);
    assert_eq!(expired(bed, id, 180_000).await, [file.id]);
}
