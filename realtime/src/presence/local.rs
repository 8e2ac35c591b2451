//! The users with sessions on this node: their statuses, and which of them the other nodes know.
//!
//! Nothing here waits. A user stays for [`GRACE`] after their last session ended, so that a reconnect is not visible.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backscroll_shard::ids::UserId;
use backscroll_shard::model::Timestamp;

use crate::bus::Status;
use crate::session::Session;

/// How long a user stays online after their last session ended.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// After how many seconds without a command a user is idle.
const IDLE_AFTER: u32 = 300;

/// A user with sessions on this node, or who had some a moment ago.
#[derive(Debug, Default)]
struct Local {
    sessions: Vec<Arc<Session>>,
    /// The status that was published last. Offline also when none was.
    published: Status,
    /// When the last session ended.
    gone_since: Option<(Instant, Timestamp)>,
}

impl Local {
    /// The greatest status that a session chose; idle instead of online when no session gave a command for a while.
    fn status(&self) -> Status {
        let chosen = self.sessions.iter().filter_map(|session| session.status());
        let chosen = chosen.max();
        let mut sessions = self.sessions.iter();
        let active = sessions.any(|session| session.inactive_for() < IDLE_AFTER);
        match chosen {
            Some(Status::Online) | None if !active => Status::Idle,
            Some(status) => status,
            None => Status::Online,
        }
    }
}

/// A user has as many sessions as allowed, and none of them failed to answer its probe.
#[derive(Debug)]
pub(crate) struct AllAlive;

/// A user whose last session ended [`GRACE`] ago.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) user: UserId,
    pub(super) at: Timestamp,
    /// The status that was published last.
    pub(super) published: Status,
}

/// The users of a node.
#[derive(Debug, Default)]
pub(crate) struct LocalUsers {
    users: Mutex<HashMap<UserId, Local>>,
    /// Users whose status may differ from the published one.
    changed: Mutex<HashSet<UserId>>,
}

impl LocalUsers {
    fn users(&self) -> MutexGuard<'_, HashMap<UserId, Local>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) -> MutexGuard<'_, HashSet<UserId>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a session. `false` when its user has `most` sessions already.
    #[must_use]
    pub(crate) fn session_opened(&self, session: &Arc<Session>, most: usize) -> bool {
        let mut users = self.users();
        let local = users.entry(session.user.clone()).or_default();
        if local.sessions.len() >= most {
            return false;
        }
        local.sessions.push(Arc::clone(session));
        local.gone_since = None;
        drop(users);
        self.mark_changed(&session.user);
        true
    }

    /// Asks the clients of all sessions of `user` for a sign of life.
    pub(crate) fn probe(&self, user: &UserId) {
        if let Some(local) = self.users().get(user) {
            local.sessions.iter().for_each(|session| session.probe());
        }
    }

    /// Adds a session, and when its user has `most` already, removes and returns the one that has been silent longest of those
    /// whose probe was not answered `within`.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn session_replaces(
        &self,
        session: &Arc<Session>,
        most: usize,
        within: Duration,
    ) -> Result<Option<Arc<Session>>, AllAlive> {
        let mut users = self.users();
        let local = users.entry(session.user.clone()).or_default();
        let replaced = if local.sessions.len() < most {
            None
        } else {
            let dead = local.sessions.iter().enumerate();
            let dead = dead.filter(|(_, other)| other.is_silent_since_probe(within));
            let longest = dead.max_by_key(|(_, other)| other.silent_for());
            let (place, _) = longest.ok_or(AllAlive)?;
            Some(local.sessions.swap_remove(place))
        };
        local.sessions.push(Arc::clone(session));
        local.gone_since = None;
        drop(users);
        self.mark_changed(&session.user);
        Ok(replaced)
    }

    /// Removes a session.
    pub(crate) fn session_ended(&self, session: &Arc<Session>) {
        let mut users = self.users();
        let Some(local) = users.get_mut(&session.user) else {
            return;
        };
        local.sessions.retain(|other| !Arc::ptr_eq(other, session));
        if local.sessions.is_empty() {
            local.gone_since = Some((Instant::now(), Timestamp::now()));
        } else {
            drop(users);
            self.mark_changed(&session.user);
        }
    }

    /// The sessions that watch users and were [checked](Session::note_check) at least `age` seconds ago: at most `most`, those
    /// that wait longest. They count as checked from now on.
    pub(super) fn take_unchecked(&self, age: u32, most: usize) -> Vec<Arc<Session>> {
        let users = self.users();
        let sessions = users.values().flat_map(|local| &local.sessions);
        let due =
            sessions.filter(|session| session.names_watched() && session.checked_for() >= age);
        let mut due: Vec<Arc<Session>> = due.cloned().collect();
        drop(users);
        due.sort_by_key(|session| std::cmp::Reverse(session.checked_for()));
        due.truncate(most);
        due.iter().for_each(|session| session.note_check());
        due
    }

    /// Notes that the status of `user` may have changed.
    pub(crate) fn mark_changed(&self, user: &UserId) {
        self.changed().insert(user.clone());
    }

    /// Marks the users whose status differs from the published one, such as those who have become idle.
    pub(super) fn mark_stale(&self) {
        let users = self.users();
        let stale = users
            .iter()
            .filter(|(_, local)| !local.sessions.is_empty() && local.published != local.status());
        self.changed().extend(stale.map(|(user, _)| user.clone()));
    }

    /// The changes since the last call. They count as published from now on.
    pub(super) fn take_changes(&self) -> Vec<(UserId, Status)> {
        let changed = std::mem::take(&mut *self.changed());
        let mut users = self.users();
        let mut changes = Vec::new();
        for user in changed {
            let local = users.get_mut(&user);
            if let Some(local) = local.filter(|local| !local.sessions.is_empty()) {
                let status = local.status();
                if local.published != status {
                    local.published = status;
                    changes.push((user, status));
                }
            }
        }
        changes
    }

    /// Changes that were taken could not be set in the roster: [`LocalUsers::mark_stale`] marks their users again.
    pub(super) fn forget_published(&self, changes: &[(UserId, Status)]) {
        let mut users = self.users();
        for (user, _) in changes {
            if let Some(local) = users.get_mut(user) {
                local.published = Status::Offline;
            }
        }
    }

    /// The users whose last session ended [`GRACE`] ago. They are no longer this node's.
    pub(super) fn take_gone(&self) -> Vec<Gone> {
        let now = Instant::now();
        let mut gone = Vec::new();
        self.users().retain(|user, local| match local.gone_since {
            Some((since, at)) if now - since >= GRACE => {
                gone.push(Gone {
                    user: user.clone(),
                    at,
                    published: local.published,
                });
                false
            }
            _ => true,
        });
        gone
    }

    /// Users who were taken and could not be set offline are this node's again, unless they have come back meanwhile: the next
    /// [`LocalUsers::take_gone`] has them.
    pub(super) fn put_back(&self, gone: Vec<Gone>) {
        let mut users = self.users();
        for Gone {
            user,
            at,
            published,
        } in gone
        {
            let since = Instant::now().checked_sub(GRACE);
            users.entry(user).or_insert_with(|| Local {
                sessions: Vec::new(),
                published,
                gone_since: Some((since.unwrap_or_else(Instant::now), at)),
            });
        }
    }

    /// All users whose published status is not offline.
    pub(super) fn published(&self) -> Vec<(UserId, Status)> {
        let users = self.users();
        let published = users
            .iter()
            .map(|(user, local)| (user.clone(), local.published));
        published
            .filter(|(_, status)| *status != Status::Offline)
            .collect()
    }

    /// The published statuses of those among `asked` who are this node's users.
    pub(super) fn published_of(&self, asked: &[UserId]) -> HashMap<UserId, Status> {
        let users = self.users();
        let published = |user: &UserId| Some((user.clone(), users.get(user)?.published));
        asked.iter().filter_map(published).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_chosen_status_counts() {
        let users = LocalUsers::default();
        let (phone, desk) = (Session::test("alice"), Session::test("alice"));
        assert!(users.session_opened(&phone, 2) && users.session_opened(&desk, 2));
        assert!(!users.session_opened(&Session::test("alice"), 2));
        let alice = phone.user.clone();
        assert_eq!(users.take_changes(), [(alice.clone(), Status::Online)]);
        phone.show(Status::Away);
        users.mark_changed(&alice);
        assert_eq!(users.take_changes(), [(alice.clone(), Status::Away)]);
        desk.show(Status::Busy);
        users.mark_changed(&alice);
        assert_eq!(users.take_changes(), [(alice.clone(), Status::Busy)]);
        users.session_ended(&desk);
        assert_eq!(users.take_changes(), [(alice, Status::Away)]);
    }

    #[test]
    fn a_session_replaces_one_whose_probe_is_not_answered() {
        let users = LocalUsers::default();
        let (phone, desk) = (Session::test("alice"), Session::test("alice"));
        assert!(users.session_opened(&phone, 2) && users.session_opened(&desk, 2));
        let newest = Session::test("alice");
        assert!(
            users.session_replaces(&newest, 2, Duration::ZERO).is_err(),
            "nobody was asked"
        );
        users.probe(&phone.user);
        phone.note_activity();
        let soon = Duration::from_secs(60);
        assert!(
            users.session_replaces(&newest, 2, soon).is_err(),
            "too soon to say"
        );
        let replaced = users.session_replaces(&newest, 2, Duration::ZERO);
        assert!(Arc::ptr_eq(&replaced.unwrap().unwrap(), &desk));
        users.session_ended(&desk);
        assert!(
            !users.session_opened(&Session::test("alice"), 2),
            "both count"
        );
        users.session_ended(&phone);
        let another = users.session_replaces(&desk, 2, Duration::ZERO);
        assert!(another.unwrap().is_none(), "there is room");
    }

    #[test]
    fn a_change_that_was_not_set_is_published_again() {
        let users = LocalUsers::default();
        let session = Session::test("alice");
        assert!(users.session_opened(&session, 1));
        let changes = users.take_changes();
        assert_eq!((changes.len(), users.published()), (1, changes.clone()));
        users.mark_stale();
        assert!(users.take_changes().is_empty());
        users.forget_published(&changes);
        assert!(users.published().is_empty());
        users.mark_stale();
        assert_eq!(users.take_changes(), changes);
    }

    #[test]
    fn who_could_not_be_set_offline_is_gone_still() {
        let users = LocalUsers::default();
        let gone = |name: &str| Gone {
            user: UserId::new(name).unwrap(),
            at: Timestamp(7),
            published: Status::Online,
        };
        let back = Session::test("bob");
        assert!(users.session_opened(&back, 1));
        users.put_back(vec![gone("alice"), gone("bob")]);
        let again = users.take_gone();
        assert_eq!(again.len(), 1, "{again:?}");
        assert_eq!(
            (again[0].user.as_str(), again[0].at),
            ("alice", Timestamp(7))
        );
        assert!(users.take_gone().is_empty());
    }

    #[test]
    fn a_user_who_left_is_not_gone_at_once() {
        let users = LocalUsers::default();
        let session = Session::test("alice");
        assert!(users.session_opened(&session, 1));
        let changes = users.take_changes();
        users.session_ended(&session);
        assert!(users.take_gone().is_empty());
        assert_eq!(users.published(), changes);
    }
}
