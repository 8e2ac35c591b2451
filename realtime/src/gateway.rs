//! Where connections come in: admission, sessions, commands, heartbeat, drain. Every door uses it and adds only its codec.
//!
//! A connection's life: [`Gateway::admit`] before the handshake, which costs nothing to refuse; [`Gateway::authenticate`];
//! [`Gateway::open`], which resumes and says hello; [`Gateway::command`], one at a time; [`Gateway::end`]. Every read and
//! write is authorised by the store (INV-MEMBER); the token is checked without asking a database, so that a wave of
//! reconnects is none there. Upholds INV-BOUND by [`RealtimeSettings`]. A crash ends every connection; clients resume
//! elsewhere.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Rev};
use backscroll_shard::model::Timestamp;
use backscroll_shard::store::Store;
use backscroll_shard::sync::{parse_cursor, to_cursor};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::{Bus, Roster};
use crate::client_event::ClientEvent;
use crate::command::{Commands, WATCHED_MAX};
use crate::edge::{self, Edge, Identity};
use crate::hub::{Hub, Joined, REPLAY_MAX};
use crate::outbox::Item;
use crate::presence::PresenceKeeper;
use crate::protocol::events::EventName;
use crate::protocol::{Close, Failure, Hello, Reconnect, Resume, SessionLimits};
use crate::push::Topic;
use crate::session::{Ended, Session, seconds};
use crate::settings::RealtimeSettings;

/// How long after its heartbeat interval a silent connection is kept.
const HEARTBEAT_SLACK: u32 = 10;
/// How often in an interval each connection is looked at.
const HEARTBEAT_LOOKS: u32 = 5;
/// How long a connection is kept after its token has ended.
const EXPIRY_GRACE: i64 = 25;
/// Into how many parts sessions are divided; the heartbeat takes them in turn.
const PARTS: usize = 64;
/// How long to wait before a conversation that could not be resumed is tried again, about.
const JOIN_AGAIN: Duration = Duration::from_secs(3);

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The node stops.
    Draining,
    /// The node has as many as it takes, or too many came this second.
    Full,
    /// The address has as many as it may.
    Address,
}

/// A place among the node's connections, given back when dropped.
pub struct Place {
    gateway: Arc<Gateway>,
    address: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gateway.places.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            let mut addresses = self.gateway.addresses();
            if let Some(count) = addresses.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    addresses.remove(&address);
                }
            }
        }
    }
}

/// A node's door for connections of any kind.
pub struct Gateway {
    pub(crate) hub: Arc<Hub>,
    pub(crate) presence: Arc<PresenceKeeper>,
    pub(crate) settings: RealtimeSettings,
    commands: Commands,
    edge: Arc<dyn Edge>,
    places: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    admitted: (AtomicI64, AtomicUsize),
    parts: Vec<Mutex<HashMap<u64, Arc<Session>>>>,
    draining: AtomicBool,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// A session that is being opened: ended when that is given up.
struct Opening<'a> {
    gateway: &'a Gateway,
    session: Option<Arc<Session>>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            self.gateway.end(session);
        }
    }
}

impl Gateway {
    /// Starts a node's gateway.
    #[must_use]
    pub fn start(
        store: Arc<Store>,
        bus: &Arc<dyn Bus>,
        roster: Arc<dyn Roster>,
        edge: Arc<dyn Edge>,
        settings: &RealtimeSettings,
    ) -> Arc<Self> {
        let hub = Hub::start(store, bus, settings);
        let presence = PresenceKeeper::new(Arc::clone(&hub), roster);
        let tasks = TaskTracker::new();
        let commands = Commands::new(
            Arc::clone(&hub),
            Arc::clone(&presence),
            Arc::clone(&edge),
            settings.clone(),
            tasks.clone(),
        );
        let gateway = Arc::new(Self {
            hub,
            presence,
            settings: settings.clone(),
            commands,
            edge,
            places: AtomicUsize::new(0),
            addresses: Mutex::default(),
            admitted: (AtomicI64::new(0), AtomicUsize::new(0)),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            draining: AtomicBool::new(false),
            tasks,
            closing: CancellationToken::new(),
        });
        let closing = gateway.closing.clone();
        let keeper = Arc::clone(&gateway.presence);
        gateway.tasks.spawn(keeper.run(closing));
        gateway.tasks.spawn(Arc::clone(&gateway).heartbeat());
        gateway
    }

    /// The tasks that doors run in: the gateway waits for them when it closes.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Cancelled when the gateway closes.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// The bounds.
    #[must_use]
    pub fn settings(&self) -> &RealtimeSettings {
        &self.settings
    }

    /// How long ago it was proven that the bus brings what is published; none where there is nothing to prove.
    #[must_use]
    pub fn bus_silence(&self) -> Option<Duration> {
        self.hub.bus().silence()
    }

    /// How many connections there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.places.load(Ordering::Relaxed)
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, id: u64) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Session>>> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any bits of a random number will do"
        )]
        self.parts[id as usize % PARTS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, Refused> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::Draining);
        }
        if !self.paced() {
            return Err(Refused::Full);
        }
        if self.places.fetch_add(1, Ordering::Relaxed) >= self.settings.max_sessions {
            self.places.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        let address = address.filter(|_| self.settings.sessions_per_ip > 0);
        let place = |address| Place {
            gateway: Arc::clone(self),
            address,
        };
        let Some(address) = address else {
            return Ok(place(None));
        };
        let mut addresses = self.addresses();
        let count = addresses.entry(address).or_default();
        if *count >= self.settings.sessions_per_ip {
            drop(addresses);
            drop(place(None));
            return Err(Refused::Address);
        }
        *count += 1;
        drop(addresses);
        Ok(place(Some(address)))
    }

    /// Whether another connection may come this second.
    fn paced(&self) -> bool {
        let most = self.settings.connects_per_second as usize;
        if most == 0 {
            return true;
        }
        let now = i64::from(seconds());
        let (second, count) = &self.admitted;
        if second.swap(now, Ordering::Relaxed) != now {
            count.store(0, Ordering::Relaxed);
        }
        count.fetch_add(1, Ordering::Relaxed) < most
    }

    /// Checks a token.
    ///
    /// # Errors
    /// Why it is not accepted, and the code with which the connection is closed.
    pub async fn authenticate(&self, token: &str) -> Result<Identity, (Close, Failure)> {
        edge::authenticate(&self.edge, token).await
    }

    /// Carries out commands.
    pub(crate) fn commands(&self) -> &Commands {
        &self.commands
    }

    /// The part of an error that a client may know.
    pub(crate) fn failure(&self, error: Error) -> Failure {
        self.edge.failure(error)
    }

    /// Opens a session: from now on its user's list is followed, conversations named by `resume` are open, and `hello` and
    /// what was missed wait in its queue. `pinged`: the gateway asks it for signs of life.
    ///
    /// # Errors
    /// [`Close::TooManyConnections`]; [`Close::InvalidFrame`] when more is to be resumed than may be open;
    /// [`Close::ShuttingDown`].
    pub async fn open(
        self: &Arc<Self>,
        identity: Identity,
        resume: Option<Resume>,
        pinged: bool,
    ) -> Result<Arc<Session>, Close> {
        let resumed = resume.is_some();
        let resume = resume.unwrap_or_default();
        if resume.conversations.len() > self.settings.joined_conversations {
            return Err(Close::InvalidFrame);
        }
        let expires_at = i64::try_from(identity.expires_at).unwrap_or(i64::MAX);
        let queue = self.settings.queue_bytes;
        let session = Arc::new(Session::new(identity.user, expires_at, queue, pinged));
        if !self
            .presence
            .came(&session, self.settings.sessions_per_user)
        {
            return Err(Close::TooManyConnections);
        }
        metrics::gauge!("backscroll_realtime_sessions").increment(1.0);
        let mut opening = Opening {
            gateway: self,
            session: Some(Arc::clone(&session)),
        };
        self.part(session.id)
            .insert(session.id, Arc::clone(&session));
        if self.draining.load(Ordering::Relaxed) {
            return Err(Close::ShuttingDown); // `opening` ends it
        }
        let (cursor, recovered) = self.catch_up(&session, resumed, resume).await;
        let hello = Hello {
            session_id: &format!("{:016x}", session.id),
            user_id: &session.user,
            heartbeat_interval_ms: u64::try_from(self.settings.heartbeat.0.as_millis())
                .unwrap_or(0),
            expires_at: Timestamp(expires_at.saturating_mul(1000)),
            cursor,
            recovered,
            limits: self.limits(),
        };
        session
            .outbox
            .put_first(ClientEvent::new(EventName::Hello, &hello));
        let outcome = match (resumed, recovered) {
            (false, _) => "fresh",
            (true, true) => "recovered",
            (true, false) => "resync",
        };
        metrics::counter!("backscroll_realtime_connects_total", "outcome" => outcome).increment(1);
        opening.session = None;
        Ok(session)
    }

    fn limits(&self) -> SessionLimits {
        SessionLimits {
            frame_bytes: self.settings.max_frame,
            joined_conversations: self.settings.joined_conversations,
            presence_users: WATCHED_MAX,
            commands_per_second: self.settings.commands_per_second,
        }
    }

    /// Follows the list and opens conversations again; gives the cursor after which it is told what changes, and whether
    /// nothing that was missed is refused.
    async fn catch_up(
        self: &Arc<Self>,
        session: &Arc<Session>,
        resumed: bool,
        resume: Resume,
    ) -> (Option<String>, bool) {
        let known = resume.cursor.as_deref().map(parse_cursor);
        let unknown = matches!(known, Some(Err(_)));
        let wanted = known.is_some();
        let cursor = self
            .hub
            .follow_list(session, known.and_then(Result::ok))
            .await
            .filter(|_| !unknown);
        let list = wanted && cursor.is_none();
        let (mut refused, mut failed) = (Vec::new(), Vec::new());
        let room = AtomicUsize::new(REPLAY_MAX);
        let joins = resume.conversations.into_iter().map(|(id, rev)| {
            let (hub, room) = (&self.hub, &room);
            async move { (id, hub.join(session, id, Some(rev), room).await) }
        });
        for (id, joined) in futures_util::future::join_all(joins).await {
            match joined {
                Ok(Joined::Whole(_)) => {}
                Ok(Joined::Refused(head)) => refused.push(head),
                Err(Error::NotMember) => {
                    let left = ClientEvent::left_conversation(id);
                    session.outbox.put_event(&Arc::new(left));
                }
                Err(error) => {
                    tracing::warn!(%error, "a conversation cannot be resumed yet");
                    failed.push(id);
                }
            }
        }
        let recovered = resumed && !list && refused.is_empty() && failed.is_empty();
        if list || !refused.is_empty() {
            // Before what is told of these already, and after hello.
            session.outbox.put_first(ClientEvent::resync(refused, list));
        }
        if !failed.is_empty() {
            let retrying = Arc::clone(self).join_later(Arc::clone(session), failed);
            self.tasks.spawn(retrying);
        }
        (cursor.map(to_cursor), recovered)
    }

    /// Opens conversations whose shard does not answer as soon as it does; they have to be loaded then.
    async fn join_later(self: Arc<Self>, session: Arc<Session>, mut ids: Vec<ConversationId>) {
        while !ids.is_empty() && session.outbox.closed().is_none() {
            let pause = JOIN_AGAIN.mul_f64(rand::random_range(0.5..1.5));
            if self
                .closing
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return;
            }
            let nothing = AtomicUsize::new(0);
            let mut again = Vec::new();
            for id in ids {
                match self.hub.join(&session, id, Some(Rev(0)), &nothing).await {
                    Ok(Joined::Whole(head) | Joined::Refused(head)) => {
                        session
                            .outbox
                            .put_event(&Arc::new(ClientEvent::resync(vec![head], false)));
                    }
                    Err(Error::NotMember) => {
                        let left = ClientEvent::left_conversation(id);
                        session.outbox.put_event(&Arc::new(left));
                    }
                    Err(_) => again.push(id),
                }
            }
            ids = again;
        }
    }

    /// Ends a session whose connection is gone.
    pub fn end(&self, session: &Arc<Session>) {
        let Some(Ended {
            joined,
            watched,
            typing,
        }) = session.end()
        else {
            return;
        };
        session.outbox.close(Close::Internal);
        self.part(session.id).remove(&session.id);
        for id in typing {
            self.hub.publish_typing(session, id, false);
        }
        for id in joined {
            self.hub.leave(session, &Topic::Conversation(id));
        }
        for user in watched {
            self.hub.leave(session, &Topic::Presence(user));
        }
        self.hub.leave(session, &Topic::User(session.user.clone()));
        self.presence.went(session);
        metrics::gauge!("backscroll_realtime_sessions").decrement(1.0);
    }

    /// Asks silent sessions for signs of life, and ends those that give none or whose token has ended. It looks at each
    /// part of the sessions in its turn, and at all of them several times in an interval.
    async fn heartbeat(self: Arc<Self>) {
        let interval = self.settings.heartbeat.0;
        let step = interval / (HEARTBEAT_LOOKS * u32::try_from(PARTS).unwrap_or(1));
        let quiet =
            u32::try_from((interval - interval / HEARTBEAT_LOOKS).as_secs()).unwrap_or(u32::MAX);
        let patience = u32::try_from(interval.as_secs()).unwrap_or(u32::MAX) + HEARTBEAT_SLACK;
        // Where the machine is late, it catches up: a session is not ended for want of a sign that it was not asked for.
        let mut looks = tokio::time::interval(step);
        let mut next = 0;
        while self
            .closing
            .run_until_cancelled(looks.tick())
            .await
            .is_some()
        {
            let now = Timestamp::now().0 / 1000;
            let sessions: Vec<Arc<Session>> = {
                let part = self.parts[next]
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                part.values().cloned().collect()
            };
            next = (next + 1) % PARTS;
            for session in sessions {
                let ended = session
                    .expires_at
                    .load(Ordering::Relaxed)
                    .saturating_add(EXPIRY_GRACE);
                if ended < now {
                    session.outbox.close(Close::TokenExpired);
                } else if session.pinged && session.silent_for() > patience {
                    session.outbox.close(Close::Idle);
                } else if session.pinged && session.silent_for() >= quiet {
                    session.outbox.put(Item::Ping);
                }
            }
        }
    }

    /// Sends everybody away over [`RealtimeSettings::drain_window`], in random order; takes nobody new.
    pub async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.presence.drain();
        let mut sessions: Vec<Arc<Session>> = Vec::new();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.extend(part.values().cloned()); // by random ids: in no order
        }
        let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX).max(1);
        let started = Instant::now();
        for (n, session) in (0_u32..).zip(sessions) {
            let due = started + self.settings.drain_window.0 / count * n;
            tokio::time::sleep_until(due.into()).await;
            self.send_away(&session);
        }
        // Those that came while the others were sent away.
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.values().for_each(|session| self.send_away(session));
        }
    }

    fn send_away(&self, session: &Session) {
        let after_ms = rand::random_range(0..1000);
        let event = ClientEvent::new(EventName::Reconnect, &Reconnect { after_ms });
        session.outbox.put_event(&Arc::new(event));
        session.outbox.close(Close::ShuttingDown);
    }

    /// Closes every connection and ends the gateway's tasks, for at most `patience`.
    pub async fn close(&self, patience: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.values()
                .for_each(|session| session.outbox.close(Close::ShuttingDown));
        }
        self.closing.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(patience, self.tasks.wait()).await;
        self.hub.close().await;
    }
}
