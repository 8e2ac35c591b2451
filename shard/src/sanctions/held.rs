//! The sanctions in force, in memory: one look-up for each request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::rows::Change;
use super::{SanctionKind, Sanctioned};
use crate::ids::UserId;
use crate::model::Timestamp;

/// By user; a user without any has no entry.
#[derive(Debug, Default)]
pub(super) struct Held {
    users: RwLock<HashMap<UserId, Vec<Entry>>>,
    rev: AtomicI64,
}

/// A sanction in force.
#[derive(Debug)]
struct Entry {
    id: i64,
    imposed_at: Timestamp,
    sanctioned: Sanctioned,
}

impl Entry {
    fn holds(&self, now: Timestamp) -> bool {
        self.sanctioned.until.is_none_or(|until| now < until)
    }
}

impl Held {
    /// Up to which change they are complete.
    pub(super) fn rev(&self) -> i64 {
        self.rev.load(Ordering::Acquire)
    }

    /// The gravest sanction of `user` that forbids what is asked for, by its kind and when it was imposed, and holds at `now`, as an error.
    pub(super) fn find(
        &self,
        user: &UserId,
        now: Timestamp,
        forbids: impl Fn(SanctionKind, Timestamp) -> bool,
    ) -> Result<(), Sanctioned> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        let Some(all) = users.get(user) else {
            return Ok(());
        };
        let such = all
            .iter()
            .filter(|it| it.holds(now) && forbids(it.sanctioned.kind, it.imposed_at));
        let gravest = such.map(|it| &it.sanctioned).max_by_key(|it| it.kind);
        gravest.map_or(Ok(()), |it| Err(it.clone()))
    }

    /// Takes in changes in the order of their revs, and forgets what has ended by `now`.
    pub(super) fn take_in(&self, changes: Vec<Change>, now: Timestamp) {
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        for Change { rev, id, sanction } in changes {
            let all = users.entry(sanction.user_id.clone()).or_default();
            all.retain(|it| it.id != id && it.holds(now));
            let entry = Entry {
                id,
                imposed_at: sanction.imposed_at,
                sanctioned: Sanctioned {
                    kind: sanction.kind,
                    until: sanction.until,
                    reason: Arc::from(sanction.reason),
                },
            };
            if sanction.lifted_at.is_none() && entry.holds(now) {
                all.push(entry);
            }
            if all.is_empty() {
                users.remove(&sanction.user_id);
            }
            self.rev.store(rev, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sanctions::Sanction;

    const NOW: Timestamp = Timestamp(1000);

    fn change(rev: i64, id: i64, kind: SanctionKind, until: Option<i64>, lifted: bool) -> Change {
        let moderator = UserId::new("moderator").unwrap();
        let lifted_at = lifted.then_some(NOW);
        Change {
            rev,
            id,
            sanction: Sanction {
                user_id: UserId::new("mallory").unwrap(),
                kind,
                until: until.map(Timestamp),
                reason: format!("reason {id}"),
                imposed_by: moderator.clone(),
                imposed_at: Timestamp(1),
                lifted_by: lifted.then_some(moderator),
                lifted_at,
            },
        }
    }

    fn found(held: &Held, now: i64) -> Option<String> {
        let user = UserId::new("mallory").unwrap();
        let found = held.find(&user, Timestamp(now), |_, _| true);
        found.err().map(|it| it.reason.to_string())
    }

    #[test]
    fn the_gravest_that_is_in_force_holds() {
        use SanctionKind::{Ban, Mute, Suspend};
        let held = Held::default();
        held.take_in(vec![change(1, 1, Mute, None, false)], NOW);
        held.take_in(vec![change(2, 2, Suspend, Some(2000), false)], NOW);
        assert_eq!(found(&held, 1999).as_deref(), Some("reason 2"));
        assert_eq!(found(&held, 2000).as_deref(), Some("reason 1"));
        held.take_in(
            vec![
                change(3, 3, Ban, None, false),
                change(4, 1, Mute, None, true),
            ],
            NOW,
        );
        assert_eq!(found(&held, 5000).as_deref(), Some("reason 3"));
        held.take_in(vec![change(5, 3, Ban, None, true)], NOW);
        assert_eq!(held.rev(), 5);
        assert_eq!(found(&held, 1999).as_deref(), Some("reason 2"));
        assert_eq!(found(&held, 2000), None);
        let user = UserId::new("somebody else").unwrap();
        assert_eq!(held.find(&user, NOW, |_, _| true), Ok(()));
    }

    #[test]
    fn what_has_ended_takes_no_memory() {
        let held = Held::default();
        held.take_in(
            vec![change(1, 1, SanctionKind::Suspend, Some(999), false)],
            NOW,
        );
        held.take_in(vec![change(2, 2, SanctionKind::Mute, None, true)], NOW);
        assert_eq!((held.rev(), held.users.read().unwrap().len()), (2, 0));
    }
}
