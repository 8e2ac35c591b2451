//! Threads: what messages show of their replies, who is told, and what it costs. Both tiers are tested with the archive.

use std::collections::BTreeMap;

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, MessageId, Rev, Seq};
use backscroll_shard::model::{Message, NewMessage, Position, SyncRequest, Thread};
use backscroll_shard::settings::{Span, StoreSettings};

use crate::bed::{Bed, caller, text, text_as};

crate::on_every_backend!(with quiet:
    replies_are_counted_and_listed,
    a_repeated_reply_counts_once,
    only_replies_cost_statements,
    who_follows_the_changes_has_the_numbers,
);

/// Nothing runs beside the calls whose statements are counted.
fn quiet(settings: &mut StoreSettings) {
    settings.relay.max_members = 2;
    settings.relay.sweep_interval = Span::secs(3600);
    settings.directory.refresh_interval = Span::secs(3600);
}

fn reply_to(root: MessageId, content: &str) -> NewMessage {
    NewMessage {
        reply_to: Some(root),
        ..text(content)
    }
}

async fn answer(bed: &Bed, name: &str, root: MessageId) -> Message {
    let reply = reply_to(root, "a reply");
    let sent = bed
        .store
        .send(&caller(name), root.conversation, reply)
        .await;
    sent.unwrap().message
}

/// What a page and the message itself show of the replies of a message.
async fn shown(bed: &Bed, root: MessageId) -> Thread {
    let position = Position::Around(root.seq);
    let page = bed.page("bob", root.conversation, position, 3).await;
    let message = page.messages.iter().find(|message| message.id == root);
    let of = |message: &Message| Thread {
        reply_count: message.reply_count,
        last_reply_at: message.last_reply_at,
    };
    let single = bed.store.message(&caller("bob"), root).await.unwrap();
    assert_eq!(message.map(of), Some(of(&single)));
    of(&single)
}

async fn replies_are_counted_and_listed(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol"]).await;
    let root = bed.say("alice", id, "a question").await;
    let other = bed.say("bob", id, "something else").await;
    assert_eq!(shown(bed, root.id).await, Thread::default());
    let mut replies = Vec::new();
    for n in 0..5 {
        let reply = answer(bed, ["bob", "carol"][n % 2], root.id).await;
        let thread = Thread {
            reply_count: n as u64 + 1,
            last_reply_at: Some(reply.created_at),
        };
        assert_eq!(reply.thread, Some(thread));
        assert_eq!(shown(bed, root.id).await, thread);
        replies.push(reply);
    }
    assert_eq!(shown(bed, other.id).await, Thread::default());
    let alice = caller("alice");
    let page = bed.store.replies(&alice, root.id, None, 2).await.unwrap();
    let seqs = |page: &[Message]| page.iter().map(|it| it.seq).collect::<Vec<_>>();
    assert_eq!(seqs(&page.messages), [replies[0].seq, replies[1].seq]);
    let cursor = page.next_cursor.unwrap();
    let page = bed.store.replies(&alice, root.id, Some(&cursor), 9).await;
    let page = page.unwrap();
    assert_eq!(
        seqs(&page.messages),
        [replies[2].seq, replies[3].seq, replies[4].seq]
    );
    assert_eq!(page.next_cursor, None);

    // A deleted reply neither counts nor is listed; nor is the newest one still the newest.
    let deleted = bed.store.delete_message(&alice, replies[4].id).await;
    let thread = Thread {
        reply_count: 4,
        last_reply_at: Some(replies[3].created_at),
    };
    assert_eq!(deleted.unwrap().thread, Some(thread));
    assert_eq!(shown(bed, root.id).await, thread);
    // A deleted message keeps its replies, and changes tell their number.
    let reacted = bed.store.react(&alice, root.id, "👍").await.unwrap();
    assert_eq!(reacted.reply_count, 4);
    let deleted = bed.store.delete_message(&alice, root.id).await.unwrap();
    assert_eq!(deleted.reply_count, 4);
    for reply in &replies[..4] {
        bed.store.delete_message(&alice, reply.id).await.unwrap();
    }
    assert_eq!(shown(bed, root.id).await, Thread::default());
    let page = bed.store.replies(&alice, root.id, None, 9).await.unwrap();
    assert!(page.messages.is_empty());
    let stranger = bed.store.replies(&caller("eve"), root.id, None, 9).await;
    assert!(matches!(stranger, Err(Error::NotMember)), "{stranger:?}");
}

async fn a_repeated_reply_counts_once(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let root = bed.say("alice", id, "a question").await;
    let reply = NewMessage {
        reply_to: Some(root.id),
        ..text_as("one", "an answer")
    };
    let bob = caller("bob");
    let first = bed.store.send(&bob, id, reply.clone()).await.unwrap();
    let again = bed.store.send(&bob, id, reply.clone()).await.unwrap();
    assert!(first.created && !again.created);
    assert_eq!(first.message, again.message);
    answer(bed, "alice", first.message.id).await;
    let again = bed.store.send(&bob, id, reply).await.unwrap();
    assert_eq!(again.message.reply_count, 1, "as it is now");
    assert_eq!(shown(bed, root.id).await.reply_count, 1);
}

fn statements(bed: &Bed) -> u64 {
    let shards = bed.store.router().shards();
    shards.map(|shard| shard.statements().all).sum()
}

async fn only_replies_cost_statements(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol"]).await;
    bed.say("alice", id, "the membership is known").await;
    let send = async || {
        let before = statements(bed);
        let message = bed.say("alice", id, "plain").await;
        (message, statements(bed) - before)
    };
    let (root, plain) = send().await;
    let before = statements(bed);
    answer(bed, "alice", root.id).await;
    assert_eq!(statements(bed) - before, plain + 3);
    let (_, later) = send().await;
    assert_eq!(later, plain, "in a conversation with threads as well");
    let before = statements(bed);
    bed.page("alice", id, Position::Latest, 50).await;
    assert_eq!(statements(bed) - before, 4);
}

/// A client that keeps what it was told: a reply tells the thread that it is in.
#[derive(Default)]
struct Follower {
    rev: Rev,
    log: BTreeMap<Seq, Message>,
}

impl Follower {
    async fn catch_up(&mut self, bed: &Bed, id: ConversationId) {
        let request = SyncRequest {
            cursor: None,
            conversations: [(id, self.rev)].into(),
        };
        let page = bed.store.sync(&caller("bob"), request).await.unwrap();
        for change in page.changes {
            for message in change.messages {
                let thread = message.reply_to.zip(message.thread);
                self.log.insert(message.seq, message);
                if let Some((root, thread)) = thread
                    && let Some(root) = self.log.get_mut(&root.seq)
                {
                    root.reply_count = thread.reply_count;
                    root.last_reply_at = thread.last_reply_at;
                }
            }
            self.rev = change.rev;
        }
    }
}

/// Sends, replies, edits and deletions in an order of chance: a client that follows the changes has at any time what the log
/// shows, and that is what a recount gives.
async fn who_follows_the_changes_has_the_numbers(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol"]).await;
    let mut random = 5_u64;
    let mut below = |bound: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut follower = Follower::default();
    let mut head = bed.say("alice", id, "the first").await.seq.0;
    let mut counted = 0;
    for step in 0..120 {
        let target = MessageId {
            conversation: id,
            seq: Seq(1 + below(head)),
        };
        let alice = caller("alice");
        match below(8) {
            0 => head = bed.say("alice", id, "plain").await.seq.0,
            1..=4 => head = answer(bed, "alice", target).await.seq.0,
            5 => drop(bed.store.delete_message(&alice, target).await),
            6 => drop(
                bed.store
                    .edit_message(&alice, target, step.to_string())
                    .await,
            ),
            _ => drop(bed.store.react(&alice, target, "👍").await),
        }
        if below(3) == 0 {
            continue;
        }
        follower.catch_up(bed, id).await;
        let mut log = bed.log("bob", id).await;
        for message in &mut log {
            let replies = |it: &&Message| it.reply_to == Some(message.id);
            let known = follower.log.values().filter(replies);
            let alive = known.filter(|reply| reply.deleted_at.is_none());
            assert_eq!(message.reply_count, alive.count() as u64);
            counted += message.reply_count;
        }
        let told = follower.log.values().cloned().map(|message| Message {
            thread: None,
            ..message
        });
        assert!(told.eq(log), "step {step}");
    }
    assert!(counted > 100, "{counted}");
}
