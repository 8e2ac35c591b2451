//! What a node that serves connections asks, and is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use backscroll_shard::cold_tier::NoArchive;
use backscroll_shard::commit_event::{CommitEvent, CommitListener};
use backscroll_shard::ids::{ConversationId, Rev, Seq, UserId};
use backscroll_shard::model::{ConversationPatch, ListEntry, Timestamp};
use backscroll_shard::store::Store;
use backscroll_shard::sync::Delta;
use backscroll_shard::tasks::Supervisor;

use crate::bed::{Bed, PATIENCE, caller, user};

crate::on_every_backend!(
    standings_and_heads_are_told_in_batches,
    what_a_push_said_can_be_read_again,
    list_entries_are_told_with_revs_that_have_no_hole,
    when_users_were_seen_last_moves_forward_only,
    watermarks_are_told_from_where_to_where,
);

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

async fn standings_and_heads_are_told_in_batches(bed: &Bed) {
    let mut ids: Vec<ConversationId> = Vec::new();
    for n in 0..20 {
        let id = bed.group(&format!("owner{n}"), &["bob"]).await;
        for _ in 0..n % 3 {
            bed.say("bob", id, "hello").await;
        }
        ids.push(id);
    }
    let gone = bed.group("alice", &["bob"]).await;
    bed.store
        .delete_conversation(&caller("alice"), gone)
        .await
        .unwrap();
    ids.push(gone);
    let pairs: Vec<(ConversationId, UserId)> = ids
        .iter()
        .flat_map(|id| [(*id, user("bob")), (*id, user("mallory"))])
        .collect();
    let standings = bed.store.standings(&pairs, soon()).await;
    let heads = bed.store.heads(&ids, soon()).await;
    assert_eq!((standings.len(), heads.len()), (42, 21));
    for (n, id) in ids.iter().enumerate().take(20) {
        let bobs = standings[&(*id, user("bob"))].unwrap();
        assert_eq!(bobs.head.head_seq, Seq(n as u64 % 3));
        assert_eq!(bobs.member_count, 2);
        assert_eq!(heads[id], Some(bobs.head));
        assert_eq!(standings[&(*id, user("mallory"))], None);
    }
    assert_eq!(
        (heads[&gone], standings[&(gone, user("bob"))]),
        (None, None)
    );
    assert!(bed.store.standings(&[], soon()).await.is_empty());
}

async fn what_a_push_said_can_be_read_again(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let first = bed.say("alice", id, "first").await;
    bed.say("bob", id, "second").await;
    bed.store
        .edit_message(&caller("alice"), first.id, "first, edited".into())
        .await
        .unwrap();
    let Delta::Changes {
        changes, complete, ..
    } = bed.store.changes(id, first.rev, soon()).await.unwrap()
    else {
        panic!("there are changes");
    };
    assert!(complete);
    let texts: Vec<&str> = changes
        .messages
        .iter()
        .map(|message| message.content.as_str())
        .collect();
    assert_eq!(texts, ["second", "first, edited"]);
    assert!(matches!(
        bed.store.changes(id, changes.rev, soon()).await.unwrap(),
        Delta::None
    ));
    assert!(matches!(
        bed.store
            .changes(id, Rev(changes.rev.0 + 1), soon())
            .await
            .unwrap(),
        Delta::Resync(_)
    ));
    let nothing: ConversationId = "00000000000000070000000000000009".parse().unwrap();
    assert!(bed.store.changes(nothing, Rev(0), soon()).await.is_err());
}

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<CommitEvent>>);

impl CommitListener for Told {
    fn committed(&self, events: Vec<CommitEvent>) {
        self.0.lock().unwrap().extend(events);
    }
}

/// Another process on the deployment, and what it is told.
pub(crate) async fn listening(bed: &Bed) -> (Arc<Store>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let listener = Arc::clone(&told) as Arc<dyn CommitListener>;
    let supervisor = Supervisor::default();
    let store = Store::open(&bed.settings, Arc::new(NoArchive), listener, &supervisor)
        .await
        .unwrap();
    (store, told)
}

async fn list_entries_are_told_with_revs_that_have_no_hole(bed: &Bed) {
    let (store, told) = listening(bed).await;
    let id = bed.group("alice", &["bob"]).await;
    bed.settle().await;
    for n in 0..5 {
        store
            .send(
                &caller("alice"),
                id,
                crate::bed::text(&format!("message {n}")),
            )
            .await
            .unwrap();
        store.mark_read(&caller("bob"), id, None).await.unwrap();
        store.relay_idle(soon()).await.unwrap();
    }
    let pin = ConversationPatch {
        pinned: Some(true),
        ..ConversationPatch::default()
    };
    store
        .update_conversation(&caller("bob"), id, pin)
        .await
        .unwrap();
    store.relay_idle(soon()).await.unwrap();
    // The other process may have relayed some of it.
    let entries = store
        .list_changes(&user("bob"), Rev(0), 100, soon())
        .await
        .unwrap();
    let revs = store
        .list_revs(&[user("alice"), user("bob"), user("nobody")], soon())
        .await;
    assert_eq!(revs[&user("bob")], entries.last().unwrap().0);
    assert_eq!(revs[&user("nobody")], Rev(0));
    let mut bobs: HashMap<Rev, ListEntry> = HashMap::new();
    for event in told.0.lock().unwrap().iter() {
        if let CommitEvent::ListChanged {
            user: whose,
            rev,
            entry,
        } = event
            && *whose == user("bob")
        {
            assert!(
                bobs.insert(*rev, entry.clone()).is_none(),
                "each rev is told once"
            );
        }
    }
    let newest = bobs.keys().max().unwrap();
    assert_eq!(newest, &revs[&user("bob")]);
    assert!(
        bobs[newest].pinned && bobs[newest].head_seq == Seq(5) && bobs[newest].unread_count == 0
    );
    assert_eq!(entries.last().unwrap().1, bobs[newest]);
    store.close(soon()).await;
}

async fn when_users_were_seen_last_moves_forward_only(bed: &Bed) {
    let names = ["alice", "bob", "carol", "nobody"].map(user);
    let seen = |at: i64| {
        names[..3]
            .iter()
            .map(|name| (name.clone(), Timestamp(at)))
            .collect::<Vec<_>>()
    };
    bed.store.save_last_seen(&seen(2000), soon()).await.unwrap();
    bed.store
        .save_last_seen(&seen(1000)[..2], soon())
        .await
        .unwrap();
    let last = bed.store.last_seen(&names, soon()).await;
    assert_eq!(last.len(), 3);
    assert!(last.values().all(|at| *at == Timestamp(2000)));
    bed.store
        .save_last_seen(&seen(3000)[2..], soon())
        .await
        .unwrap();
    assert_eq!(
        bed.store.last_seen(&names, soon()).await[&names[2]],
        Timestamp(3000)
    );
}

async fn watermarks_are_told_from_where_to_where(bed: &Bed) {
    let (store, told) = listening(bed).await;
    let id = bed.group("alice", &["bob"]).await;
    for _ in 0..4 {
        store
            .send(&caller("alice"), id, crate::bed::text("hi"))
            .await
            .unwrap();
    }
    store
        .mark_delivered(&caller("bob"), id, Some(Seq(3)))
        .await
        .unwrap();
    store
        .mark_read(&caller("bob"), id, Some(Seq(2)))
        .await
        .unwrap();
    store
        .mark_read(&caller("bob"), id, Some(Seq(1)))
        .await
        .unwrap();
    let moved: Vec<((u64, u64), (u64, u64))> = told
        .0
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| match event {
            CommitEvent::WatermarksMoved {
                before, watermarks, ..
            } => Some((
                (before.0.0, before.1.0),
                (watermarks.read_seq.0, watermarks.delivered_seq.0),
            )),
            _ => None,
        })
        .collect();
    assert_eq!(moved, [((0, 0), (0, 3)), ((0, 3), (2, 3))]);
    store.close(soon()).await;
}
