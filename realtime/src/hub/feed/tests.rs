use backscroll_shard::ids::{ConversationId, UserKey};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::outbox::Item;

fn topic() -> Topic {
    Topic::Conversation(ConversationId::new(UserKey(1), 2))
}

fn change(rev: u64) -> Push {
    Push::change(PushKind::NewMessage, Rev(rev), &json!(rev))
}

fn feed(rev: u64) -> Feed {
    let mut feed = Feed::new(topic());
    assert!(feed.start_at(Rev(rev)));
    feed
}

/// Hands the feed `changes` from the log.
fn heal(feed: &mut Feed, changes: Vec<Push>, through: u64) -> Delivery {
    let mut delivery = feed.catch_up(changes, Rev(through));
    delivery += feed.deliver_early();
    delivery
}

async fn received(session: &Session) -> Vec<u64> {
    let mut items = Vec::new();
    if session.outbox.bytes() > 0 {
        session.outbox.next(&mut items, 10_000).await.unwrap();
    }
    let number = |item| match item {
        Item::Event(event) => event.data().parse().unwrap(),
        other => panic!("{other:?}"),
    };
    items.into_iter().map(number).collect()
}

#[tokio::test]
async fn early_changes_wait_for_those_before_them() {
    let mut feed = feed(5);
    let session = Session::test("alice");
    assert_eq!(feed.listen(&session, Rev(5), None), Ok(()));
    assert!(feed.take(change(7)).gap);
    assert!(feed.take(change(8)).gap);
    assert_eq!(received(&session).await, Vec::<u64>::new());
    assert!(!feed.take(change(6)).gap);
    assert_eq!(received(&session).await, [6, 7, 8]);
    feed.take(change(7));
    assert_eq!(
        received(&session).await,
        Vec::<u64>::new(),
        "delivered once"
    );
}

#[tokio::test]
async fn a_lost_change_is_healed_from_the_log() {
    let mut feed = feed(5);
    let session = Session::test("alice");
    feed.listen(&session, Rev(5), None).unwrap();
    feed.take(change(9));
    let delivery = heal(&mut feed, vec![change(7), change(8)], 8);
    assert_eq!((delivery.new_messages, delivery.gap), (3, false));
    assert_eq!(received(&session).await, [7, 8, 9]);
}

#[tokio::test]
async fn a_session_that_resumes_receives_all_recent_changes_or_none() {
    let mut feed = feed(5);
    for rev in 6..=8 {
        feed.take(change(rev));
    }
    let (early, late) = (Session::test("alice"), Session::test("bob"));
    assert_eq!(feed.listen(&early, Rev(4), None), Err(NotKept));
    assert_eq!(feed.listen(&late, Rev(6), None), Ok(()));
    assert_eq!(received(&late).await, [7, 8]);
    assert!(
        !feed.extend_back(Rev(3), &[change(4)], Rev(4)),
        "it would leave a hole"
    );
    assert!(feed.extend_back(Rev(3), &[change(4), change(5), change(6)], Rev(6)));
    assert_eq!(feed.bytes_since(Rev(3)), Some(5));
    assert_eq!(feed.listen(&early, Rev(4), None), Ok(()));
    assert_eq!(received(&early).await, [5, 6, 7, 8]);
}

#[tokio::test]
async fn a_session_ahead_of_the_node_receives_no_change_twice() {
    let mut feed = feed(5);
    let session = Session::test("alice");
    feed.listen(&session, Rev(7), None).unwrap();
    for rev in 6..=8 {
        feed.take(change(rev));
    }
    assert_eq!(received(&session).await, [8]);
}

#[tokio::test]
async fn a_former_member_receives_no_more_changes() {
    let mut feed = feed(5);
    let (alice, bob) = (Session::test("alice"), Session::test("bob"));
    for session in [&alice, &bob] {
        assert!(session.record_join(ConversationId::new(UserKey(1), 2)));
        feed.listen(session, Rev(5), None).unwrap();
    }
    feed.take(change(7));
    let left = Push::change(
        PushKind::ConversationChanged,
        Rev(6),
        &Left::One(bob.user.clone()),
    );
    let delivery = feed.take(left);
    assert!(!delivery.gap && !delivery.members_unknown, "{delivery:?}");
    assert_eq!(received(&alice).await, [7]);
    let mut items = Vec::new();
    bob.outbox.next(&mut items, 10).await.unwrap();
    let [Item::Event(event)] = &items[..] else {
        panic!("{items:?}");
    };
    assert_eq!(event.name(), "left_conversation");
    assert!(!bob.has_joined(ConversationId::new(UserKey(1), 2)));
    let deleted = Push::change(PushKind::ConversationChanged, Rev(8), &Left::Everybody);
    feed.take(deleted);
    assert!(feed.is_unused());
}

#[test]
fn early_and_recent_changes_are_bounded() {
    let mut feed = feed(0);
    for rev in 1..=2000 {
        feed.take(change(rev));
    }
    assert_eq!(feed.recent.len(), CHANGES_MAX);
    assert_eq!(feed.recent.after(), Rev(2000 - CHANGES_MAX as u64));
    for rev in 3000..6000 {
        feed.take(change(rev));
    }
    assert_eq!(feed.early.len(), CHANGES_MAX);
}

proptest! {
    /// Whatever is lost, doubled or late: when the log is read wherever the feed reports a gap, a session ends with all
    /// of it.
    #[test]
    fn a_session_receives_every_change_once_in_order(
        revs in proptest::collection::vec(1..60u64, 0..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut feed = feed(0);
        let session = Session::test("alice");
        feed.listen(&session, Rev(0), None).unwrap();
        let mut newest = 0;
        for rev in revs {
            newest = newest.max(rev);
            if feed.take(change(rev)).gap && rev % 3 == 0 {
                let from = feed.rev().unwrap().0 + 1;
                heal(&mut feed, (from..=newest).map(change).collect(), newest);
            }
        }
        let from = feed.rev().unwrap().0 + 1;
        heal(&mut feed, (from..=newest).map(change).collect(), newest);
        let received = runtime.block_on(received(&session));
        prop_assert_eq!(received, (1..=newest).collect::<Vec<_>>());
    }
}
