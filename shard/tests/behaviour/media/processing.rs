//! Pictures: processed by one process at a time, processed again, and collected once nobody works on them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::commit_event::CommitEvent;
use backscroll_shard::error::Result;
use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::{
    Caller, Media, MediaKind, MediaProcessed, MediaState, MediaVerdict, NewMessage, RawJson,
    VariantKeys,
};
use backscroll_shard::node::Shard;
use backscroll_shard::store::Store;

use super::{QUOTA, expired, pending, processed, ready, to_process, uploaded, with_files};
use crate::bed::{Bed, PATIENCE, caller};
use crate::live::listening;
use crate::on_every_backend;

on_every_backend!(
    a_picture_is_processed_and_its_messages_follow,
    one_at_a_time_works_on_a_picture,
    what_is_worked_on_is_collected_afterwards,
    a_picture_without_forms_is_processed_again,
    of_several_who_process_a_picture_again_one_does,
);

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

fn other_keys() -> VariantKeys {
    VariantKeys {
        small: "media/ab/other-small".into(),
        large: "media/ab/other-large".into(),
    }
}

/// It is processed, and has failed.
async fn fail(store: &Store, file: &Media) -> Media {
    let failed = MediaProcessed::Failed("timed_out");
    let finished = store.finish_processing(file, &failed).await.unwrap();
    store.tell_processed(&finished.unwrap()).await.unwrap();
    store.media(&caller("alice"), file.id).await.unwrap()
}

async fn a_picture_without_forms_is_processed_again(bed: &Bed) {
    let (alice, store) = (caller("alice"), &bed.store);
    let id = bed.group("alice", &["bob"]).await;
    let again = async |file: &Media| store.process_again(file, &other_keys()).await.unwrap();

    // It has failed, and keeps its keys.
    let first = accepted(store, &alice, id).await;
    store
        .send(&alice, id, with_files(&[first.id]))
        .await
        .unwrap();
    let failed = fail(store, &first).await;
    assert_eq!(failed.state, MediaState::Failed);
    let taken = again(&failed).await.unwrap();
    assert_eq!(
        (taken.state, &taken.reason, &taken.variant_keys),
        (MediaState::Processing, &None, &first.variant_keys)
    );
    let finished = store.finish_processing(&taken, &processed()).await.unwrap();
    store.tell_processed(&finished.unwrap()).await.unwrap();
    let log = bed.log("bob", id).await;
    let shown = log[0].attachments.get();
    assert!(
        shown.contains(r#""state":"ready""#) && !shown.contains("timed_out"),
        "{shown}"
    );
    let done = store.media(&alice, first.id).await.unwrap();
    assert_eq!((done.state, done.process_at), (MediaState::Ready, None));
    assert_eq!(again(&done).await, None, "it has its forms");

    // It was accepted where none are made, and gets keys.
    let plain = uploaded(bed, &alice, id).await;
    assert_eq!(
        (plain.state, &plain.variant_keys),
        (MediaState::Ready, &None)
    );
    let taken = again(&plain).await.unwrap();
    assert_eq!(
        (taken.state, taken.variant_keys.as_ref()),
        (MediaState::Processing, Some(&other_keys()))
    );

    // Others are no pictures to be processed.
    let rejected = pending(&alice, id);
    store.begin_media(&alice, &rejected, QUOTA).await.unwrap();
    assert_eq!(again(&rejected).await, None);
    let verdict = MediaVerdict::Rejected("damaged");
    let (rejected, _) = store
        .finish_media(&alice, &rejected, &verdict)
        .await
        .unwrap();
    assert_eq!(again(&rejected).await, None);
    store.delete_media(&alice, taken.id).await.unwrap();
    assert_eq!(again(&taken).await, None);
    let file = Media {
        kind: MediaKind::File,
        ..pending(&alice, id)
    };
    store.begin_media(&alice, &file, QUOTA).await.unwrap();
    let (file, _) = store.finish_media(&alice, &file, &ready(2)).await.unwrap();
    assert_eq!(again(&file).await, None);
}

async fn of_several_who_process_a_picture_again_one_does(bed: &Bed) {
    let (alice, store) = (caller("alice"), &bed.store);
    let id = bed.group("alice", &["bob"]).await;
    let failed = fail(store, &accepted(store, &alice, id).await).await;
    let keys = other_keys();
    let takes = (0..4).map(|_| store.process_again(&failed, &keys));
    let takes = futures_util::future::join_all(takes).await;
    let mut taken: Vec<Media> = takes.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(taken.len(), 1, "{taken:?}");
    let taken = taken.pop().unwrap();
    let shard = shard_of(store, id);
    assert_eq!(store.take_due_media(&shard, 9).await.unwrap(), []);
    assert_eq!(store.process_again(&taken, &keys).await.unwrap(), None);
    // Its process dies: once the lease has ended, any other takes it.
    store
        .postpone_processing(&taken, Duration::ZERO)
        .await
        .unwrap();
    let second = store.process_again(&failed, &keys).await.unwrap().unwrap();
    let late = store.finish_processing(&taken, &processed()).await.unwrap();
    assert_eq!(late, None);
    store
        .postpone_processing(&second, Duration::ZERO)
        .await
        .unwrap();
    let due = store.take_due_media(&shard, 9).await.unwrap();
    assert_eq!((due.len(), due[0].id), (1, failed.id));
}
