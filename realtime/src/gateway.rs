//! The gateway: the life of every connection, whatever its door. A door adds its codec only.
//!
//! [`Gateway::admit`] comes before the handshake; then [`Gateway::authenticate`]; [`Gateway::open`], which resumes the session
//! and sends `hello`; commands, one at a time; and [`Gateway::end`]. A node that stops drains: it sends its clients away in
//! waves, and they resume on other nodes. A crash ends every connection, with the same effect.
//!
//! | module | does |
//! |---|---|
//! | [`admission`](crate::admission) | bounds the connections |
//! | [`edge`] | tokens and error codes, which the service around the gateway knows |
//! | `resume` | follows the list, opens conversations again |
//! | `command` | carries out commands |
//! | `heartbeat` | pings silent sessions, ends expired ones |

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::error::Error;
use backscroll_shard::ids::UserId;
use backscroll_shard::sanctions::Sanctions;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::{OneShots, TaskGroup};
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, ConnectionPermit, Refused, Token};
use crate::bus::{Bus, BusUnavailable, Problem, Roster, SILENCE_MAX, Status};
use crate::client_event::ClientEvent;
use crate::command::{Commands, WATCHED_MAX};
use crate::custom_event::CustomEvent;
use crate::edge::{self, Edge, Identity};
use crate::heartbeat;
use crate::hub::Hub;
use crate::metrics;
use crate::presence::keeper::PresenceKeeper;
use crate::presence::local::AllAlive;
use crate::protocol::events::EventName;
use crate::protocol::{Close, Failure, Hello, Presence, Reconnect, Resume, SessionLimits};
use crate::push::{Push, Topic};
use crate::resume::{Resumed, join_later, resume};
use crate::session::{Ended, Session};
use crate::sessions::Sessions;
use crate::settings::RealtimeSettings;

/// Most tasks of one connection: a session in each of its namespaces, and what is done for them.
const TASKS_PER_CONNECTION: usize = 8;

/// How long the clients of a user with too many connections have to answer a ping, at most.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The gateway of a node.
pub struct Gateway {
    hub: Arc<Hub>,
    presence: Arc<PresenceKeeper>,
    commands: Commands,
    store: Arc<Store>,
    bus: Arc<dyn Bus>,
    edge: Arc<dyn Edge>,
    settings: RealtimeSettings,
    admission: Arc<Admission>,
    sessions: Arc<Sessions>,
    tasks: TaskGroup,
    session_tasks: OneShots,
    closing: CancellationToken,
}

/// A session that is being opened: it ends when this is dropped before [`Opening::finish`].
struct Opening<'a> {
    gateway: &'a Gateway,
    session: Option<Arc<Session>>,
}

impl Opening<'_> {
    fn finish(mut self) {
        self.session = None;
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            self.gateway.end(session);
        }
    }
}

impl Gateway {
    /// Starts the gateway of a node.
    #[must_use]
    pub fn start(
        store: Arc<Store>,
        bus: &Arc<dyn Bus>,
        roster: Arc<dyn Roster>,
        edge: Arc<dyn Edge>,
        settings: &RealtimeSettings,
    ) -> Arc<Self> {
        let (tasks, closing) = (store.supervisor().group(), CancellationToken::new());
        let most = settings.max_sessions.saturating_mul(TASKS_PER_CONNECTION);
        let session_tasks = tasks.one_shots("session", most);
        let hub = Hub::start(Arc::clone(&store), bus, settings);
        let presence = PresenceKeeper::new(
            Arc::clone(hub.presence()),
            roster,
            Arc::clone(bus),
            Arc::clone(&store),
            settings,
        );
        let commands = Commands::new(
            Arc::clone(&hub),
            Arc::clone(&presence),
            Arc::clone(&store),
            Arc::clone(&edge),
            settings.clone(),
            session_tasks.clone(),
        );
        let gateway = Arc::new(Self {
            hub,
            presence,
            commands,
            store,
            bus: Arc::clone(bus),
            edge,
            settings: settings.clone(),
            admission: Admission::new(settings),
            sessions: Arc::default(),
            tasks,
            session_tasks,
            closing,
        });
        gateway.supervise();
        gateway
    }

    fn supervise(&self) {
        let (presence, stop) = (Arc::clone(&self.presence), self.closing.clone());
        self.tasks.supervise("presence", &self.closing, move || {
            Arc::clone(&presence).run(stop.clone())
        });
        let (presence, stop) = (Arc::clone(&self.presence), self.closing.clone());
        self.tasks
            .supervise("presence-check", &self.closing, move || {
                Arc::clone(&presence).run_checks(stop.clone())
            });
        let (sessions, stop) = (Arc::clone(&self.sessions), self.closing.clone());
        let sanctions = Arc::clone(self.store.sanctions());
        self.tasks
            .supervise("sanctioned-sessions", &self.closing, move || {
                end_sanctioned(Arc::clone(&sessions), Arc::clone(&sanctions), stop.clone())
            });
        let (sessions, stop) = (Arc::clone(&self.sessions), self.closing.clone());
        let (edge, interval) = (Arc::clone(&self.edge), self.settings.heartbeat.0);
        self.tasks.supervise("heartbeat", &self.closing, move || {
            heartbeat::run(
                Arc::clone(&sessions),
                Arc::clone(&edge),
                interval,
                stop.clone(),
            )
        });
    }

    /// The tasks of the doors: closing waits for them.
    #[must_use]
    pub fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }

    /// The tasks that serve sessions, or do something for one.
    #[must_use]
    pub fn session_tasks(&self) -> &OneShots {
        &self.session_tasks
    }

    /// Cancelled when the gateway closes.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &RealtimeSettings {
        &self.settings
    }

    /// How long ago the bus last proved that pushes are received; none for a bus that needs no proof.
    #[must_use]
    pub fn bus_silence(&self) -> Option<Duration> {
        self.bus.silence()
    }

    /// Why the bus does not do all of its work now.
    #[must_use]
    pub fn bus_problem(&self) -> Option<Problem> {
        self.bus.problem()
    }

    /// Whether pushes reach the sessions of all nodes, as far as it is known.
    #[must_use]
    pub fn bus_works(&self) -> bool {
        let silence = self.bus.silence();
        self.bus.problem().is_none() && silence.is_none_or(|silence| silence < SILENCE_MAX)
    }

    /// Pushes an event of the deployment's own back end to every session of `users`, at most once each, and gives those of the users
    /// who are connected. This does not authorize: callers check for the role of an administrator.
    ///
    /// # Errors
    /// When the bus does not work now: nothing was pushed.
    pub async fn push(
        &self,
        users: &[UserId],
        event: CustomEvent,
    ) -> Result<Vec<UserId>, BusUnavailable> {
        if !self.bus_works() {
            let why = self.bus.problem().map(|problem| problem.to_string());
            return Err(BusUnavailable(why.unwrap_or_else(|| "it is silent".into())));
        }
        let push = Push::custom(event);
        for user in users {
            self.bus.publish(&Topic::User(user.clone()), &push);
        }
        let statuses = self.presence.statuses(users).await;
        let is_online =
            |user: &&UserId| statuses.get(user).is_some_and(|it| *it != Status::Offline);
        Ok(users.iter().filter(is_online).cloned().collect())
    }

    /// The presence of users, on any node, whoever they are; without the roster, as this node knows it. This does not authorize:
    /// callers check for the role of an administrator.
    pub async fn presence_of(&self, users: &[UserId]) -> Vec<Presence> {
        self.presence.look_up(users).await
    }

    /// How many connections there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.admission.count()
    }

    /// The topics.
    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The store.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The commands.
    pub(crate) fn commands(&self) -> &Commands {
        &self.commands
    }

    /// The part of an error that a client may know.
    pub(crate) fn failure(&self, error: Error) -> Failure {
        self.edge.failure(error)
    }

    /// Admits a connection from `address`.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn admit(
        &self,
        address: Option<IpAddr>,
        token: Token,
    ) -> Result<ConnectionPermit, Refused> {
        self.admission.admit(address, token)
    }

    /// Checks a token.
    ///
    /// # Errors
    /// Why it is not accepted, and the code with which the connection is closed.
    pub async fn authenticate(&self, token: &str) -> Result<Identity, (Close, Failure)> {
        edge::authenticate(&self.edge, token).await
    }

    /// Opens a session. It follows its user's list and has the conversations of `resume` open; `hello` and the changes that
    /// it missed wait in its queue. With `pinged`, the gateway pings the client.
    ///
    /// # Errors
    /// [`Close::TooManyConnections`] when the user's other clients are all alive; [`Close::InvalidFrame`] when `resume` names more conversations than one session may have
    /// open; [`Close::ShuttingDown`].
    pub async fn open(
        &self,
        identity: Identity,
        resume: Option<Resume>,
        pinged: bool,
    ) -> Result<Arc<Session>, Close> {
        let resumes = resume.is_some();
        let missed = resume.unwrap_or_default();
        if missed.conversations.len() > self.settings.joined_conversations {
            return Err(Close::InvalidFrame);
        }
        let queue = self.settings.queue_bytes;
        let session = Arc::new(Session::new(&identity, queue, pinged));
        self.take_place(&session).await?;
        metrics::SESSIONS.series().increment(1.0);
        let opening = Opening {
            gateway: self,
            session: Some(Arc::clone(&session)),
        };
        self.sessions.insert(&session);
        if self.admission.is_draining() {
            return Err(Close::ShuttingDown);
        }
        // What was imposed since the token was checked: from here on the session is found when it changes.
        let sanctions = self.store.sanctions();
        let admitted = sanctions.admit(&session.user, Some(session.issued_at()));
        admitted.map_err(|sanctioned| Close::of(&sanctioned))?;
        let whole = self.greet(&session, resumes, missed).await;
        let outcome = match (resumes, whole) {
            (false, _) => "fresh",
            (true, true) => "recovered",
            (true, false) => "resync",
        };
        metrics::CONNECTS.with([outcome]).increment(1);
        opening.finish();
        Ok(session)
    }

    /// Gives `session` a place among its user's. When there is none, it takes that of a session whose client does not answer a
    /// ping: after a change of network the old connections are dead, and neither side was told.
    async fn take_place(&self, session: &Arc<Session>) -> Result<(), Close> {
        let (users, most) = (self.presence.users(), self.settings.sessions_per_user);
        if users.session_opened(session, most) {
            return Ok(());
        }
        users.probe(&session.user);
        let within = ANSWER_WITHIN.min(self.settings.heartbeat.0 / 5);
        tokio::time::sleep(within).await;
        match users.session_replaces(session, most, within) {
            Ok(replaced) => {
                if let Some(replaced) = replaced {
                    replaced.outbox.close(Close::Replaced);
                }
                Ok(())
            }
            Err(AllAlive) => Err(Close::TooManyConnections),
        }
    }

    /// Resumes a session, and puts `hello` at the head of its queue. Says whether nothing that it missed was refused.
    async fn greet(&self, session: &Arc<Session>, resumes: bool, missed: Resume) -> bool {
        let Resumed {
            cursor,
            whole,
            unanswered,
        } = resume(&self.hub, session, missed).await;
        if !unanswered.is_empty() {
            let (hub, session) = (Arc::clone(&self.hub), Arc::clone(session));
            let joining = join_later(hub, session, unanswered, self.closing.clone());
            // Without room for it they stay closed, as the client was told.
            let _ = self.session_tasks.spawn(joining);
        }
        let (expires_at, expires_in_ms) = session.token_expiry();
        let interval = self.settings.heartbeat.0.as_millis();
        let hello = Hello {
            session_id: &format!("{:016x}", session.id),
            user_id: &session.user,
            heartbeat_interval_ms: u64::try_from(interval).unwrap_or(0),
            expires_at,
            expires_in_ms,
            cursor,
            recovered: resumes && whole,
            limits: SessionLimits {
                frame_bytes: self.settings.max_frame,
                joined_conversations: self.settings.joined_conversations,
                presence_users: WATCHED_MAX,
                commands_per_second: self.settings.commands_per_second,
            },
        };
        let hello = ClientEvent::new(EventName::Hello, &hello);
        session.outbox.put_first(hello);
        whole
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
        self.sessions.remove(session);
        for id in typing {
            self.hub.publish_typing(session, id, false);
        }
        for id in joined {
            self.hub.leave(session, id);
        }
        for user in watched {
            self.hub.presence().unwatch(session, &user);
        }
        self.hub.unfollow_list(session);
        self.presence.users().session_ended(session);
        metrics::SESSIONS.series().decrement(1.0);
    }

    /// Admits no more connections and sends every client away, in random order over [`RealtimeSettings::drain_window`].
    pub async fn drain(&self) {
        self.admission.drain();
        self.presence.drain();
        let sessions = self.sessions.all();
        let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX).max(1);
        let started = Instant::now();
        for (n, session) in (0_u32..).zip(sessions) {
            let due = started + self.settings.drain_window.0 / count * n;
            tokio::time::sleep_until(due.into()).await;
            send_away(&session);
        }
        // Sessions that were being opened when the node began to drain.
        for session in self.sessions.all() {
            send_away(&session);
        }
    }

    /// Closes every connection and ends the gateway's tasks, for at most `timeout`.
    pub async fn close(&self, timeout: Duration) {
        self.admission.drain();
        for session in self.sessions.all() {
            session.outbox.close(Close::ShuttingDown);
        }
        self.closing.cancel();
        self.tasks.finish(Instant::now() + timeout).await;
        self.hub.close().await;
    }
}

/// Has a client connect to another node.
fn send_away(session: &Session) {
    let after_ms = rand::random_range(0..1000);
    let event = ClientEvent::new(EventName::Reconnect, &Reconnect { after_ms });
    session.outbox.put_event(&Arc::new(event));
    session.outbox.close(Close::ShuttingDown);
}

/// Closes the sessions of users whom a sanction shuts out, whenever sanctions have changed, until `closing`.
async fn end_sanctioned(
    sessions: Arc<Sessions>,
    sanctions: Arc<Sanctions>,
    closing: CancellationToken,
) {
    let mut changes = sanctions.changes();
    loop {
        for session in sessions.all() {
            if let Err(sanctioned) = sanctions.admit(&session.user, Some(session.issued_at())) {
                session.outbox.close(Close::of(&sanctioned));
            }
        }
        match closing.run_until_cancelled(changes.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}
