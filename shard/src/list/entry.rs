//! An entry of a user's conversation list, and how what relays tell of it is put together.

use crate::conversation::{Head, first_members_json, kind_code, kind_of};
use crate::db::{Row, Value, values};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, Rev, Seq, UserId, UserKey};
use crate::member::Membership;
use crate::message::{message_type_code, message_type_of};
use crate::model::{ConversationKind, ListEntry, MessagePreview, Timestamp};

/// An entry as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub(crate) conversation: ConversationId,
    pub(crate) kind: ConversationKind,
    pub(crate) title: Option<String>,
    pub(crate) member_count: u64,
    pub(crate) first_members: String,
    pub(crate) head_seq: Seq,
    pub(crate) conversation_rev: Rev,
    pub(crate) read_seq: Seq,
    pub(crate) last: Option<MessagePreview>,
    pub(crate) last_at: Timestamp,
    pub(crate) relayed: bool,
    pub(crate) pinned: bool,
    pub(crate) muted: bool,
    pub(crate) removed: bool,
    pub(crate) rev: Rev,
}

/// What the relay tells to one entry.
#[derive(Clone, Debug)]
pub struct EntryUpdate {
    pub(super) user: UserId,
    pub(super) key: UserKey,
    pub(super) entry: Entry,
}

/// The columns of an entry after `user_key` and `user_id`, in the order that [`Entry::from_row`] reads them.
macro_rules! entry_columns {
    () => {
        "conversation_id, kind, title, member_count, first_members, head_seq, conversation_rev, read_seq, last_sender, \
         last_type, last_preview, last_at, relayed, pinned, muted, removed, rev"
    };
}
pub(super) use entry_columns;
pub(super) const ENTRY_COLUMN_COUNT: usize = 17;

impl Entry {
    pub(super) fn from_row(row: &Row, first: usize) -> Result<Self> {
        let head_seq = Seq::from_i64(row.int(first + 5)?);
        let last_at = Timestamp(row.int(first + 11)?);
        let last = match (
            row.opt_user(first + 8)?,
            row.opt_int(first + 9)?,
            row.opt_text(first + 10)?,
        ) {
            (Some(sender_id), Some(code), Some(content)) => Some(MessagePreview {
                seq: head_seq,
                sender_id,
                content,
                message_type: message_type_of(code)?,
                created_at: last_at,
            }),
            _ => None,
        };
        Ok(Self {
            conversation: row.conversation(first)?,
            kind: kind_of(row.int(first + 1)?)?,
            title: row.opt_text(first + 2)?,
            member_count: u64::try_from(row.int(first + 3)?).unwrap_or(0),
            first_members: row.text(first + 4)?,
            head_seq,
            conversation_rev: Rev::from_i64(row.int(first + 6)?),
            read_seq: Seq::from_i64(row.int(first + 7)?),
            last,
            last_at,
            relayed: row.int(first + 12)? != 0,
            pinned: row.int(first + 13)? != 0,
            muted: row.int(first + 14)? != 0,
            removed: row.int(first + 15)? != 0,
            rev: Rev::from_i64(row.int(first + 16)?),
        })
    }

    pub(super) fn values(&self) -> [Value<'_>; ENTRY_COLUMN_COUNT] {
        values![
            &self.conversation,
            kind_code(self.kind),
            self.title.as_deref(),
            i64::try_from(self.member_count).unwrap_or(i64::MAX),
            self.first_members.as_str(),
            self.head_seq,
            self.conversation_rev,
            self.read_seq,
            self.last.as_ref().map(|last| &last.sender_id),
            self.last
                .as_ref()
                .map(|last| message_type_code(last.message_type)),
            self.last.as_ref().map(|last| last.content.as_str()),
            self.last_at.0,
            i64::from(self.relayed),
            i64::from(self.pinned),
            i64::from(self.muted),
            i64::from(self.removed),
            self.rev,
        ]
    }

    /// Takes the current head and watermark of a conversation that is not relayed.
    pub(crate) fn follow(&mut self, head: &Head, read_seq: Seq) {
        self.head_seq = head.head_seq;
        self.conversation_rev = head.rev;
        self.last.clone_from(&head.last);
        self.last_at = head.last_at;
        self.read_seq = read_seq;
        self.member_count = head.member_count;
    }

    /// Where it stands in the list.
    pub(crate) fn order(&self) -> ListOrder {
        ListOrder {
            pinned: self.pinned,
            last_at: self.last_at,
            conversation: self.conversation,
        }
    }

    /// The entry as its user sees it.
    pub(crate) fn into_list_entry(self) -> Result<ListEntry> {
        let members = serde_json::from_str(&self.first_members);
        Ok(ListEntry {
            id: self.conversation,
            kind: self.kind,
            title: self.title,
            head_seq: self.head_seq,
            rev: self.conversation_rev,
            read_seq: self.read_seq,
            unread_count: self.head_seq.0.saturating_sub(self.read_seq.0),
            member_count: self.member_count,
            members: members.map_err(|error| Error::Corrupt(format!("first_members: {error}")))?,
            last_message: self.last,
            last_activity_at: self.last_at,
            pinned: self.pinned,
            muted: self.muted,
            removed: self.removed,
        })
    }
}

/// The order of a list: pinned first, then the latest activity first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListOrder {
    pub(super) pinned: bool,
    pub(super) last_at: Timestamp,
    pub(super) conversation: ConversationId,
}

impl ListOrder {
    /// The cursor after this entry.
    #[must_use]
    pub fn to_cursor(self) -> String {
        format!(
            "{}.{}.{}",
            u8::from(self.pinned),
            self.last_at.0,
            self.conversation
        )
    }

    /// From a cursor.
    ///
    /// # Errors
    /// When it is not one that [`ListOrder::to_cursor`] made.
    pub fn parse(cursor: &str) -> Result<Self> {
        let parse = || {
            let (pinned, rest) = cursor.split_once('.')?;
            let (last_at, conversation) = rest.split_once('.')?;
            let order = Self {
                pinned: match pinned {
                    "0" => false,
                    "1" => true,
                    _ => return None,
                },
                last_at: Timestamp(last_at.parse().ok()?),
                conversation: conversation.parse().ok()?,
            };
            (order.to_cursor() == cursor).then_some(order)
        };
        parse().ok_or_else(|| Error::invalid("cursor", "pass the `nextCursor` of the page before"))
    }
}

impl EntryUpdate {
    /// What `head` means for the list of `member`, who was read after it.
    #[must_use]
    pub fn new(head: &Head, mut member: Membership, key: UserKey) -> Self {
        head.writers.move_on([&mut member]);
        let entry = Entry {
            conversation: head.id,
            kind: head.kind,
            title: head.title.clone(),
            member_count: head.member_count,
            first_members: first_members_json(&head.first_members),
            head_seq: head.head_seq,
            conversation_rev: head.rev,
            read_seq: member.read_seq,
            last: head.last.clone(),
            last_at: head.last_at,
            relayed: head.relayed,
            pinned: false,
            muted: false,
            removed: !member.is_active() || head.deleted_at.is_some(),
            rev: Rev(0),
        };
        Self {
            user: member.user,
            key,
            entry,
        }
    }

    /// The entry to store where `stored` is: the greater rev and the greater watermark win. Whoever is no longer a member is
    /// told that once, and of what happens afterwards nothing (INV-MEMBER).
    pub(super) fn merge(&self, stored: Option<&Entry>) -> Option<Entry> {
        let mut entry = self.entry.clone();
        if let Some(stored) = stored {
            if entry.removed && entry.conversation_rev >= stored.conversation_rev {
                return (!stored.removed).then(|| Entry {
                    removed: true,
                    last: None,
                    conversation_rev: entry.conversation_rev,
                    ..stored.clone()
                });
            }
            if stored.conversation_rev > entry.conversation_rev {
                entry = stored.clone();
            }
            entry.read_seq = stored.read_seq.max(self.entry.read_seq);
            (entry.pinned, entry.muted, entry.rev) = (stored.pinned, stored.muted, stored.rev);
            if entry == *stored {
                return None;
            }
        } else if entry.removed {
            return None;
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        let order = ListOrder {
            pinned: true,
            last_at: Timestamp(-5),
            conversation: ConversationId::new(UserKey(7), 9),
        };
        assert_eq!(ListOrder::parse(&order.to_cursor()).unwrap(), order);
        for wrong in [
            "",
            "1",
            "2.5.00",
            "1.05.00000000000000070000000000000009",
            "' OR 1=1 --",
        ] {
            assert!(ListOrder::parse(wrong).is_err(), "{wrong}");
        }
    }
}
