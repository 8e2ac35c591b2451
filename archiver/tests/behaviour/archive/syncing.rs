//! A sync in pages never tells an archived copy of a message that was changed since (INV-COPY): the page with the change
//! tells the message, and the pages before it do not.

use std::collections::BTreeMap;
use std::time::Instant;

use backscroll_archiver::tier::Tier;
use backscroll_shard::history;
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::model::{ConversationChanges, Message, NewMessage, SyncRequest};
use backscroll_shard::sync::{self, Delta, SyncRoom};

use super::bed::{Backend, Bed, PATIENCE, caller, on_both, user};

on_both!(
    pages_before_a_change_do_not_tell_the_archived_copy,
    a_change_after_the_rev_was_read_hides_the_archived_copy,
);

/// More messages than a page has room for.
const BETWEEN: usize = sync::MESSAGES_MAX + 100;

/// Archived messages become hot by a change each, which comes more than a page after the rev of the client.
async fn pages_before_a_change_do_not_tell_the_archived_copy(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    bed.edit(id, 40, "archived twice").await;
    bed.run().await;
    let since = bed.walk(id).await[19].rev;
    send_many(&bed, id).await;
    bed.edit(id, 40, "anew").await;
    bed.delete(id, 50).await;
    bed.react(id, 55).await;
    bed.edit(id, 10, "known to the client").await;

    let log = bed.walk(id).await;
    let due = log.into_iter().filter(|message| message.rev > since);
    let due: BTreeMap<Seq, Message> = due.map(|message| (message.seq, message)).collect();
    let mut told = BTreeMap::new();
    let mut rev = since;
    loop {
        let (changes, has_more) = page(&bed, id, rev).await;
        rev = changes.rev;
        for message in changes.messages {
            assert_eq!(message.thread.is_some(), message.reply_to.is_some());
            let message = Message {
                thread: None, // told with changes only
                ..message
            };
            assert_eq!(due.get(&message.seq), Some(&message));
            told.insert(message.seq, message);
        }
        if !has_more {
            break;
        }
    }
    assert_eq!(told, due);
    bed.close().await;
}

/// Messages become hot after a sync has read up to which rev it tells.
async fn a_change_after_the_rev_was_read_hides_the_archived_copy(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let since = bed.walk(id).await[39].rev;

    let (map, shard) = (bed.store.map(), bed.shard(id));
    let deadline = Instant::now() + PATIENCE;
    let reader = (id, &user("alice"));
    let assignment = map.locate(id.owner_key());
    let access = history::access(&shard, assignment, reader, deadline).await;
    bed.edit(id, 42, "anew").await;
    bed.delete(id, 50).await;
    let cold = Tier::new(bed.objects.clone(), &bed.archive_settings);
    let room = SyncRoom {
        messages: sync::MESSAGES_MAX,
        bytes: usize::MAX,
        begun: false,
    };
    let (rows, access) = access.unwrap();
    let delta = sync::delta(
        rows,
        (&shard, assignment, &cold),
        id,
        access,
        since,
        (room, 5000),
        deadline,
    )
    .await;
    let Delta::Changes {
        changes, complete, ..
    } = delta.unwrap()
    else {
        panic!("there is something to tell");
    };
    assert!(complete, "up to the rev that was read");
    let told: Vec<u64> = changes.messages.iter().map(|it| it.seq.0).collect();
    let unchanged = (41..=60).filter(|seq| ![42, 50].contains(seq));
    assert_eq!(told, unchanged.collect::<Vec<u64>>());

    let (changes, _) = page(&bed, id, changes.rev).await;
    let told = changes.messages.iter();
    let told: Vec<(u64, &str)> = told.map(|it| (it.seq.0, it.content.as_str())).collect();
    assert_eq!(told, [(42, "anew"), (50, "")]);
    bed.close().await;
}

async fn send_many(bed: &Bed, id: ConversationId) {
    let draft = |n: usize| NewMessage {
        content: format!("between {n}"),
        ..NewMessage::default()
    };
    let messages = (0..BETWEEN).map(draft).collect();
    for sent in bed.store.send_all(&caller("alice"), id, messages).await {
        sent.unwrap();
    }
}

/// The changes of a conversation since `rev` that fit a page, and whether there are more.
async fn page(bed: &Bed, id: ConversationId, rev: Rev) -> (ConversationChanges, bool) {
    let request = SyncRequest {
        cursor: Some(bed.cursor().await), // nothing of the list
        conversations: [(id, rev)].into(),
    };
    let mut page = bed.store.sync(&caller("alice"), request).await.unwrap();
    assert_eq!(page.resync, []);
    (page.changes.remove(0), page.has_more)
}
