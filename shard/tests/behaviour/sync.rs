//! What changed since, by cursor and revs.

use std::collections::BTreeMap;

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::model::{Message, NewMembers, Position, Role, SyncRequest};
use backscroll_shard::sync::CHANGED_MAX;
use rand::RngExt;

use crate::bed::{Bed, caller, text, user};

crate::on_every_backend!(
    a_client_that_was_away_catches_up_in_one_go,
    a_client_that_syncs_now_and_then_ends_with_the_log,
    a_page_tells_the_changes_of_some_conversations,
    too_far_behind_is_told_to_resync,
    long_absences_come_in_pages,
    leaving_is_told,
    a_position_of_the_future_is_as_good_as_none,
    who_joins_and_writes_has_read,
);

/// A client that keeps everything it is told.
#[derive(Default)]
struct Client {
    cursor: Option<String>,
    revs: BTreeMap<ConversationId, Rev>,
    logs: BTreeMap<ConversationId, BTreeMap<Seq, Message>>,
}

impl Client {
    /// Syncs until there is nothing more; gives how many pages that took.
    async fn catch_up(&mut self, bed: &Bed, name: &str) -> usize {
        for pages in 1..100 {
            let request = SyncRequest {
                cursor: self.cursor.clone(),
                conversations: self.revs.clone(),
            };
            let page = bed.store.sync(&caller(name), request).await.unwrap();
            for change in page.changes {
                let log = self.logs.entry(change.conversation_id).or_default();
                for message in change.messages {
                    log.insert(message.seq, message);
                }
                if change
                    .conversation
                    .as_ref()
                    .is_none_or(|entry| !entry.removed)
                {
                    let known = self.revs.contains_key(&change.conversation_id);
                    self.revs.insert(
                        change.conversation_id,
                        if known { change.rev } else { Rev(0) },
                    );
                }
            }
            assert!(page.resync.is_empty());
            let unknown_before = self.revs.values().any(|rev| *rev == Rev(0));
            self.cursor = Some(page.cursor);
            if !page.has_more && !unknown_before {
                return pages;
            }
        }
        panic!("sync does not end")
    }
}

async fn a_client_that_was_away_catches_up_in_one_go(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let quiet = bed.group("alice", &["bob"]).await;
    let kept = bed.say("alice", id, "kept").await;
    let edited = bed.say("alice", id, "to be edited").await;
    let deleted = bed.say("alice", id, "to be deleted").await;
    bed.settle().await;
    let mut bob = Client::default();
    bob.catch_up(bed, "bob").await;
    assert_eq!(bob.logs[&id].len(), 3);
    let cursor = bob.cursor.clone();

    bed.store
        .edit_message(&caller("alice"), edited.id, "edited".into())
        .await
        .unwrap();
    bed.store
        .delete_message(&caller("alice"), deleted.id)
        .await
        .unwrap();
    bed.store
        .react(&caller("alice"), kept.id, "👍")
        .await
        .unwrap();
    let fresh = bed.say("alice", id, "new").await;
    bed.settle().await;
    let request = SyncRequest {
        cursor,
        conversations: bob.revs.clone(),
    };
    let page = bed.store.sync(&caller("bob"), request).await.unwrap();
    assert!(!page.has_more);
    let [change] = &page.changes[..] else {
        panic!("one conversation changed, not {:?}", page.changes)
    };
    assert_eq!(change.conversation_id, id);
    assert_eq!(change.conversation.as_ref().unwrap().head_seq, fresh.seq);
    let told: Vec<Seq> = change.messages.iter().map(|message| message.seq).collect();
    assert_eq!(
        told,
        [edited.seq, deleted.seq, kept.seq, fresh.seq],
        "each once, in the order of its change"
    );
    bob.catch_up(bed, "bob").await;
    assert_eq!(
        bob.logs[&id].values().cloned().collect::<Vec<_>>(),
        bed.log("bob", id).await
    );
    assert!(bob.logs[&quiet].is_empty());
    let nothing = SyncRequest {
        cursor: bob.cursor,
        conversations: bob.revs,
    };
    assert!(
        bed.store
            .sync(&caller("bob"), nothing)
            .await
            .unwrap()
            .changes
            .is_empty()
    );
}

async fn who_joins_and_writes_has_read(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "before").await;
    bed.settle().await;
    let mut bob = Client::default();
    bob.catch_up(bed, "bob").await;
    let add = NewMembers {
        members: vec![user("carol"), user("dave")],
        role: Role::Member,
    };
    bed.store
        .add_members(&caller("alice"), id, add)
        .await
        .unwrap();
    let hello = bed.say("carol", id, "hello").await;
    bed.settle().await;
    let request = SyncRequest {
        cursor: bob.cursor,
        conversations: bob.revs,
    };
    let page = bed.store.sync(&caller("bob"), request).await.unwrap();
    let told: BTreeMap<&str, Seq> = page.changes[0]
        .members
        .iter()
        .map(|member| (member.user_id.as_str(), member.read_seq))
        .collect();
    assert_eq!(told.get("carol"), Some(&hello.seq), "{told:?}");
    assert!(told["dave"] < hello.seq, "{told:?}");
}

/// INV-PUSH from the store's side: whatever happens between, and whenever it asks, the client ends with exactly the log.
async fn a_client_that_syncs_now_and_then_ends_with_the_log(bed: &Bed) {
    let mut conversations = Vec::new();
    for n in 0..3 {
        conversations.push(bed.group("alice", &["bob", &format!("c{n}")]).await);
    }
    let mut bob = Client::default();
    let mut sent: Vec<Message> = Vec::new();
    for step in 0..120 {
        let dice: u32 = rand::rng().random_range(0..10);
        let any = |sent: &[Message]| sent[rand::rng().random_range(0..sent.len())].id;
        match dice {
            0..=4 => sent.push(
                bed.say("alice", conversations[step % 3], &format!("message {step}"))
                    .await,
            ),
            5 if !sent.is_empty() => {
                let _ = bed
                    .store
                    .edit_message(&caller("alice"), any(&sent), format!("edit {step}"))
                    .await;
            }
            6 if !sent.is_empty() => {
                let _ = bed.store.delete_message(&caller("alice"), any(&sent)).await;
            }
            7 if !sent.is_empty() => {
                let _ = bed.store.react(&caller("bob"), any(&sent), "🎉").await;
            }
            8 => {
                bob.catch_up(bed, "bob").await;
            }
            _ => {
                bed.store
                    .send(&caller("bob"), conversations[step % 3], text("me too"))
                    .await
                    .unwrap();
            }
        }
    }
    bed.settle().await;
    bob.catch_up(bed, "bob").await;
    for id in conversations {
        let mine: Vec<Message> = bob.logs[&id].values().cloned().collect();
        let mut log = bed.log("bob", id).await;
        // How far a message has come is a watermark, which takes no rev and is told by itself.
        for (message, mine) in log.iter_mut().zip(&mine) {
            message.status = mine.status;
        }
        assert_eq!(mine, log);
    }
}

async fn a_page_tells_the_changes_of_some_conversations(bed: &Bed) {
    let mut known = BTreeMap::new();
    for n in 0..CHANGED_MAX + 3 {
        let id = bed.group("alice", &["bob"]).await;
        let before = bed.page("bob", id, Position::Latest, 1).await.rev;
        known.insert(id, before);
        bed.say("alice", id, &n.to_string()).await;
    }
    let mut seen = BTreeMap::new();
    let mut sizes = Vec::new();
    loop {
        let ask = SyncRequest {
            cursor: None,
            conversations: known.clone(),
        };
        let page = bed.store.sync(&caller("bob"), ask).await.unwrap();
        let changes = page.changes.into_iter();
        let told: Vec<_> = changes.filter(|it| !it.messages.is_empty()).collect();
        sizes.push(told.len());
        for changes in told {
            known.insert(changes.conversation_id, changes.rev);
            let again = seen.insert(changes.conversation_id, changes.messages.len());
            assert_eq!(again, None, "told once");
        }
        if !page.has_more {
            break;
        }
    }
    assert_eq!(sizes, [CHANGED_MAX, 3]);
    assert!(seen.len() == known.len() && seen.values().all(|messages| *messages == 1));
}

async fn too_far_behind_is_told_to_resync(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let mut settings = bed.settings.clone();
    settings.limits.sync_changes = 10;
    let store = Bed::another(&settings).await;
    for n in 0..20 {
        bed.say("alice", id, &n.to_string()).await;
    }
    let ask = |rev| SyncRequest {
        cursor: None,
        conversations: BTreeMap::from([(id, Rev(rev))]),
    };
    let far = store.sync(&caller("bob"), ask(1)).await.unwrap();
    assert_eq!(
        far.resync
            .iter()
            .map(|head| (head.conversation_id, head.head_seq))
            .collect::<Vec<_>>(),
        [(id, Seq(20))]
    );
    let near = store.sync(&caller("bob"), ask(15)).await.unwrap();
    assert!(near.resync.is_empty());
    let from_the_future = store.sync(&caller("bob"), ask(9999)).await.unwrap();
    assert_eq!(
        from_the_future.resync.len(),
        1,
        "a rev that was never given out"
    );
    store
        .close(std::time::Instant::now() + crate::bed::PATIENCE)
        .await;
}

async fn long_absences_come_in_pages(bed: &Bed) {
    let mut conversations = Vec::new();
    for n in 0..105 {
        conversations.push(bed.group("alice", &["bob", &format!("c{n}")]).await);
    }
    let sends = (0..1200).map(|n| bed.say("alice", conversations[n % 2], "word"));
    let mut sends =
        futures_util::stream::StreamExt::buffer_unordered(futures_util::stream::iter(sends), 100);
    while futures_util::StreamExt::next(&mut sends).await.is_some() {}
    drop(sends);
    bed.settle().await;
    let mut bob = Client::default();
    let pages = bob.catch_up(bed, "bob").await;
    assert!(pages > 2, "{pages} pages");
    assert_eq!(bob.logs.len(), 105);
    for id in &conversations[..2] {
        assert_eq!(bob.logs[id].len(), 600);
    }
    let foreign = SyncRequest {
        cursor: Some("abc".into()),
        conversations: BTreeMap::new(),
    };
    assert!(matches!(
        bed.store.sync(&caller("bob"), foreign).await,
        Err(Error::Invalid(_))
    ));
}

async fn leaving_is_told(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol"]).await;
    bed.settle().await;
    let first = bed
        .store
        .sync(&caller("bob"), SyncRequest::default())
        .await
        .unwrap();
    let rev = first.changes[0].rev;
    bed.store
        .remove_member(&caller("alice"), id, &user("carol"))
        .await
        .unwrap();
    let add = NewMembers {
        members: vec![user("dave")],
        role: Role::Member,
    };
    bed.store
        .add_members(&caller("alice"), id, add)
        .await
        .unwrap();
    let ask = SyncRequest {
        cursor: Some(first.cursor),
        conversations: BTreeMap::from([(id, rev)]),
    };
    let page = bed.store.sync(&caller("bob"), ask.clone()).await.unwrap();
    let members: Vec<(&str, bool)> = page.changes[0]
        .members
        .iter()
        .map(|m| (m.user_id.as_str(), m.removed))
        .collect();
    assert_eq!(members, [("carol", true), ("dave", false)]);
    bed.store
        .remove_member(&caller("alice"), id, &user("bob"))
        .await
        .unwrap();
    let page = bed.store.sync(&caller("bob"), ask).await.unwrap();
    assert!(page.changes[0].conversation.as_ref().unwrap().removed);
    assert!(
        page.changes[0].messages.is_empty() && page.changes[0].members.is_empty(),
        "nothing more is told to who was removed"
    );
    bed.say("alice", id, "about bob").await;
    bed.settle().await;
    let ask = SyncRequest {
        cursor: Some("0".into()),
        conversations: BTreeMap::new(),
    };
    let later = bed.store.sync(&caller("bob"), ask).await.unwrap();
    assert_eq!(later.cursor, page.cursor, "not even that something happens");
    let entry = later.changes[0].conversation.as_ref().unwrap();
    assert!(entry.removed && entry.last_message.is_none(), "{entry:?}");
}

/// As clients have it after a database was brought back from a backup.
async fn a_position_of_the_future_is_as_good_as_none(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "hello").await;
    bed.settle().await;
    let sync = async |cursor: Option<&str>, rev: Option<u64>| {
        let request = SyncRequest {
            cursor: cursor.map(str::to_owned),
            conversations: rev.map(|rev| (id, Rev(rev))).into_iter().collect(),
        };
        bed.store.sync(&caller("bob"), request).await.unwrap()
    };
    let first = sync(None, None).await;
    let ahead = sync(Some("1000000"), Some(1_000_000)).await;
    assert_eq!(ahead.changes.len(), 1);
    assert_eq!(ahead.changes[0].conversation, first.changes[0].conversation);
    assert_eq!(ahead.cursor, first.cursor);
    assert_eq!(
        (ahead.resync.len(), ahead.resync[0].conversation_id),
        (1, id)
    );
    let current = sync(Some(&first.cursor), None).await;
    assert!(current.changes.is_empty() && current.cursor == first.cursor);
}
