//! An entry of a user's conversation list, and how updates from relays are merged into it.
//!
//! Two processes may relay the same conversation, and one of them may apply late what it has read early. So updates are
//! merged by the conversation's revs, and give the same entry in any order. A removal is an update as well, at the rev of
//! the removal, and leaves an entry even where there was none (INV-MEMBER).

use crate::blocks::Listed;
use crate::db::{Columns, Value, values};
use crate::error::{Error, Result};
use crate::head::{Head, first_members_json, kind_code, kind_of};
use crate::ids::{ConversationId, Rev, Seq, UserId, UserKey};
use crate::member::{Membership, StoredMembership};
use crate::mentions::Unread;
use crate::message::{left_out, preview_values, read_preview};
use crate::model::{ConversationKind, ListEntry, MessagePreview, Timestamp};
use crate::standing::Standing;

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
    /// The messages that mention the user, as of `conversation_rev`, that are not read.
    pub(crate) mentions: Unread,
    /// It is not of now: the conversation's shard does not answer. Not stored.
    pub(crate) stale: bool,
}

/// What the relay tells to one entry.
#[derive(Clone, Debug)]
pub struct EntryUpdate {
    pub(super) user: UserId,
    pub(super) key: UserKey,
    pub(super) entry: Entry,
    /// Whether the user blocks the other member of a direct conversation in which somebody does, or did.
    pub(super) block: Option<Listed>,
}

/// The columns of an entry after `user_key` and `user_id`, in the order that [`Entry::read`] reads them.
macro_rules! entry_columns {
    () => {
        "conversation_id, kind, title, member_count, first_members, head_seq, conversation_rev, read_seq, last_sender, \
         last_type, last_preview, last_at, relayed, pinned, muted, removed, rev, mentions"
    };
}
pub(super) use entry_columns;
pub(super) const ENTRY_COLUMN_COUNT: usize = 18;

impl Entry {
    pub(super) fn read(columns: &mut Columns<'_>) -> Result<Self> {
        let conversation = columns.conversation()?;
        let kind = kind_of(columns.int()?)?;
        let title = columns.opt_text()?;
        let member_count = u64::try_from(columns.int()?).unwrap_or(0);
        let first_members = columns.text()?;
        let head_seq = Seq::from_i64(columns.int()?);
        let conversation_rev = Rev::from_i64(columns.int()?);
        let read_seq = Seq::from_i64(columns.int()?);
        let (last, last_at) = read_preview(columns, head_seq)?;
        Ok(Self {
            conversation,
            kind,
            title,
            member_count,
            first_members,
            head_seq,
            conversation_rev,
            read_seq,
            last,
            last_at,
            relayed: columns.int()? != 0,
            pinned: columns.int()? != 0,
            muted: columns.int()? != 0,
            removed: columns.int()? != 0,
            rev: Rev::from_i64(columns.int()?),
            mentions: Unread::stored(columns.opt_text()?.as_deref(), read_seq),
            stale: false,
        })
    }

    /// `mentions` as they are [stored](Unread::to_stored).
    pub(super) fn values<'a>(
        &'a self,
        mentions: Option<&'a str>,
    ) -> [Value<'a>; ENTRY_COLUMN_COUNT] {
        let [sender, message_type, content] = preview_values(self.last.as_ref());
        values![
            &self.conversation,
            kind_code(self.kind),
            self.title.as_deref(),
            i64::try_from(self.member_count).unwrap_or(i64::MAX),
            self.first_members.as_str(),
            self.head_seq,
            self.conversation_rev,
            self.read_seq,
            sender,
            message_type,
            content,
            self.last_at.0,
            i64::from(self.relayed),
            i64::from(self.pinned),
            i64::from(self.muted),
            i64::from(self.removed),
            self.rev,
            mentions,
        ]
    }

    /// The entry of a member.
    fn of(head: &Head, member: &Membership, mentions: Unread) -> Self {
        Self {
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
            removed: false,
            rev: Rev(0),
            mentions,
            stale: false,
        }
    }

    /// The entry of a past member, or of a member of a deleted conversation: it says so as of the change that did it, and shows
    /// nothing of the conversation's later state.
    fn removed(head: &Head, member: &Membership) -> Self {
        Self {
            conversation: head.id,
            kind: head.kind,
            title: None,
            member_count: 0,
            first_members: first_members_json(&[]),
            head_seq: member.read_seq,
            conversation_rev: if member.is_active() {
                head.rev
            } else {
                member.rev
            },
            read_seq: member.read_seq,
            last: None,
            last_at: member.joined_at,
            relayed: head.relayed,
            pinned: false,
            muted: false,
            removed: true,
            rev: Rev(0),
            mentions: Unread::default(),
            stale: false,
        }
    }

    /// Takes where a conversation that is not relayed stands for the user.
    pub(crate) fn follow(&mut self, standing: &Standing) {
        self.head_seq = standing.access.head_seq;
        self.conversation_rev = standing.access.rev;
        self.last.clone_from(&standing.last);
        self.last_at = standing.last_at;
        self.read_seq = standing.read_seq;
        self.member_count = standing.member_count;
        self.mentions.clone_from(&standing.mentions);
    }

    /// Whether the list does not show it.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed
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
    pub(crate) fn into_list_entry(self) -> ListEntry {
        let members = serde_json::from_str(&self.first_members).unwrap_or_else(|_| {
            left_out("members");
            Vec::new()
        });
        ListEntry {
            id: self.conversation,
            kind: self.kind,
            title: self.title,
            head_seq: self.head_seq,
            rev: self.conversation_rev,
            read_seq: self.read_seq,
            unread_count: self.head_seq.0.saturating_sub(self.read_seq.0),
            unread_mentions: self.mentions.count(),
            member_count: self.member_count,
            members,
            last_message: self.last,
            last_activity_at: self.last_at,
            pinned: self.pinned,
            muted: self.muted,
            removed: self.removed,
            stale: self.stale,
        }
    }
}

/// Whether `user` blocks the other member, where that may have to be listed.
fn block_of(head: &Head, user: &UserId) -> Option<Listed> {
    let other = head
        .other_member(user)
        .filter(|_| head.blockers.are_known());
    other.map(|other| Listed {
        blocked: other.clone(),
        is_blocked: head.blockers.include(user),
    })
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
    /// The conversation.
    #[must_use]
    pub fn conversation(&self) -> ConversationId {
        self.entry.conversation
    }

    /// What `head` means for the list of a member whose membership, and then unread mentions, were read after it.
    #[must_use]
    pub fn new(head: &Head, membership: StoredMembership, mentions: Unread, key: UserKey) -> Self {
        let member = head.complete(membership);
        let mut entry = if member.is_active() && head.deleted_at.is_none() {
            Entry::of(head, &member, mentions)
        } else {
            Entry::removed(head, &member)
        };
        let block = block_of(head, &member.user);
        if head.head_seq == Seq(0) && block.as_ref().is_some_and(|block| block.is_blocked) {
            entry.removed = true; // it was made for the block, or might as well have been
        }
        Self {
            user: member.user,
            key,
            entry,
            block,
        }
    }

    /// Whether nothing that is stored is newer.
    pub(super) fn is_latest(&self, stored: Option<&Entry>) -> bool {
        stored.is_none_or(|stored| stored.conversation_rev <= self.entry.conversation_rev)
    }

    /// The entry to store where `stored` is, if that changes it: the greater rev and the greater watermark win, so updates
    /// may come twice, late, and in any order. An entry that its user has put away comes back with the next rev. A past member is told of the removal once, and of nothing that happens
    /// afterwards (INV-MEMBER).
    pub(super) fn merge(&self, stored: Option<&Entry>) -> Option<Entry> {
        let mut entry = self.entry.clone();
        let Some(stored) = stored else {
            return Some(entry); // a removal, too: an update that was read before it must not make an entry
        };
        if entry.removed && entry.conversation_rev >= stored.conversation_rev {
            let told = stored.removed && stored.conversation_rev == entry.conversation_rev;
            return (!told).then(|| Entry {
                removed: true,
                last: None,
                mentions: Unread::default(),
                conversation_rev: entry.conversation_rev,
                ..stored.clone()
            });
        }
        let is_put_away = stored.removed && stored.conversation_rev == entry.conversation_rev;
        if stored.conversation_rev > entry.conversation_rev || is_put_away {
            entry = stored.clone();
        }
        entry.read_seq = stored.read_seq.max(self.entry.read_seq);
        entry.mentions.read_up_to(entry.read_seq);
        (entry.pinned, entry.muted, entry.rev) = (stored.pinned, stored.muted, stored.rev);
        (entry != *stored).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Role;

    /// What may happen to a user's place in a conversation; each takes the conversation's next rev.
    #[derive(Clone, Copy, Debug)]
    enum Change {
        Message,
        Join,
        Leave,
        Delete,
    }

    /// The head and the user's membership after each change, from the first.
    fn states(changes: &[Change]) -> Vec<(Head, Option<StoredMembership>)> {
        let user = UserId::new("bob").unwrap();
        let id = ConversationId::new(UserKey(1), 2);
        let kind = ConversationKind::Group;
        let mut head = Head::new(id, kind, user.clone(), Timestamp(0));
        let mut member: Option<StoredMembership> = None;
        let mut states = Vec::new();
        for change in changes {
            if head.deleted_at.is_some() {
                break; // nothing changes any more
            }
            let rev = head.next_rev();
            head.title = Some(rev.to_string());
            match change {
                Change::Message => head.head_seq = head.head_seq.next(),
                Change::Delete => head.deleted_at = Some(Timestamp(1)),
                Change::Join | Change::Leave => {
                    let known =
                        member.get_or_insert_with(|| StoredMembership::for_test(user.clone()));
                    known.rev = rev;
                    known.role = matches!(change, Change::Join).then_some(Role::Member);
                }
            }
            states.push((head.clone(), member.clone()));
        }
        states
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            4 => Just(Change::Message),
            2 => Just(Change::Join),
            2 => Just(Change::Leave),
            1 => Just(Change::Delete),
        ];
        // Relays tell members and past members only.
        proptest::collection::vec(change, 0..12)
            .prop_map(|rest| [Change::Join].into_iter().chain(rest).collect())
    }

    proptest! {
        /// A relay reads a head, and the membership some time after that, and may apply both much later. Once the last state
        /// is among the updates that were applied, in whatever order, the entry is that state.
        #[test]
        fn a_late_relay_does_not_undo_what_was_told(
            changes in changes(),
            reads: Vec<(prop::sample::Index, prop::sample::Index)>,
            last_at: prop::sample::Index,
        ) {
            let states = states(&changes);
            let end = states.len() - 1;
            let mut told: Vec<(usize, usize)> = reads
                .iter()
                .map(|(head, member)| (head.index(end + 1), member.index(end + 1)))
                .map(|(head, member)| (head, member.max(head)))
                .collect();
            told.insert(last_at.index(told.len() + 1), (end, end));
            let mut stored: Option<Entry> = None;
            for (head, member) in told {
                let Some(member) = states[member].1.clone() else { continue };
                let update = EntryUpdate::new(&states[head].0, member, Unread::default(), UserKey(3));
                stored = update.merge(stored.as_ref()).or(stored);
            }
            let stored = stored.unwrap();
            let (head, member) = &states[end];
            let member = member.as_ref().unwrap();
            let removed = !member.is_active() || head.deleted_at.is_some();
            prop_assert_eq!(stored.removed, removed);
            if removed {
                // INV-MEMBER: what happened after the user left is not in it.
                let left = if member.is_active() { head.rev } else { member.rev };
                let shown: u64 = stored.title.map_or(0, |title| title.parse().unwrap());
                prop_assert!(shown <= left.0 && stored.last.is_none());
                prop_assert_eq!(stored.conversation_rev, left);
            } else {
                prop_assert_eq!(stored.conversation_rev, head.rev);
                prop_assert_eq!((stored.head_seq, &stored.title), (head.head_seq, &head.title));
            }
        }
    }

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
