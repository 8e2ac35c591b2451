//! Sets the users of this node in the roster, publishes their changes, and answers which users are online.
//!
//! Changes are gathered for [`PUBLISH_EVERY`], set in the roster and published. A user whose last session ended goes offline
//! [`GRACE`](super::local::GRACE) later, and not at all when a session comes back before, or when the node is draining: a deployment is not visible.
//! The roster forgets a node that does not renew its lease, so that the users of a dead node go offline. Each node compares what
//! its watchers know with the roster every 15 s, and every 5 s while something is in doubt; a user whom the roster lacks is offline
//! after three comparisons.
//!
//! A session is shown the presence of contacts only ([`backscroll_shard::contacts`]), unless `realtime.presence` says otherwise:
//! any other user is answered as one who does not exist, and no event follows. Contacts come and go, so they are looked up again
//! every `realtime.presence_check`, at most [`CHECKS`] sessions each [`RENEW_EVERY`]: on a node with more sessions that watch
//! users it takes longer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::Timestamp;
use backscroll_shard::store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::fan_out::PresenceFanOut;
use super::local::{Gone, LocalUsers};
use super::watchers::Comparison;
use crate::bus::{Bus, Roster, Status};
use crate::client_event::ClientEvent;
use crate::protocol::Presence;
use crate::protocol::events::EventName;
use crate::push::{Push, PushKind, Topic};
use crate::session::Session;
use crate::settings::{RealtimeSettings, Visibility};

/// How often changes are published.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// How often the lease is renewed, the nodes are compared, and users without commands become idle.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// After how many renewals what watchers know is compared with the roster, if nothing asks for it sooner.
const COMPARE_EVERY: u32 = 3;
/// Most users in one call of the roster.
const BATCH: usize = 500;
/// Most sessions whose contacts are looked up again at once, and how many of them at the same time.
const CHECKS: usize = 200;
const CHECKS_AT_ONCE: usize = 8;
/// Most look-ups of contacts at the same time, so that requests still find connections to the databases when everybody comes back.
const LOOK_UPS_MAX: usize = 8;
/// How long the store may take.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the renewals remember of each other.
#[derive(Debug, Default)]
struct Rounds {
    /// The live nodes.
    nodes: HashSet<String>,
    /// How many renewals come before the next comparison.
    until_comparison: u32,
}

/// Keeps the presence of this node's users.
pub(crate) struct PresenceKeeper {
    fan_out: Arc<PresenceFanOut>,
    roster: Arc<dyn Roster>,
    bus: Arc<dyn Bus>,
    store: Arc<Store>,
    users: LocalUsers,
    visibility: Visibility,
    look_ups: Semaphore,
    check_every: Duration,
    draining: AtomicBool,
}

impl PresenceKeeper {
    /// A keeper without users.
    pub(crate) fn new(
        fan_out: Arc<PresenceFanOut>,
        roster: Arc<dyn Roster>,
        bus: Arc<dyn Bus>,
        store: Arc<Store>,
        settings: &RealtimeSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            fan_out,
            roster,
            bus,
            store,
            users: LocalUsers::default(),
            visibility: settings.presence,
            look_ups: Semaphore::new(LOOK_UPS_MAX),
            check_every: settings.presence_check.0,
            draining: AtomicBool::new(false),
        })
    }

    /// The users of this node.
    pub(crate) fn users(&self) -> &LocalUsers {
        &self.users
    }

    /// From now on no user goes offline: their clients connect to other nodes.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The statuses of users, on any node; an absent user is offline. Without the roster, those of this node's users.
    pub(crate) async fn statuses(&self, users: &[UserId]) -> HashMap<UserId, Status> {
        self.roster.look_up(users).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the presence of users on other nodes is not known");
            self.users.published_of(users)
        })
    }

    /// Makes `users`, which are sorted, those that `session` watches, and returns their presence. One that the session may not be
    /// shown is offline, like one who does not exist.
    pub(crate) async fn watch(&self, session: &Arc<Session>, users: Vec<UserId>) -> Vec<Presence> {
        session.note_check();
        let visible = self.visible_to(&session.user, &users).await;
        let Some(before) = session.watch(users.clone()) else {
            return Vec::new();
        };
        for user in before {
            if visible.binary_search(&user).is_err() {
                self.fan_out.unwatch(session, &user);
            }
        }
        self.show(session, &visible).await;
        let mut shown = self.look_up(&visible).await;
        for presence in &shown {
            self.fan_out.note_reply(presence);
        }
        let hidden = users
            .into_iter()
            .filter(|user| visible.binary_search(user).is_err());
        shown.extend(hidden.map(unknown));
        shown.sort_by(|one, other| one.user_id.cmp(&other.user_id));
        shown
    }

    /// Those of `users`, which are sorted, whose presence `watcher` may be shown; none but the watcher when there is no turn in time:
    /// the next check has them.
    async fn visible_to(&self, watcher: &UserId, users: &[UserId]) -> Vec<UserId> {
        if self.visibility == Visibility::Anyone || users.is_empty() {
            return users.to_vec();
        }
        let deadline = Instant::now() + STORE_TIMEOUT;
        let turn = tokio::time::timeout_at(deadline.into(), self.look_ups.acquire()).await;
        let contacts = match turn {
            Ok(_turn) => self.store.contacts_among(watcher, users, deadline).await,
            Err(_) => HashSet::new(),
        };
        let visible = users
            .iter()
            .filter(|user| *user == watcher || contacts.contains(*user));
        visible.cloned().collect()
    }

    /// Lets `session` watch `users`, as far as it still names them. Gives those that it did not watch before.
    async fn show(&self, session: &Arc<Session>, users: &[UserId]) -> Vec<UserId> {
        let watching = users.iter().cloned();
        let watching = watching.map(|user| self.show_one(session, user));
        let new = futures_util::future::join_all(watching).await;
        for user in users.iter().filter(|user| !session.watches(user)) {
            self.fan_out.unwatch(session, user); // the session has ended meanwhile, or names others
        }
        new.into_iter().flatten().collect()
    }

    /// Lets `session` watch `user`; gives the user if it did not before.
    async fn show_one(&self, session: &Arc<Session>, user: UserId) -> Option<UserId> {
        let is_new = self.fan_out.watch(session, user.clone()).await;
        is_new.then_some(user)
    }

    /// Looks up again whom sessions may be shown, until `closing`.
    pub(crate) async fn run_checks(self: Arc<Self>, closing: CancellationToken) {
        if self.visibility == Visibility::Anyone {
            return closing.cancelled().await;
        }
        let age = u32::try_from(self.check_every.as_secs()).unwrap_or(u32::MAX);
        loop {
            let pause = tokio::time::sleep(RENEW_EVERY);
            if closing.run_until_cancelled(pause).await.is_none() {
                return;
            }
            for sessions in self
                .users
                .take_unchecked(age, CHECKS)
                .chunks(CHECKS_AT_ONCE)
            {
                let checks = sessions.iter().cloned();
                let checks = checks.map(|session| self.check(session));
                let checked = futures_util::future::join_all(checks);
                if closing.run_until_cancelled(checked).await.is_none() {
                    return;
                }
            }
        }
    }

    /// Ends the watching of users whom `session` may no longer be shown, and begins that of those whom it may be shown now. For
    /// its client the former go offline, and the latter come.
    async fn check(&self, session: Arc<Session>) {
        let users = session.watched();
        let visible = self.visible_to(&session.user, &users).await;
        for user in users
            .iter()
            .filter(|user| visible.binary_search(user).is_err())
        {
            if self.fan_out.unwatch(&session, user) {
                let event = ClientEvent::new(EventName::UserOffline, &unknown(user.clone()));
                session.outbox.put_event(&Arc::new(event));
            }
        }
        let new = self.show(&session, &visible).await;
        for presence in self.look_up(&new).await {
            self.fan_out.note_reply(&presence);
            if presence.status != Status::Offline {
                let event = ClientEvent::new(EventName::UserOnline, &presence);
                session.outbox.put_event(&Arc::new(event));
            }
        }
    }

    /// The presence of users: their status, and when offline ones were seen last.
    pub(crate) async fn look_up(&self, users: &[UserId]) -> Vec<Presence> {
        let statuses = self.statuses(users).await;
        let status = |user: &UserId| statuses.get(user).copied().unwrap_or_default();
        let offline = users.iter().filter(|user| status(user) == Status::Offline);
        let offline: Vec<UserId> = offline.cloned().collect();
        let deadline = Instant::now() + STORE_TIMEOUT;
        let seen = self.store.last_seen(&offline, deadline).await;
        let presence = |user: &UserId| Presence {
            user_id: user.clone(),
            status: status(user),
            last_seen: seen.get(user).copied(),
        };
        users.iter().map(presence).collect()
    }

    /// Delivers the presence of a small conversation's members to `session`, which has opened it and watches nobody by name:
    /// now those who are online, from now on every change.
    pub(crate) async fn show_members(&self, session: &Arc<Session>, id: ConversationId) {
        let members = match self.fan_out.add_onlooker(session, id).await {
            Ok(members) => members,
            Err(error) => {
                tracing::debug!(%error, "the presence of a conversation's members is not delivered");
                return;
            }
        };
        let statuses = self.statuses(&members).await;
        if session.names_watched() || !session.has_joined(id) {
            return; // since then
        }
        for user_id in members.iter().cloned() {
            let status = statuses.get(&user_id).copied().unwrap_or_default();
            let presence = Presence {
                user_id,
                status,
                last_seen: None,
            };
            self.fan_out.note_reply(&presence);
            if status != Status::Offline && presence.user_id != session.user {
                let event = ClientEvent::new(EventName::UserOnline, &presence);
                session.outbox.put_event(&Arc::new(event));
            }
        }
    }

    /// Publishes changes and renews the lease until `closing`.
    pub(crate) async fn run(self: Arc<Self>, closing: CancellationToken) {
        let mut rounds = Rounds::default();
        let mut renewed = Instant::now() - RENEW_EVERY;
        loop {
            let pause = tokio::time::sleep(PUBLISH_EVERY);
            if closing.run_until_cancelled(pause).await.is_none() {
                return;
            }
            if renewed.elapsed() >= RENEW_EVERY {
                renewed = Instant::now();
                self.renew(&mut rounds).await;
            }
            self.publish_changes().await;
            self.take_offline().await;
        }
    }

    /// Renews the lease, marks users who have become idle, and compares what watchers know with the roster: now and then, and
    /// when a node is gone, when the roster was down or lacked users, or when a comparison left a doubt.
    async fn renew(&self, rounds: &mut Rounds) {
        let renewed = self.roster.renew().await;
        if renewed == Ok(false) {
            self.restore_roster().await;
        }
        self.users.mark_stale();
        let Ok(live) = self.roster.nodes().await else {
            rounds.until_comparison = 0;
            return;
        };
        let live: HashSet<String> = live.into_iter().collect();
        let is_lost = rounds.nodes.difference(&live).next().is_some();
        rounds.nodes = live;
        if rounds.until_comparison == 0 || is_lost || renewed != Ok(true) {
            let is_in_doubt = self.compare_watched().await;
            rounds.until_comparison = if is_in_doubt { 0 } else { COMPARE_EVERY - 1 };
        } else {
            rounds.until_comparison -= 1;
        }
    }

    /// Sets all users of this node again, as the roster may lack some. The other nodes' comparisons find them.
    async fn restore_roster(&self) {
        for batch in self.users.published().chunks(BATCH) {
            if let Err(error) = self.roster.set(batch).await {
                tracing::warn!(%error, "the roster lacks users of this node");
                return; // the next renewal comes back to it
            }
        }
    }

    /// Delivers to this node's watchers what they do not know of the users that they watch: pushes may have been lost, and
    /// nodes die without any. Returns whether a user is in doubt.
    async fn compare_watched(&self) -> bool {
        let mut is_in_doubt = false;
        for users in self.fan_out.watched().chunks(BATCH) {
            let versions = self.fan_out.versions(users);
            let Ok(statuses) = self.roster.look_up(users).await else {
                return true;
            };
            let mut differing = Vec::new();
            for (user, version) in users.iter().zip(versions) {
                let status = statuses.get(user).copied().unwrap_or_default();
                match self.fan_out.compare(user, status, version) {
                    Comparison::Equal => {}
                    Comparison::InDoubt => is_in_doubt = true,
                    Comparison::Differs => differing.push((user.clone(), status)),
                }
            }
            self.deliver_compared(&differing).await;
        }
        is_in_doubt
    }

    /// Delivers statuses to this node's watchers. They are not published: every node compares for its own watchers.
    async fn deliver_compared(&self, statuses: &[(UserId, Status)]) {
        let offline = statuses
            .iter()
            .filter(|(_, status)| *status == Status::Offline);
        let offline: Vec<UserId> = offline.map(|(user, _)| user.clone()).collect();
        let deadline = Instant::now() + STORE_TIMEOUT;
        let seen = self.store.last_seen(&offline, deadline).await;
        for (user, status) in statuses {
            let push = presence_push(user, *status, seen.get(user).copied());
            self.fan_out.deliver(user, &push);
        }
    }

    /// Sets and publishes the statuses that have changed.
    async fn publish_changes(&self) {
        let changes = self.users.take_changes();
        for batch in changes.chunks(BATCH) {
            if let Err(error) = self.roster.set(batch).await {
                tracing::warn!(%error, "the roster lacks users of this node");
                self.users.forget_published(batch);
            }
        }
        for (user, status) in &changes {
            let seen = (*status == Status::Offline).then(Timestamp::now);
            self.publish(user, &presence_push(user, *status, seen));
        }
    }

    /// Takes the users offline whose last session ended [`GRACE`](super::local::GRACE) ago.
    async fn take_offline(&self) {
        if self.draining.load(Ordering::Relaxed) {
            return;
        }
        let mut gone = self.users.take_gone();
        while !gone.is_empty() {
            let batch = gone.split_off(gone.len().saturating_sub(BATCH));
            self.take_batch_offline(batch).await;
        }
    }

    /// Marks users offline who have no session on another node, and saves when they were seen last. A user whose status was
    /// offline already (hidden) is skipped: watchers never received that they came. While the roster is down, the users stay as
    /// they are, and their turn comes again: a user who is in the roster is online for everybody.
    async fn take_batch_offline(&self, gone: Vec<Gone>) {
        let users: Vec<UserId> = gone.iter().map(|gone| gone.user.clone()).collect();
        let statuses: Vec<(UserId, Status)> = users
            .iter()
            .map(|user| (user.clone(), Status::Offline))
            .collect();
        let set = self.roster.set(&statuses).await;
        let elsewhere = match set {
            Ok(()) => self.roster.look_up(&users).await,
            Err(error) => Err(error),
        };
        let elsewhere = match elsewhere {
            Ok(elsewhere) => elsewhere,
            Err(error) => {
                tracing::debug!(%error, "users who have left are not set offline yet");
                return self.users.put_back(gone);
            }
        };
        let mut seen = Vec::new();
        for Gone {
            user,
            at,
            published,
        } in gone
        {
            if published != Status::Offline && !elsewhere.contains_key(&user) {
                self.publish(&user, &presence_push(&user, Status::Offline, Some(at)));
                seen.push((user, at));
            }
        }
        let deadline = Instant::now() + STORE_TIMEOUT;
        if let Err(error) = self.store.save_last_seen(&seen, deadline).await {
            tracing::warn!(%error, "the times at which users were seen last are not saved");
        }
    }

    fn publish(&self, user: &UserId, push: &Push) {
        let topic = Topic::Presence(user.clone());
        if self.bus.may_have_listeners(&topic) {
            self.bus.publish(&topic, push);
        }
    }
}

/// The presence of a user who does not exist, or is hidden from the watcher.
fn unknown(user_id: UserId) -> Presence {
    Presence {
        user_id,
        status: Status::Offline,
        last_seen: None,
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
