//! The bus of a single node.
//!
//! Subscriptions are kept in a fixed number of parts by topic, so that publishers to different topics rarely meet. The
//! lock of a part is held while its subscribers' queues are filled, which never waits; so all who listen to a topic get
//! its pushes in one order. A listener that was dropped is forgotten when its topic is next published to or subscribed
//! to, and at the latest by the sweep that every 256th subscription of a part makes.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::bus::{Bus, BusUnavailable, Listener, Mailbox};
use crate::push::{Push, Topic};

/// Into how many parts the subscriptions are divided.
const PARTS: usize = 64;

/// After how many subscriptions a part forgets the listeners that are gone.
const SWEEP_EVERY: usize = 256;

/// A bus whose publishers and listeners are all in this process.
#[derive(Debug, Default)]
pub struct InProcessBus {
    parts: Parts,
    hasher: RandomState,
}

#[derive(Debug)]
struct Parts(Vec<Mutex<Part>>);

impl Default for Parts {
    fn default() -> Self {
        Self((0..PARTS).map(|_| Mutex::default()).collect())
    }
}

#[derive(Debug, Default)]
struct Part {
    topics: HashMap<Topic, Vec<Mailbox>>,
    subscribed: usize,
}

impl Part {
    fn forget_the_gone(&mut self) {
        self.topics.retain(|_, mailboxes| {
            mailboxes.retain(|mailbox| !mailbox.is_closed());
            !mailboxes.is_empty()
        });
    }
}

impl InProcessBus {
    /// A bus without listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn part(&self, topic: &Topic) -> MutexGuard<'_, Part> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any bits of the hash will do"
        )]
        let position = self.hasher.hash_one(topic) as usize % PARTS;
        // Nothing in here panics half-way through a change.
        self.parts.0[position]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Bus for InProcessBus {
    fn publish(&self, topic: &Topic, push: &Push) {
        let mut part = self.part(topic);
        let Some(mailboxes) = part.topics.get_mut(topic) else {
            return;
        };
        mailboxes.retain(|mailbox| mailbox.put(push.clone()));
        if mailboxes.is_empty() {
            part.topics.remove(topic);
        }
    }

    fn may_be_heard(&self, topic: &Topic) -> bool {
        self.part(topic).topics.contains_key(topic)
    }

    async fn subscribe(&self, listener: &Listener, topic: Topic) -> Result<(), BusUnavailable> {
        let mut part = self.part(&topic);
        part.subscribed += 1;
        if part.subscribed.is_multiple_of(SWEEP_EVERY) {
            part.forget_the_gone();
        }
        let mailboxes = part.topics.entry(topic).or_default();
        mailboxes.retain(|mailbox| !mailbox.is_closed());
        if !mailboxes.iter().any(|mailbox| mailbox.is_of(listener)) {
            mailboxes.push(listener.mailbox());
        }
        Ok(())
    }

    async fn unsubscribe(&self, listener: &Listener, topic: &Topic) {
        let mut part = self.part(topic);
        let Some(mailboxes) = part.topics.get_mut(topic) else {
            return;
        };
        mailboxes.retain(|mailbox| !mailbox.is_closed() && !mailbox.is_of(listener));
        if mailboxes.is_empty() {
            part.topics.remove(topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use backscroll_shard::ids::{ConversationId, UserId, UserKey};

    use super::*;
    use crate::bus::Delivery;
    use crate::push::PushKind;

    fn conversation(low: u64) -> ConversationId {
        ConversationId::new(UserKey(7), low)
    }

    fn topic(low: u64) -> Topic {
        Topic::Conversation(conversation(low))
    }

    fn push(number: u64) -> Push {
        Push::new(PushKind::NewMessage, conversation(1), &number)
    }

    async fn next(listener: &Listener) -> Delivery {
        tokio::time::timeout(Duration::from_secs(5), listener.next())
            .await
            .expect("a delivery")
    }

    async fn number(listener: &Listener) -> u64 {
        match next(listener).await {
            Delivery::Push(push) => push.data().parse().unwrap(),
            Delivery::Lagged(lost) => panic!("lagged by {lost}"),
        }
    }

    async fn is_silent(listener: &Listener) -> bool {
        tokio::time::timeout(Duration::from_millis(20), listener.next())
            .await
            .is_err()
    }

    #[tokio::test]
    async fn who_listens_hears_its_topics_and_no_others() {
        let bus = InProcessBus::new();
        let (one, both) = (Listener::new(8), Listener::new(8));
        let user = Topic::User(UserId::new("alice").unwrap());
        bus.subscribe(&one, topic(1)).await.unwrap();
        bus.subscribe(&both, topic(1)).await.unwrap();
        bus.subscribe(&both, topic(1)).await.unwrap();
        bus.subscribe(&both, user.clone()).await.unwrap();
        assert!(bus.may_be_heard(&user) && !bus.may_be_heard(&topic(2)));

        bus.publish(&topic(1), &push(1));
        bus.publish(&topic(2), &push(2));
        bus.publish(&user, &push(3));
        assert_eq!(number(&one).await, 1);
        assert_eq!((number(&both).await, number(&both).await), (1, 3));
        assert!(is_silent(&one).await && is_silent(&both).await);

        bus.unsubscribe(&both, &topic(1)).await;
        bus.publish(&topic(1), &push(4));
        assert_eq!(number(&one).await, 4);
        assert!(is_silent(&both).await);
    }

    #[tokio::test]
    async fn all_who_are_told_share_one_text() {
        let bus = InProcessBus::new();
        let (one, other) = (Listener::new(8), Listener::new(8));
        bus.subscribe(&one, topic(1)).await.unwrap();
        bus.subscribe(&other, topic(1)).await.unwrap();
        bus.publish(&topic(1), &push(1));
        let (Delivery::Push(one), Delivery::Push(other)) = (next(&one).await, next(&other).await)
        else {
            panic!("lagged")
        };
        assert!(std::ptr::eq(one.data(), other.data()));
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_that_it_lagged_and_holds_up_nobody() {
        let bus = InProcessBus::new();
        let (slow, quick) = (Listener::new(2), Listener::new(100));
        bus.subscribe(&slow, topic(1)).await.unwrap();
        bus.subscribe(&quick, topic(1)).await.unwrap();
        (1..=10).for_each(|n| bus.publish(&topic(1), &push(n)));

        for n in 1..=10 {
            assert_eq!(number(&quick).await, n);
        }
        assert!(matches!(next(&slow).await, Delivery::Lagged(8)));
        assert_eq!((number(&slow).await, number(&slow).await), (1, 2));
        bus.publish(&topic(1), &push(11));
        assert_eq!(number(&slow).await, 11);
        assert!(is_silent(&slow).await);
    }

    #[tokio::test]
    async fn a_listener_that_is_gone_is_forgotten() {
        let bus = InProcessBus::new();
        let gone = Listener::new(1);
        for low in 0..10 {
            bus.subscribe(&gone, topic(low)).await.unwrap();
        }
        drop(gone);
        bus.publish(&topic(0), &push(1));
        assert!(!bus.may_be_heard(&topic(0)));

        let stays = Listener::new(1);
        for low in 0..u64::try_from(2 * PARTS * SWEEP_EVERY).unwrap() {
            bus.subscribe(&stays, topic(100 + low)).await.unwrap();
        }
        assert!((1..10).all(|low| !bus.may_be_heard(&topic(low))));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nothing_is_lost_unseen_and_order_holds_whoever_races() {
        const PUSHES: u64 = 20_000;
        let bus = Arc::new(InProcessBus::new());
        let listener = Listener::new(16);
        bus.subscribe(&listener, topic(1)).await.unwrap();
        let publishing = std::thread::spawn({
            let bus = Arc::clone(&bus);
            move || (1..=PUSHES).for_each(|n| bus.publish(&topic(1), &push(n)))
        });
        let (mut seen, mut last) = (0, 0);
        while seen < PUSHES {
            match next(&listener).await {
                Delivery::Lagged(lost) => seen += lost,
                Delivery::Push(push) => {
                    let n: u64 = push.data().parse().unwrap();
                    assert!(n > last, "{n} after {last}");
                    (seen, last) = (seen + 1, n);
                }
            }
        }
        publishing.join().unwrap();
        assert_eq!(seen, PUSHES);
        assert!(is_silent(&listener).await);
    }
}
