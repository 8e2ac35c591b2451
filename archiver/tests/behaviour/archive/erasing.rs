//! Deleted content leaves the archive; so does what is older than it is to be kept.

use backscroll_archiver::jobs::Progress;
use backscroll_shard::error::Error;
use backscroll_shard::ids::{MessageId, Seq};
use backscroll_shard::model::{Position, Timestamp};

use super::bed::{Backend, Bed, caller, on_both, order, small};

on_both!(
    a_deleted_message_leaves_every_object,
    a_deleted_conversation_leaves_everything,
    a_hold_keeps_what_was_deleted_before,
    what_is_older_than_the_retention_is_dropped,
    superseded_copies_do_not_pile_up,
);

async fn erase(bed: &Bed) {
    for outcome in bed
        .archive
        .erase(&order(), &Progress::default())
        .await
        .unwrap()
    {
        assert_eq!(outcome.error, None, "{outcome:?}");
    }
}

async fn a_deleted_message_leaves_every_object(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 200).await;
    bed.run().await;
    let message = |seq| MessageId {
        conversation: id,
        seq: Seq(seq),
    };
    // Edited first, so that there are two archived copies with its words.
    bed.store
        .edit_message(&caller("bob"), message(41), "other words".into())
        .await
        .unwrap();
    bed.run().await;
    for word in ["talk message 41 ", "other words"] {
        assert!(bed.stored_text().await.contains(word));
    }
    let has_terms = async || {
        let terms = bed.stored_terms().await;
        ["41", "other", "words"].map(|term| terms.contains(term))
    };
    assert_eq!(has_terms().await, [true; 3]);
    bed.store
        .delete_message(&caller("bob"), message(41))
        .await
        .unwrap();
    let log = bed.walk(id).await;
    assert!(log[40].content.is_empty());
    let status = bed.archive.status(&order()).await.unwrap();
    assert_eq!(
        status.iter().map(|shard| shard.open_erasures).sum::<u64>(),
        1
    );
    erase(&bed).await;
    assert_eq!(bed.walk(id).await, log);
    // Whoever rebuilds the index now does not bring it back.
    let rebuilt = bed.archive.rebuild(&order(), &Progress::default()).await;
    assert_eq!(rebuilt.unwrap().error, None);
    let figures = bed.collect().await;
    assert!(figures.superseded > 0 && figures.deleted > 0, "{figures:?}");
    let text = bed.stored_text().await;
    assert!(!text.contains("talk message 41 ") && !text.contains("other words"));
    assert!(text.contains("talk message 42 "), "the others stay");
    assert_eq!(has_terms().await, [false; 3]);
    assert!(bed.stored_terms().await.contains("42"), "the others stay");
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert_eq!(receipts.len(), 1);
    assert!(
        receipts[0].erased_at >= receipts[0].rewritten_at && receipts[0].rewritten_at.is_some()
    );
    bed.run().await;
    assert_eq!(bed.walk(id).await, log);
    assert!(!bed.stored_text().await.contains("talk message 41 "));
    bed.assert_clean().await;
    bed.close().await;
}

async fn a_deleted_conversation_leaves_everything(backend: Backend) {
    let bed = Bed::open(backend).await;
    let (gone, kept) = (bed.import("gone", 80).await, bed.import("kept", 80).await);
    bed.run_before(super::bed::sent_at(60)).await;
    let log = bed.walk(kept).await;
    bed.store
        .delete_conversation(&caller("alice"), gone)
        .await
        .unwrap();
    let refused = bed
        .store
        .history(&caller("alice"), gone, Position::Latest, 10)
        .await;
    assert!(matches!(refused, Err(Error::NotMember)));
    erase(&bed).await;
    bed.collect().await;
    assert!(!bed.stored_text().await.contains("gone message"));
    assert!(!bed.stored_terms().await.contains("gone"));
    assert_eq!(bed.hot_rows(gone).await, 0);
    assert_eq!(bed.walk(kept).await, log);
    bed.assert_clean().await;
    bed.close().await;
}

async fn a_hold_keeps_what_was_deleted_before(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 40).await;
    bed.run().await;
    let secret = MessageId {
        conversation: id,
        seq: Seq(12),
    };
    bed.store
        .delete_message(&caller("alice"), secret)
        .await
        .unwrap();
    bed.archive.place_hold(&order(), id).await.unwrap();
    erase(&bed).await;
    bed.collect().await;
    assert!(bed.stored_text().await.contains("talk message 12 "));
    bed.archive.lift_hold(&order(), id).await.unwrap();
    erase(&bed).await;
    bed.collect().await;
    assert!(!bed.stored_text().await.contains("talk message 12 "));
    bed.close().await;
}

async fn what_is_older_than_the_retention_is_dropped(backend: Backend) {
    let mut settings = small();
    // 2020-01-01 and 400 minutes: within the conversation.
    let minutes = (Timestamp::now().0 - super::bed::sent_at(400).0) / 60_000;
    settings.retain = Some(format!("{} days", minutes / 1440).parse().unwrap());
    let bed = Bed::open_with(backend, settings).await;
    let id = bed.import("talk", 3000).await;
    let log = bed.walk(id).await;
    bed.run().await;
    erase(&bed).await;
    bed.collect().await;
    let left = bed.walk(id).await;
    assert!(!left.is_empty() && left.len() < log.len());
    assert_eq!(left, log[log.len() - left.len()..]);
    let first = left[0].seq;
    let exported = bed.store.export(id, Seq(0), 50).await.unwrap();
    assert_eq!(exported[0].0, first, "what was dropped is passed over");
    let page = bed.page(id, Position::Before(first), 50).await;
    assert!(page.messages.is_empty() && !page.has_more_before);
    assert_eq!(page.dropped_before, Some(first));
    // Whoever comes from before goes on behind what is gone, and is told what is.
    for position in [
        Position::After(Seq(0)),
        Position::After(Seq(7)),
        Position::Around(Seq(3)),
    ] {
        let page = bed.page(id, position, 20).await;
        assert_eq!(page.messages, left[..20], "{position:?}");
        assert_eq!(page.dropped_before, Some(first));
        assert!(page.has_more_after && !page.has_more_before);
    }
    let page = bed.page(id, Position::Around(first), 20).await;
    assert_eq!(
        (page.messages[0].seq, page.dropped_before),
        (first, Some(first))
    );
    let page = bed.page(id, Position::Latest, 20).await;
    assert_eq!(page.dropped_before, None);
    let dropped = MessageId {
        conversation: id,
        seq: Seq(1),
    };
    let refused = bed.store.message(&caller("alice"), dropped).await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
    let refused = bed.store.react(&caller("alice"), dropped, "👍").await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
    assert!(!bed.stored_text().await.contains("talk message 1 "));
    bed.assert_clean().await;
    bed.close().await;
}

async fn superseded_copies_do_not_pile_up(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let first = bed.keys().await;
    // A few changes leave the segment as it is; once most of it is superseded, it is written anew.
    for (changed, compacted) in [(1..=10, 0), (11..=45, 1)] {
        for seq in changed {
            let message = MessageId {
                conversation: id,
                seq: Seq(seq),
            };
            bed.store
                .react(&caller("bob"), message, "👍")
                .await
                .unwrap();
        }
        let outcomes = bed.run().await;
        let done: u64 = outcomes
            .iter()
            .map(|outcome| outcome.figures.compacted)
            .sum();
        assert_eq!(done, compacted);
    }
    let log = bed.walk(id).await;
    assert!(
        log[..45]
            .iter()
            .all(|message| message.reactions.get().contains("bob"))
    );
    bed.collect().await;
    assert!(!bed.keys().await.contains(&first[0]));
    assert_eq!(bed.terms_keys().await.len(), bed.keys().await.len());
    assert_eq!(bed.walk(id).await, log);
    bed.assert_clean().await;
    bed.close().await;
}
