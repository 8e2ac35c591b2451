//! One connection of one user, whatever its door.
//!
//! Commands go in by [`Gateway::command`](crate::gateway::Gateway::command), one after the other; what the client is told waits in
//! the session's bounded queue ([`Outbox`]), which its door empties. The state here is what one connection may hold: it
//! is small, as there are many of them.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use backscroll_shard::ids::{ConversationId, UserId};

use crate::bus::Status;
use crate::outbox::Outbox;
use crate::protocol::{self, InConversation};

/// How often one connection may say that its user is typing in one conversation.
const TYPING_EVERY_MS: u64 = 3000;

/// A connection.
#[derive(Debug)]
pub struct Session {
    /// Names it in logs; also where the heartbeat finds it.
    pub id: u64,
    /// Whose it is.
    pub user: UserId,
    /// What waits for it.
    pub outbox: Outbox,
    /// Whether the heartbeat asks it for signs of life; where the door has a heartbeat of its own, it does not.
    pub(crate) pinged: bool,
    /// When its token ends, in seconds since 1970.
    pub(crate) expires_at: AtomicI64,
    /// When something came from it last, in seconds since the node started.
    heard_at: AtomicU32,
    /// When a command came from it last, likewise.
    commanded_at: AtomicU32,
    /// Whether it has said whom it watches: then it is told of nobody else's presence.
    names_watched: AtomicBool,
    bucket: Bucket,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    joined: Vec<ConversationId>,
    watched: Vec<UserId>,
    typing: Vec<Typing>,
    status: Option<Status>,
    closed: bool,
}

/// Where its user types, or did a moment ago.
#[derive(Debug)]
struct Typing {
    conversation: ConversationId,
    /// When others were told last.
    told: u64,
    now: bool,
}

impl Session {
    /// A session that was let in.
    #[must_use]
    pub(crate) fn new(user: UserId, expires_at: i64, queue_bytes: usize, pinged: bool) -> Self {
        let now = seconds();
        Self {
            id: rand::random(),
            user,
            outbox: Outbox::new(queue_bytes),
            pinged,
            expires_at: AtomicI64::new(expires_at),
            heard_at: AtomicU32::new(now),
            commanded_at: AtomicU32::new(now),
            names_watched: AtomicBool::new(false),
            bucket: Bucket::default(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something came from the client.
    pub fn heard(&self) {
        self.heard_at.store(seconds(), Ordering::Relaxed);
    }

    /// For how many seconds nothing has come.
    #[must_use]
    pub fn silent_for(&self) -> u32 {
        seconds().saturating_sub(self.heard_at.load(Ordering::Relaxed))
    }

    /// For how many seconds no command has come.
    #[must_use]
    pub fn inactive_for(&self) -> u32 {
        seconds().saturating_sub(self.commanded_at.load(Ordering::Relaxed))
    }

    /// Its user did something.
    pub(crate) fn acted(&self) {
        self.commanded_at.store(seconds(), Ordering::Relaxed);
    }

    /// A command came that counts as `cost`: whether there is room for it, else after how many milliseconds there is. `rate` is a second, 0 for
    /// no limit.
    ///
    /// # Errors
    /// In how many milliseconds there is room.
    pub(crate) fn admit(&self, rate: u32, burst: u32, cost: u32) -> Result<(), u64> {
        if rate == 0 {
            return Ok(());
        }
        self.bucket.take(milliseconds(), rate, burst, cost)
    }

    /// Whether it has the conversation open.
    #[must_use]
    pub fn has_joined(&self, id: ConversationId) -> bool {
        self.state().joined.contains(&id)
    }

    /// How many conversations it has open.
    #[must_use]
    pub(crate) fn joined_count(&self) -> usize {
        self.state().joined.len()
    }

    /// Notes that a conversation is open. `false` when the session has ended meanwhile.
    pub(crate) fn joined(&self, id: ConversationId) -> bool {
        let mut state = self.state();
        if !state.closed && !state.joined.contains(&id) {
            state.joined.push(id);
        }
        !state.closed
    }

    /// Notes that a conversation is no longer open; says whether it was.
    pub(crate) fn left(&self, id: ConversationId) -> bool {
        let mut state = self.state();
        let before = state.joined.len();
        state.joined.retain(|joined| *joined != id);
        state.typing.retain(|typing| typing.conversation != id);
        state.joined.len() < before
    }

    /// Ends an open conversation of one who is no longer a member, and tells so.
    pub(crate) fn expel(&self, id: ConversationId) {
        if self.left(id) {
            let data = InConversation {
                conversation_id: id,
            };
            let event = protocol::event("left_conversation", &data);
            self.outbox.event(&Arc::new(event));
        }
    }

    /// Whether it has said whom it watches.
    #[must_use]
    pub(crate) fn names_watched(&self) -> bool {
        self.names_watched.load(Ordering::Relaxed)
    }

    /// Replaces the users it watches; gives those watched before. None when the session has ended meanwhile.
    pub(crate) fn watch(&self, users: Vec<UserId>) -> Option<Vec<UserId>> {
        self.names_watched.store(true, Ordering::Relaxed);
        let mut state = self.state();
        (!state.closed).then(|| std::mem::replace(&mut state.watched, users))
    }

    /// Begins or renews typing; whether others are to be told (again).
    pub(crate) fn typing(&self, id: ConversationId) -> bool {
        let now = milliseconds();
        let mut state = self.state();
        let known = state
            .typing
            .iter_mut()
            .find(|typing| typing.conversation == id);
        match known {
            Some(typing) if now < typing.told + TYPING_EVERY_MS => false,
            Some(typing) => {
                (typing.told, typing.now) = (now, true);
                true
            }
            None => {
                state.typing.push(Typing {
                    conversation: id,
                    told: now,
                    now: true,
                });
                true
            }
        }
    }

    /// Ends typing; whether it had begun.
    pub(crate) fn stopped_typing(&self, id: ConversationId) -> bool {
        let mut state = self.state();
        let typing = state
            .typing
            .iter_mut()
            .find(|typing| typing.conversation == id);
        typing.is_some_and(|typing| std::mem::replace(&mut typing.now, false))
    }

    /// What the client said its user shows; none where it said nothing.
    pub(crate) fn status(&self) -> Option<Status> {
        self.state().status
    }

    /// Takes what the client says its user shows.
    pub(crate) fn show(&self, status: Status) {
        self.state().status = Some(status);
    }

    /// Ends it; gives what it held: open conversations, watched users, and where its user was typing. None the second time.
    pub(crate) fn end(&self) -> Option<(Vec<ConversationId>, Vec<UserId>, Vec<ConversationId>)> {
        let mut state = self.state();
        if std::mem::replace(&mut state.closed, true) {
            return None;
        }
        let typing = std::mem::take(&mut state.typing);
        Some((
            std::mem::take(&mut state.joined),
            std::mem::take(&mut state.watched),
            typing
                .into_iter()
                .filter(|typing| typing.now)
                .map(|typing| typing.conversation)
                .collect(),
        ))
    }

    #[cfg(test)]
    pub(crate) fn test(user: &str) -> std::sync::Arc<Self> {
        let user = UserId::new(user).expect("a user id");
        std::sync::Arc::new(Self::new(user, i64::MAX, 1 << 20, true))
    }
}

/// A token bucket (the generic cell rate algorithm, ITU-T I.371): one number, the time at which it is empty again.
#[derive(Debug, Default)]
struct Bucket {
    empty_at: AtomicU64,
}

impl Bucket {
    /// Takes `cost` tokens at `now`; there are `rate` a second and at most `burst` at once.
    fn take(&self, now: u64, rate: u32, burst: u32, cost: u32) -> Result<(), u64> {
        let each = 1_000_000 / u64::from(rate.max(1)); // microseconds
        let now = now * 1000;
        let empty_at =
            self.empty_at.load(Ordering::Relaxed).max(now) + each * u64::from(cost.min(burst));
        let room = each * u64::from(burst.max(1));
        if empty_at - now > room {
            return Err((empty_at - now - room).div_ceil(1000));
        }
        self.empty_at.store(empty_at, Ordering::Relaxed); // commands of a session come one after the other
        Ok(())
    }
}

fn start() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Seconds since the node started.
pub(crate) fn seconds() -> u32 {
    u32::try_from(start().elapsed().as_secs()).unwrap_or(u32::MAX)
}

fn milliseconds() -> u64 {
    u64::try_from(start().elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_burst_and_then_the_rate() {
        let bucket = Bucket::default();
        for _ in 0..5 {
            assert_eq!(bucket.take(1000, 10, 5, 1), Ok(()));
        }
        assert_eq!(bucket.take(1000, 10, 5, 1), Err(100));
        assert_eq!(bucket.take(1099, 10, 5, 1), Err(1));
        assert_eq!(bucket.take(1100, 10, 5, 1), Ok(()));
        assert!(bucket.take(1100, 10, 5, 1).is_err());
    }

    #[test]
    fn a_session_ends_once() {
        let session = Session::test("alice");
        let id = ConversationId::new(backscroll_shard::ids::UserKey(1), 1);
        assert!(session.joined(id));
        assert!(session.typing(id));
        assert!(!session.typing(id), "told a moment ago");
        assert_eq!(session.end(), Some((vec![id], vec![], vec![id])));
        assert_eq!(session.end(), None);
        assert!(!session.joined(id));
    }
}
