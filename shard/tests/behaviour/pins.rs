//! Pinned messages: who may pin, how many, and that every way to them agrees.

use std::collections::{BTreeMap, BTreeSet};

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, MessageId, Seq};
use backscroll_shard::model::{ConversationKind, ConversationPatch, Message, SyncRequest};
use backscroll_shard::settings::StoreSettings;

use crate::bed::{Bed, caller};

crate::on_every_backend!(with few_pins:
    a_pin_is_a_change_of_the_log,
    who_may_pin_is_the_conversation_s_rule,
    pins_are_bounded,
    pages_of_pins_are_bounded,
    a_deleted_message_is_not_pinned,
);

fn few_pins(settings: &mut StoreSettings) {
    settings.limits.pins = 5;
    settings.limits.answer_bytes = 64 << 10;
}

pub(crate) async fn pinned(bed: &Bed, name: &str, id: ConversationId) -> Vec<Message> {
    let mut all = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = bed
            .store
            .pins(&caller(name), id, cursor.as_deref(), 2)
            .await;
        let page = page.unwrap();
        assert!(page.archive_unavailable.is_empty(), "{page:?}");
        all.extend(page.messages);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return all;
        }
    }
}

fn seqs(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.seq.0).collect()
}

async fn a_pin_is_a_change_of_the_log(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let mut messages = Vec::new();
    for n in 0..4 {
        messages.push(bed.say("bob", id, &format!("message {n}")).await);
    }
    let before = bed.page("bob", id, backscroll_shard::model::Position::Latest, 10);
    let before = before.await.rev;
    let alice = caller("alice");
    let first = bed.store.pin_message(&alice, messages[0].id).await.unwrap();
    assert_eq!(first.pinned_by.as_ref(), Some(&alice.user));
    assert_eq!(first.rev.0, before.0 + 1);
    let again = bed.store.pin_message(&alice, messages[0].id).await.unwrap();
    assert_eq!(again, first, "again changes nothing");
    let third = bed.store.pin_message(&alice, messages[2].id).await.unwrap();
    assert_eq!(pinned(bed, "bob", id).await, [third.clone(), first.clone()]);
    assert_eq!(bed.log("bob", id).await[0], first);
    let known = BTreeMap::from([(id, before)]);
    let request = SyncRequest {
        cursor: None,
        conversations: known,
    };
    let page = bed.store.sync(&caller("bob"), request).await.unwrap();
    let changes = page.changes.iter().find(|it| it.conversation_id == id);
    assert_eq!(changes.unwrap().messages, [first, third.clone()]);
    let unpinned = bed.store.unpin_message(&alice, messages[0].id).await;
    let unpinned = unpinned.unwrap();
    assert!(unpinned.pinned_at.is_none() && unpinned.pinned_by.is_none());
    assert_eq!(unpinned.rev.0, third.rev.0 + 1);
    let again = bed.store.unpin_message(&alice, messages[0].id).await;
    assert_eq!(again.unwrap(), unpinned);
    assert_eq!(pinned(bed, "bob", id).await, [third]);
    let edited = bed
        .store
        .edit_message(&caller("bob"), messages[2].id, "edited".into())
        .await;
    assert!(edited.unwrap().pinned_at.is_some(), "an edit keeps it");
}

async fn who_may_pin_is_the_conversation_s_rule(bed: &Bed) {
    let (alice, bob, eve) = (caller("alice"), caller("bob"), caller("eve"));
    for kind in [ConversationKind::Group, ConversationKind::Channel] {
        let id = bed.create("alice", kind, &["bob"]).await.unwrap();
        let message = bed.say("bob", id, "mine").await.id;
        let refused = bed.store.pin_message(&bob, message).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
        bed.store.pin_message(&alice, message).await.unwrap();
        let refused = bed.store.unpin_message(&bob, message).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
        let rule = |members_may_pin| ConversationPatch {
            members_may_pin: Some(members_may_pin),
            ..ConversationPatch::default()
        };
        let refused = bed.store.update_conversation(&bob, id, rule(true)).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
        let changed = bed.store.update_conversation(&alice, id, rule(true)).await;
        assert!(changed.unwrap().members_may_pin);
        bed.say("bob", id, "the rule outlives what is said").await;
        bed.store.unpin_message(&bob, message).await.unwrap();
        bed.store.pin_message(&bob, message).await.unwrap();
        let changed = bed.store.update_conversation(&alice, id, rule(false)).await;
        assert!(!changed.unwrap().members_may_pin);
        let refused = bed.store.unpin_message(&bob, message).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
        let stranger = bed.store.pin_message(&eve, message).await;
        assert!(matches!(stranger, Err(Error::NotMember)), "{stranger:?}");
        let stranger = bed.store.pins(&eve, id, None, 10).await;
        assert!(matches!(stranger, Err(Error::NotMember)), "{stranger:?}");
    }
    let direct = bed.create("alice", ConversationKind::Direct, &["bob"]);
    let direct = direct.await.unwrap();
    let message = bed.say("alice", direct, "ours").await.id;
    bed.store.pin_message(&bob, message).await.unwrap();
    bed.store.unpin_message(&alice, message).await.unwrap();
    let rule = ConversationPatch {
        members_may_pin: Some(false),
        ..ConversationPatch::default()
    };
    let refused = bed.store.update_conversation(&alice, direct, rule).await;
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    let nowhere = MessageId {
        conversation: direct,
        seq: Seq(99),
    };
    let refused = bed.store.pin_message(&alice, nowhere).await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
}

async fn pins_are_bounded(bed: &Bed) {
    let id = bed.group("alice", &[]).await;
    let alice = caller("alice");
    let mut messages = Vec::new();
    for n in 0..7 {
        messages.push(bed.say("alice", id, &format!("{n}")).await.id);
    }
    // All at once: the bound holds whatever the order is.
    let attempts = messages.iter().map(|id| bed.store.pin_message(&alice, *id));
    let outcomes = futures_util::future::join_all(attempts).await;
    let (done, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (5, 2));
    for refused in refused {
        assert!(
            matches!(refused, Err(Error::LimitReached { max: 5, .. })),
            "{refused:?}"
        );
    }
    let there: BTreeSet<u64> = seqs(&pinned(bed, "alice", id).await).into_iter().collect();
    assert_eq!(there.len(), 5);
    let (least, missing) = (
        messages
            .iter()
            .find(|id| there.contains(&id.seq.0))
            .unwrap(),
        messages
            .iter()
            .find(|id| !there.contains(&id.seq.0))
            .unwrap(),
    );
    bed.store.unpin_message(&alice, *least).await.unwrap();
    bed.store.pin_message(&alice, *missing).await.unwrap();
    assert_eq!(pinned(bed, "alice", id).await.len(), 5);
}

async fn pages_of_pins_are_bounded(bed: &Bed) {
    let id = bed.group("alice", &[]).await;
    let alice = caller("alice");
    let long = "😀".repeat(5000); // 20 KB
    for _ in 0..5 {
        let message = bed.say("alice", id, &long).await.id;
        bed.store.pin_message(&alice, message).await.unwrap();
    }
    let first = bed.store.pins(&alice, id, None, 100).await.unwrap();
    assert_eq!(seqs(&first.messages), [5, 4, 3]);
    let rest = bed
        .store
        .pins(&alice, id, first.next_cursor.as_deref(), 100);
    let rest = rest.await.unwrap();
    assert_eq!(seqs(&rest.messages), [2, 1]);
    assert!(rest.next_cursor.is_none());
    for cursor in ["", "0", "-1", "x", "1.5"] {
        let refused = bed.store.pins(&alice, id, Some(cursor), 2).await;
        assert!(
            matches!(refused, Err(Error::Invalid(_))),
            "{cursor}: {refused:?}"
        );
    }
}

async fn a_deleted_message_is_not_pinned(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let alice = caller("alice");
    let message = bed.say("bob", id, "secret").await.id;
    bed.store.pin_message(&alice, message).await.unwrap();
    let deleted = bed.store.delete_message(&caller("bob"), message).await;
    assert!(deleted.unwrap().pinned_at.is_none());
    assert!(pinned(bed, "alice", id).await.is_empty());
    let refused = bed.store.pin_message(&alice, message).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
}
