//! Who is online, for those who look.
//!
//! Those who look are connections that named whom they watch, and those that opened a small conversation and named nobody:
//! they are told of its members.
//!
//! A node tells the roster of its own users only; the roster forgets a node that no longer renews its lease, so that a node's death
//! takes its users offline. Changes are gathered for a second, and told on the user's presence topic to those who look;
//! nobody else hears of them. Somebody whose last connection ended is taken offline [`GRACE`] later, and not at all when they come back, or when the node is draining: a deployment is not seen.
//! When a user was seen last is kept in the store. All of it is a hint, and heals: each node looks up whom its sessions watch
//! when another node's lease has ended, and tells the roster everything when the roster has forgotten it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::bus::{Roster, Status};
use crate::client_event::ClientEvent;
use crate::hub::Hub;
use crate::protocol::Presence;
use crate::protocol::events::EventName;
use crate::push::{Push, PushKind, Topic};
use crate::session::Session;

/// How often changes are told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often the lease is renewed, the nodes are compared and idle users are looked for.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How long after their last connection somebody is still online.
const GRACE: Duration = Duration::from_secs(10);
/// After how many seconds without a command somebody is idle.
const IDLE_AFTER: u32 = 300;
/// Most users asked for or told of at once.
const BATCH: usize = 500;
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A user with connections to this node.
#[derive(Debug, Default)]
struct Local {
    sessions: Vec<Arc<Session>>,
    told: Status,
    gone_since: Option<(Instant, Timestamp)>,
}

impl Local {
    fn status(&self) -> Status {
        let shown = self.sessions.iter().filter_map(|session| session.status());
        let said = shown.max();
        let active = self
            .sessions
            .iter()
            .any(|session| session.inactive_for() < IDLE_AFTER);
        match said {
            Some(Status::Online) | None if !active => Status::Idle,
            Some(status) => status,
            None => Status::Online,
        }
    }
}

/// The presence of this node's users.
pub struct PresenceKeeper {
    hub: Arc<Hub>,
    roster: Arc<dyn Roster>,
    users: Mutex<HashMap<UserId, Local>>,
    changed: Mutex<HashSet<UserId>>,
    draining: AtomicBool,
}

impl PresenceKeeper {
    /// A keeper for the sessions of `hub`'s node.
    #[must_use]
    pub fn new(hub: Arc<Hub>, roster: Arc<dyn Roster>) -> Arc<Self> {
        Arc::new(Self {
            hub,
            roster,
            users: Mutex::default(),
            changed: Mutex::default(),
            draining: AtomicBool::new(false),
        })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserId, Local>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, user: &UserId) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.insert(user.clone());
    }

    /// A connection was made, unless its user has `most` already.
    #[must_use]
    pub fn came(&self, session: &Arc<Session>, most: usize) -> bool {
        let mut users = self.users();
        let local = users.entry(session.user.clone()).or_default();
        if local.sessions.len() >= most {
            return false;
        }
        local.sessions.push(Arc::clone(session));
        local.gone_since = None;
        drop(users);
        self.mark(&session.user);
        true
    }

    /// A connection ended.
    pub fn went(&self, session: &Arc<Session>) {
        let mut users = self.users();
        let Some(local) = users.get_mut(&session.user) else {
            return;
        };
        local.sessions.retain(|other| !Arc::ptr_eq(other, session));
        if local.sessions.is_empty() {
            local.gone_since = Some((Instant::now(), Timestamp::now()));
        } else {
            drop(users);
            self.mark(&session.user);
        }
    }

    /// What a user shows may have changed.
    pub fn touched(&self, user: &UserId) {
        self.mark(user);
    }

    /// From now on nobody is taken offline: they connect to other nodes.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Who of some users shows what; who is absent is offline.
    async fn shown(&self, users: &[UserId]) -> HashMap<UserId, Status> {
        self.roster.look_up(users).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "who is online on other nodes is not known");
            let here = self.users();
            let told = |user: &UserId| Some((user.clone(), here.get(user)?.told));
            users.iter().filter_map(told).collect()
        })
    }

    /// Tells `session`, which has opened a conversation and named nobody to watch, who of its members is online, and from
    /// now on who comes and goes.
    pub(crate) async fn show_members(&self, session: &Arc<Session>, id: ConversationId) {
        let members = match self.hub.show_members(session, id).await {
            Ok(members) => members,
            Err(error) => {
                tracing::debug!(%error, "who comes and goes in a conversation is not told");
                return;
            }
        };
        let shown = self.shown(&members).await;
        if session.names_watched() || !session.has_joined(id) {
            return; // since it was asked
        }
        for (user_id, status) in shown {
            if status != Status::Offline && user_id != session.user {
                let presence = Presence {
                    user_id,
                    status,
                    last_seen: None,
                };
                let event = ClientEvent::new(EventName::UserOnline, &presence);
                session.outbox.put_event(&Arc::new(event));
            }
        }
    }

    /// Makes `users` those that `session` watches, and returns their presence.
    pub(crate) async fn watch(&self, session: &Arc<Session>, users: Vec<UserId>) -> Vec<Presence> {
        let Some(before) = session.watch(users.clone()) else {
            return Vec::new();
        };
        for user in before
            .into_iter()
            .filter(|user| users.binary_search(user).is_err())
        {
            self.hub.leave(session, &Topic::Presence(user));
        }
        // Watched first, looked up then: what changes meanwhile is told.
        let watching = users
            .iter()
            .map(|user| self.hub.watch(session, user.clone()));
        futures_util::future::join_all(watching).await;
        if session.watch(users.clone()).is_none() {
            for user in &users {
                self.hub.leave(session, &Topic::Presence(user.clone()));
            }
        }
        let users = self.look_up(&users).await;
        users.iter().for_each(|user| self.hub.note_presence(user));
        users
    }

    /// Of some users: whether they are online, and since when they are not.
    pub async fn look_up(&self, users: &[UserId]) -> Vec<Presence> {
        let known = self.shown(users).await;
        let status = |user: &UserId| known.get(user).copied().unwrap_or_default();
        let away: Vec<UserId> = users
            .iter()
            .filter(|user| status(user) == Status::Offline)
            .cloned()
            .collect();
        let seen = self
            .hub
            .store()
            .last_seen(&away, Instant::now() + PATIENCE)
            .await;
        let presence = |user: &UserId| Presence {
            user_id: user.clone(),
            status: status(user),
            last_seen: seen.get(user).copied(),
        };
        users.iter().map(presence).collect()
    }

    /// Tells, renews and looks until `closing`.
    pub async fn run(self: Arc<Self>, closing: CancellationToken) {
        let mut nodes: HashSet<String> = HashSet::new();
        let mut renewed = Instant::now() - RENEW_EVERY;
        loop {
            if closing
                .run_until_cancelled(tokio::time::sleep(TELL_EVERY))
                .await
                .is_none()
            {
                return;
            }
            if renewed.elapsed() >= RENEW_EVERY {
                renewed = Instant::now();
                self.renew(&mut nodes).await;
            }
            self.tell().await;
        }
    }

    async fn renew(&self, nodes: &mut HashSet<String>) {
        if let Ok(false) = self.roster.renew().await {
            self.set_all().await;
        }
        {
            let users = self.users();
            let stale = users
                .iter()
                .filter(|(_, local)| !local.sessions.is_empty() && local.told != local.status());
            let stale: Vec<UserId> = stale.map(|(user, _)| user.clone()).collect();
            drop(users);
            stale.iter().for_each(|user| self.mark(user));
        }
        if let Ok(live) = self.roster.nodes().await {
            let live: HashSet<String> = live.into_iter().collect();
            let lost = nodes.difference(&live).next().is_some();
            *nodes = live;
            if lost {
                self.compare_watched().await;
            }
        }
    }

    /// The roster has forgotten this node: it is told of all its users again. Those who watch them know.
    async fn set_all(&self) {
        let all: Vec<(UserId, Status)> = {
            let users = self.users();
            let shown = users
                .iter()
                .filter(|(_, local)| local.told != Status::Offline);
            shown
                .map(|(user, local)| (user.clone(), local.told))
                .collect()
        };
        for batch in all.chunks(BATCH) {
            if let Err(error) = self.roster.set(batch).await {
                tracing::warn!(%error, "who is online is not told to the roster yet");
                return; // its next renewal says so again
            }
        }
    }

    /// A node is gone: whoever is not on another one is offline.
    async fn compare_watched(&self) {
        let watched = self.hub.watched();
        for users in watched.chunks(BATCH) {
            let Ok(known) = self.roster.look_up(users).await else {
                return;
            };
            for user in users.iter().filter(|user| !known.contains_key(*user)) {
                // To this node's watchers only: every node looks for its own.
                let push = presence_push(user, Status::Offline, Some(Timestamp::now()));
                self.hub.take_offline(user, &push);
            }
        }
    }

    /// Tells what has changed, and who has gone.
    async fn tell(&self) {
        let now = Instant::now();
        let mut told: Vec<(UserId, Status)> = Vec::new();
        let mut gone: Vec<(UserId, Timestamp, Status)> = Vec::new();
        {
            let changed = {
                let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *changed)
            };
            let mut users = self.users();
            for user in changed {
                if let Some(local) = users.get_mut(&user)
                    && !local.sessions.is_empty()
                {
                    let status = local.status();
                    if local.told != status {
                        local.told = status;
                        told.push((user, status));
                    }
                }
            }
            if !self.draining.load(Ordering::Relaxed) {
                users.retain(|user, local| match local.gone_since {
                    Some((since, at)) if now - since >= GRACE => {
                        gone.push((user.clone(), at, local.told));
                        false
                    }
                    _ => true,
                });
            }
        }
        for batch in told.chunks(BATCH) {
            if let Err(error) = self.roster.set(batch).await {
                tracing::warn!(%error, "who is online is not told to the roster yet");
                let mut users = self.users();
                for (user, _) in batch {
                    if let Some(local) = users.get_mut(user) {
                        local.told = Status::Offline; // told again when the lease is renewed
                    }
                }
            }
        }
        for (user, status) in &told {
            let seen = (*status == Status::Offline).then(Timestamp::now);
            self.publish(user, &presence_push(user, *status, seen));
        }
        for batch in gone.chunks(BATCH) {
            self.take_offline(batch).await;
        }
    }

    /// Those who are on no other node are offline. Who had hidden was so before, and is seen leaving no more than coming.
    async fn take_offline(&self, gone: &[(UserId, Timestamp, Status)]) {
        let out: Vec<(UserId, Status)> = gone
            .iter()
            .map(|(user, ..)| (user.clone(), Status::Offline))
            .collect();
        let _ = self.roster.set(&out).await; // else the lease's end does it
        let users: Vec<UserId> = gone.iter().map(|(user, ..)| user.clone()).collect();
        let elsewhere = self.roster.look_up(&users).await.unwrap_or_default();
        let mut seen = Vec::new();
        for (user, at, told) in gone {
            if *told != Status::Offline && !elsewhere.contains_key(user) {
                self.publish(user, &presence_push(user, Status::Offline, Some(*at)));
                seen.push((user.clone(), *at));
            }
        }
        let stored = self.hub.store().saw(&seen, Instant::now() + PATIENCE).await;
        if let Err(error) = stored {
            tracing::warn!(%error, "when users were seen last is not stored");
        }
    }

    fn publish(&self, user: &UserId, push: &Push) {
        let topic = Topic::Presence(user.clone());
        if self.hub.bus().may_have_listeners(&topic) {
            self.hub.bus().publish(&topic, push);
        }
    }
}

fn presence_push(user: &UserId, status: Status, last_seen: Option<Timestamp>) -> Push {
    let kind = match status {
        Status::Offline => PushKind::UserOffline,
        _ => PushKind::UserOnline,
    };
    let data = Presence {
        user_id: user.clone(),
        status,
        last_seen,
    };
    Push::state(kind, user.clone(), &data)
}
