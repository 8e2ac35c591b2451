//! The memberships that a lane remembers between its transactions.
//!
//! A membership that was read while the conversation's head was locked holds for as long as the head has the same
//! `members_rev`: joining, leaving and changing a role lock the head too, and move it on. So remembering is as exact as
//! reading (INV-MEMBER), also when another process changes the members. Watermarks take no rev: those of a remembered
//! membership may be behind, and are of use only to a send, which moves them to the head.

use std::collections::HashMap;

use crate::head::Head;
use crate::ids::{ConversationId, Rev, UserId};
use crate::member::StoredMembership;

/// Active memberships, at most so many (INV-BOUND).
#[derive(Debug)]
pub(super) struct MembershipCache {
    conversations: HashMap<ConversationId, Remembered>,
    len: usize,
    capacity: usize,
    asked: Asked,
}

/// How often memberships were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// That were remembered.
    pub(super) known: u64,
    /// That were not.
    pub(super) unknown: u64,
}

#[derive(Debug)]
struct Remembered {
    members_rev: Rev,
    members: HashMap<UserId, StoredMembership>,
}

impl MembershipCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            conversations: HashMap::new(),
            len: 0,
            capacity,
            asked: Asked::default(),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.conversations.clear();
        self.len = 0;
    }

    /// What is remembered of `user` in the conversation whose head this is.
    pub(super) fn get(&mut self, head: &Head, user: &UserId) -> Option<&StoredMembership> {
        let remembered = self.conversations.get(&head.id);
        let remembered = remembered.filter(|it| it.members_rev == head.members_rev);
        let membership = remembered.and_then(|it| it.members.get(user));
        match membership {
            Some(_) => self.asked.known += 1,
            None => self.asked.unknown += 1,
        }
        membership
    }

    /// How often memberships were asked for since this was called last.
    pub(super) fn take_asked(&mut self) -> Asked {
        std::mem::take(&mut self.asked)
    }

    /// Remembers an active membership that was read under the lock of this head. When there is no room, everything is
    /// forgotten first: reading it again costs little, and keeping an order would cost every send something. So it is when
    /// the head's rev is behind: the database was brought back from a backup.
    pub(super) fn put(&mut self, head: &Head, membership: StoredMembership) {
        if self.capacity == 0 {
            return;
        }
        let known = self.conversations.get(&head.id);
        let went_back = known.is_some_and(|known| known.members_rev > head.members_rev);
        if went_back || self.len >= self.capacity {
            self.clear();
        }
        let remembered = self
            .conversations
            .entry(head.id)
            .or_insert_with(|| Remembered {
                members_rev: head.members_rev,
                members: HashMap::new(),
            });
        if remembered.members_rev != head.members_rev {
            self.len -= remembered.members.len();
            remembered.members.clear();
            remembered.members_rev = head.members_rev;
        }
        let user = membership.user.clone();
        if remembered.members.insert(user, membership).is_none() {
            self.len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UserKey;
    use crate::model::{ConversationKind, Timestamp};

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn head(n: u64) -> Head {
        let id = ConversationId::new(UserKey(1), n);
        let mut head = Head::new(id, ConversationKind::Group, user("owner"), Timestamp(0));
        head.change_members();
        head
    }

    fn membership(name: &str) -> StoredMembership {
        StoredMembership::for_test(user(name))
    }

    #[test]
    fn a_change_of_the_members_forgets_the_conversation() {
        let mut cache = MembershipCache::new(10);
        let (mut changing, other) = (head(1), head(2));
        for head in [&changing, &other] {
            cache.put(head, membership("ann"));
        }
        changing.next_rev();
        assert!(
            cache.get(&changing, &user("ann")).is_some(),
            "a message changes no members"
        );
        changing.change_members();
        assert!(cache.get(&changing, &user("ann")).is_none());
        cache.put(&changing, membership("ben"));
        assert!(cache.get(&changing, &user("ann")).is_none());
        assert!(cache.get(&changing, &user("ben")).is_some());
        assert!(cache.get(&other, &user("ann")).is_some());
        assert_eq!(cache.len, 2);
    }

    #[test]
    fn a_rev_that_went_back_forgets_everything() {
        let mut cache = MembershipCache::new(10);
        let (restored, mut later, other) = (head(1), head(1), head(2));
        later.change_members();
        for head in [&later, &other] {
            cache.put(head, membership("ann"));
        }
        cache.put(&restored, membership("ann"));
        assert!(cache.get(&other, &user("ann")).is_none());
        assert!(cache.get(&restored, &user("ann")).is_some());
        assert_eq!(cache.len, 1);
    }

    #[test]
    fn it_never_holds_more_than_its_capacity() {
        let mut cache = MembershipCache::new(3);
        for n in 0..5 {
            for name in ["ann", "ben", "ann"] {
                cache.put(&head(n), membership(name));
                let held: usize = cache.conversations.values().map(|c| c.members.len()).sum();
                assert!(held <= 3 && held == cache.len);
                assert!(cache.get(&head(n), &user(name)).is_some());
            }
        }
        let mut none = MembershipCache::new(0);
        none.put(&head(1), membership("ann"));
        assert!(none.get(&head(1), &user("ann")).is_none());
    }
}
