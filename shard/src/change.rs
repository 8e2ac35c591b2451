//! The transaction in which every single change to a conversation happens.
//!
//! A [`Change`] is: fence checked, head locked, membership read, the change itself with the next `rev`, head saved, lists
//! marked. Sends and watermarks take the same steps for many conversations at once in [`crate::lane`].

use crate::commit_event::CommitEvent;
use crate::error::{Error, Result};
use crate::head::{self, Head};
use crate::ids::{ConversationId, UserId};
use crate::list_marks;
use crate::member::{self, Membership, StoredMembership};
use crate::model::Role;
use crate::owned::OwnedTransaction;

/// The lists that follow a change. A change that lists follow takes the next rev.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListsToMark {
    /// None: nothing that a list shows has changed.
    #[default]
    None,
    /// Every member's, unless the conversation is too large to be relayed.
    Members,
    /// Every member's, however many: what a large conversation's entries hold has changed as well.
    All,
    /// These users'.
    Users(Vec<UserId>),
}

/// One change to one conversation, by one of its members or by the server itself: a transaction in which its fence is checked, its
/// head locked and the membership known.
#[derive(Debug)]
pub struct Change {
    /// The transaction.
    pub rows: OwnedTransaction<'static>,
    /// The head; saved with the commit.
    pub head: Head,
    me: Option<Membership>,
    /// The lists that follow.
    pub lists: ListsToMark,
    /// Delivered once it is committed.
    pub events: Vec<CommitEvent>,
    before: Head,
}

/// A change that is written, and waits for its commit.
#[derive(Debug)]
pub struct Changed<T> {
    /// The caller's answer.
    pub value: T,
    /// Delivered once it is committed.
    pub events: Vec<CommitEvent>,
}

impl Change {
    /// Locks the head and reads the membership of `user`, in a transaction that may write the conversation; without a user it is
    /// the server that makes the change.
    ///
    /// # Errors
    /// [`Error::NotMember`], also when the conversation was deleted; [`Error::ShardUnavailable`].
    pub async fn begin(
        mut rows: OwnedTransaction<'static>,
        id: ConversationId,
        user: Option<&UserId>,
    ) -> Result<Self> {
        let head = head::lock(&mut rows, &[id])
            .await?
            .pop()
            .filter(|head| head.deleted_at.is_none());
        let head = head.ok_or(Error::NotMember)?;
        let me = match user {
            None => None,
            Some(user) => {
                let me = member::one(&mut rows, id, user).await?;
                let me = me.filter(StoredMembership::is_active);
                Some(head.complete(me.ok_or(Error::NotMember)?))
            }
        };
        Ok(Self {
            rows,
            before: head.clone(),
            me,
            head,
            lists: ListsToMark::None,
            events: Vec::new(),
        })
    }

    /// Whether the change is by a member who may do what this role may.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.me.as_ref().is_some_and(|me| me.has(role))
    }

    /// Nothing was to be changed.
    pub fn unchanged<T>(self, value: T) -> Changed<T> {
        Changed {
            value,
            events: Vec::new(),
        }
    }

    /// Saves the head and marks the lists.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn save<T>(mut self, value: T) -> Result<Changed<T>> {
        let rows = &mut self.rows;
        let id = self.head.id;
        match &self.lists {
            ListsToMark::None => {}
            ListsToMark::Members if !self.head.relayed => {}
            ListsToMark::Members | ListsToMark::All => self.head.marked = true,
            ListsToMark::Users(users) => {
                let marks: Vec<_> = users.iter().map(|user| (id, user)).collect();
                list_marks::mark(rows, &marks).await?;
            }
        }
        if self.head != self.before {
            head::save(rows, &[&self.head]).await?;
        }
        Ok(Changed {
            value,
            events: self.events,
        })
    }
}
