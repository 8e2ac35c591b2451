//! A session: one connection of one user, whatever its door.
//!
//! The client's commands go to [`Commands`](crate::command::Commands), one after the other; its events wait in the session's
//! bounded queue ([`Outbox`]), which its door empties. A node has many sessions, so that the state here is small, and
//! everything that one session may hold is bounded by `realtime.*` settings (INV-BOUND). A session is gone with its
//! connection; its client resumes in another.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::Timestamp;

use crate::bus::Status;
use crate::client_event::ClientEvent;
use crate::edge::Identity;
use crate::outbox::{Item, Outbox};

/// While a user goes on typing in a conversation, the others are notified at most this often.
const TYPING_EVERY_MS: u64 = 3000;

/// A session.
#[derive(Debug)]
pub struct Session {
    /// Identifies the session in logs and in the registry of sessions.
    pub id: u64,
    /// The user whose token opened the session.
    pub user: UserId,
    /// Events and answers that wait to be sent.
    pub outbox: Outbox,
    /// Whether the gateway pings the client. A door with a heartbeat of its own does that itself.
    pub(crate) pinged: bool,
    /// When the token expires, in seconds since 1970.
    expires_at: AtomicI64,
    /// The key that its token was signed with, as [`Identity::key`]; 0 for none.
    token_key: AtomicU64,
    /// In seconds since 1970.
    issued_at: AtomicU64,
    /// When the client sent something last, in seconds since the node started.
    active_at: AtomicU32,
    /// When the client was asked for a sign of life that it has not given yet, in milliseconds since the node started; 0 when
    /// it was not asked.
    probed_at: AtomicU64,
    /// When the client gave a command last, likewise.
    commanded_at: AtomicU32,
    /// Whether the client has named the users that it watches: then it receives nobody else's presence.
    names_watched: AtomicBool,
    /// When it was looked up last whom of them the session may be shown, in seconds since the node started.
    checked_at: AtomicU32,
    bucket: Bucket,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    joined: Vec<ConversationId>,
    watched: Vec<UserId>,
    typing: Vec<Typing>,
    status: Option<Status>,
    ended: bool,
}

/// A conversation in which the user types, or did a moment ago.
#[derive(Debug)]
struct Typing {
    conversation: ConversationId,
    /// When the others were notified last, in milliseconds since the node started.
    published_at: u64,
    now: bool,
}

/// What a session held when it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its open conversations.
    pub(crate) joined: Vec<ConversationId>,
    /// The users that it watched.
    pub(crate) watched: Vec<UserId>,
    /// The conversations in which its user was typing.
    pub(crate) typing: Vec<ConversationId>,
}

impl Session {
    /// An authenticated session.
    #[must_use]
    pub(crate) fn new(identity: &Identity, queue_bytes: usize, pinged: bool) -> Self {
        let now = seconds();
        let session = Self {
            id: rand::random(),
            user: identity.user.clone(),
            outbox: Outbox::new(queue_bytes),
            pinged,
            expires_at: AtomicI64::new(0),
            token_key: AtomicU64::new(0),
            issued_at: AtomicU64::new(0),
            active_at: AtomicU32::new(now),
            probed_at: AtomicU64::new(0),
            commanded_at: AtomicU32::new(now),
            names_watched: AtomicBool::new(false),
            checked_at: AtomicU32::new(now),
            bucket: Bucket::default(),
            state: Mutex::default(),
        };
        session.renew(identity);
        session
    }

    /// The session goes on with the token of `identity`.
    pub(crate) fn renew(&self, identity: &Identity) {
        let expires_at = i64::try_from(identity.expires_at).unwrap_or(i64::MAX);
        self.expires_at.store(expires_at, Ordering::Relaxed);
        self.issued_at
            .store(identity.issued_at.unwrap_or(0), Ordering::Relaxed);
        let key = identity.key.map_or(0, NonZeroU64::get);
        self.token_key.store(key, Ordering::Relaxed);
    }

    /// When the token expires, in seconds since 1970.
    #[must_use]
    pub(crate) fn expires_at(&self) -> i64 {
        self.expires_at.load(Ordering::Relaxed)
    }

    /// The same as a time, and in milliseconds from now.
    #[must_use]
    pub(crate) fn token_expiry(&self) -> (Timestamp, u64) {
        let at = Timestamp(self.expires_at().saturating_mul(1000));
        let remaining = at.0.saturating_sub(Timestamp::now().0);
        (at, u64::try_from(remaining).unwrap_or(0))
    }

    /// When the token was issued, in seconds since 1970; 1970 itself if it does not say so.
    #[must_use]
    pub(crate) fn issued_at(&self) -> u64 {
        self.issued_at.load(Ordering::Relaxed)
    }

    /// The key that the token was signed with, as [`Identity::key`].
    #[must_use]
    pub(crate) fn token_key(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.token_key.load(Ordering::Relaxed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the client sent something.
    pub fn note_activity(&self) {
        self.active_at.store(seconds(), Ordering::Relaxed);
        self.probed_at.store(0, Ordering::Relaxed);
    }

    /// Pings the client, unless it has not answered the last probe yet. A door with a heartbeat of its own is not probed.
    pub(crate) fn probe(&self) {
        if !self.pinged {
            return;
        }
        let (unasked, now) = (0, milliseconds().max(1));
        let probed = &self.probed_at;
        if probed
            .compare_exchange(unasked, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            self.outbox.put(Item::Ping);
        }
    }

    /// Whether a probe has not been answered for `within`.
    #[must_use]
    pub(crate) fn is_silent_since_probe(&self, within: Duration) -> bool {
        let probed_at = self.probed_at.load(Ordering::Relaxed);
        let waited = Duration::from_millis(milliseconds().saturating_sub(probed_at));
        probed_at != 0 && waited >= within
    }

    /// How long the client has sent nothing, in seconds.
    #[must_use]
    pub fn silent_for(&self) -> u32 {
        seconds().saturating_sub(self.active_at.load(Ordering::Relaxed))
    }

    /// Notes that the user gave a command.
    pub(crate) fn note_command(&self) {
        self.commanded_at.store(seconds(), Ordering::Relaxed);
    }

    /// How long the user has given no command, in seconds.
    #[must_use]
    pub fn inactive_for(&self) -> u32 {
        seconds().saturating_sub(self.commanded_at.load(Ordering::Relaxed))
    }

    /// Takes `cost` commands from the session's rate of `rate` a second, of which `burst` may come at once. A `rate` of 0 is
    /// no limit.
    ///
    /// # Errors
    /// In how many milliseconds the rate has room for them.
    pub(crate) fn charge(&self, rate: u32, burst: u32, cost: u32) -> Result<(), u64> {
        if rate == 0 {
            return Ok(());
        }
        self.bucket.take(milliseconds(), rate, burst, cost)
    }

    /// Whether the session has the conversation open.
    #[must_use]
    pub fn has_joined(&self, id: ConversationId) -> bool {
        self.state().joined.contains(&id)
    }

    /// How many conversations the session has open.
    #[must_use]
    pub(crate) fn joined_count(&self) -> usize {
        self.state().joined.len()
    }

    /// Records that a conversation is open. `false` when the session has ended meanwhile.
    pub(crate) fn record_join(&self, id: ConversationId) -> bool {
        let mut state = self.state();
        if !state.ended && !state.joined.contains(&id) {
            state.joined.push(id);
        }
        !state.ended
    }

    /// Records that a conversation is no longer open; says whether it was.
    pub(crate) fn record_leave(&self, id: ConversationId) -> bool {
        let mut state = self.state();
        let before = state.joined.len();
        state.joined.retain(|joined| *joined != id);
        state.typing.retain(|typing| typing.conversation != id);
        state.joined.len() < before
    }

    /// Closes an open conversation of which the user is no longer a member, and sends `left_conversation`.
    pub(crate) fn expel(&self, id: ConversationId) {
        if self.record_leave(id) {
            let event = ClientEvent::left_conversation(id);
            self.outbox.put_event(&Arc::new(event));
        }
    }

    /// Whether the client has named the users that it watches.
    #[must_use]
    pub(crate) fn names_watched(&self) -> bool {
        self.names_watched.load(Ordering::Relaxed)
    }

    /// Replaces the users that the session watches and returns the previous ones. None when the session has ended meanwhile.
    pub(crate) fn watch(&self, users: Vec<UserId>) -> Option<Vec<UserId>> {
        self.names_watched.store(true, Ordering::Relaxed);
        let mut state = self.state();
        (!state.ended).then(|| std::mem::replace(&mut state.watched, users))
    }

    /// The users that the session watches.
    pub(crate) fn watched(&self) -> Vec<UserId> {
        self.state().watched.clone()
    }

    /// Whether the session watches `user`.
    pub(crate) fn watches(&self, user: &UserId) -> bool {
        self.state().watched.contains(user)
    }

    /// Notes that it is being looked up whom the session may be shown.
    pub(crate) fn note_check(&self) {
        self.checked_at.store(seconds(), Ordering::Relaxed);
    }

    /// How long ago that was, in seconds.
    pub(crate) fn checked_for(&self) -> u32 {
        seconds().saturating_sub(self.checked_at.load(Ordering::Relaxed))
    }

    /// Records that the user types; says whether the others have to be notified (again).
    pub(crate) fn start_typing(&self, id: ConversationId) -> bool {
        let now = milliseconds();
        let mut state = self.state();
        let mut all = state.typing.iter_mut();
        match all.find(|typing| typing.conversation == id) {
            Some(typing) if typing.now && now < typing.published_at + TYPING_EVERY_MS => false,
            Some(typing) => {
                (typing.published_at, typing.now) = (now, true);
                true
            }
            None => {
                state.typing.push(Typing {
                    conversation: id,
                    published_at: now,
                    now: true,
                });
                true
            }
        }
    }

    /// Records that the user no longer types; says whether they did.
    pub(crate) fn stop_typing(&self, id: ConversationId) -> bool {
        let mut state = self.state();
        let mut all = state.typing.iter_mut();
        let typing = all.find(|typing| typing.conversation == id);
        typing.is_some_and(|typing| std::mem::replace(&mut typing.now, false))
    }

    /// The status that the client chose; none before it chose one.
    pub(crate) fn status(&self) -> Option<Status> {
        self.state().status
    }

    /// Records the status that the client chose.
    pub(crate) fn show(&self, status: Status) {
        self.state().status = Some(status);
    }

    /// Ends the session and returns what it held. None from the second time on.
    pub(crate) fn end(&self) -> Option<Ended> {
        let mut state = self.state();
        if std::mem::replace(&mut state.ended, true) {
            return None;
        }
        let typing = std::mem::take(&mut state.typing).into_iter();
        let typing = typing.filter(|typing| typing.now);
        Some(Ended {
            joined: std::mem::take(&mut state.joined),
            watched: std::mem::take(&mut state.watched),
            typing: typing.map(|typing| typing.conversation).collect(),
        })
    }

    #[cfg(test)]
    pub(crate) fn test(user: &str) -> std::sync::Arc<Self> {
        let identity = Identity {
            user: UserId::new(user).expect("a user id"),
            issued_at: None,
            expires_at: u64::MAX,
            key: None,
        };
        std::sync::Arc::new(Self::new(&identity, 1 << 20, true))
    }
}

/// A token bucket (the generic cell rate algorithm, ITU-T I.371) in one number: the time at which it will be empty.
#[derive(Debug, Default)]
struct Bucket {
    empty_at: AtomicU64,
}

impl Bucket {
    /// Takes `cost` tokens at `now`, in milliseconds; `rate` is tokens a second, of which `burst` may be taken at once.
    fn take(&self, now: u64, rate: u32, burst: u32, cost: u32) -> Result<(), u64> {
        let each = 1_000_000 / u64::from(rate.max(1)); // microseconds
        let now = now * 1000;
        let empty_at =
            self.empty_at.load(Ordering::Relaxed).max(now) + each * u64::from(cost.min(burst));
        let room = each * u64::from(burst.max(1));
        if empty_at - now > room {
            return Err((empty_at - now - room).div_ceil(1000));
        }
        self.empty_at.store(empty_at, Ordering::Relaxed); // a session's commands come one after the other
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
        assert!(session.record_join(id));
        assert!(session.start_typing(id));
        assert!(!session.start_typing(id), "published a moment ago");
        let ended = Ended {
            joined: vec![id],
            watched: vec![],
            typing: vec![id],
        };
        assert_eq!(session.end(), Some(ended));
        assert_eq!(session.end(), None);
        assert!(!session.record_join(id));
    }
}
