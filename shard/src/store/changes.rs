//! Changing messages: edits, deletions, reactions, pins; of archived ones too.
//!
//! A change locks the head, then the hot row, so that no job takes the row away from under it (INV-ACK). A message that is
//! archived is read before the transaction and becomes a hot row again in it ("thaw"), if the index still says then that what
//! was read is what counts (INV-COPY). A deleted message of which copies are archived is put down for erasure (INV-ERASE).

use std::time::Instant;

use super::{By, HELD, Store};
use crate::archive::{self, Copies, Plan};
use crate::change::{Change, Changed, ListsToMark};
use crate::commit_event::CommitEvent;
use crate::error::{Error, Result};
use crate::history;
use crate::ids::{MessageId, UserId};
use crate::member::{self, Membership, StoredMembership};
use crate::mentions;
use crate::message::{
    self, EMOJI_RULE, StoredMessage, check_content, check_mentions, mentions_json,
};
use crate::model::{Caller, Edit, Message, MessageEdit, RawJson, Role, Timestamp};
use crate::owned::OwnedTransaction;
use crate::pins;
use crate::stretch;
use crate::text;
use crate::threads;

impl Store {
    /// [Edits](Self::edit) a message, whose mentions stay.
    ///
    /// # Errors
    /// As [`Store::edit`].
    pub async fn edit_message(
        &self,
        caller: &Caller,
        id: MessageId,
        content: String,
    ) -> Result<Message> {
        let edit = MessageEdit {
            content,
            mentions: None,
        };
        self.edit(caller, id, edit).await
    }

    /// Replaces the text of one's own message, and if they are given its mentions; the earlier text goes into its edit history.
    ///
    /// # Errors
    /// [`Error::Invalid`] for mentions of others than members, [`Error::Forbidden`] for `@all` by others than admins,
    /// [`Error::LimitReached`] when the message with its earlier texts would be larger than
    /// [`message_bytes`](crate::settings::LimitSettings::message_bytes), [`Error::NotAccepted`], [`Error::Forbidden`] for another's message, [`Error::Conflict`] for a deleted one, and as [`Store::message`].
    pub async fn edit(&self, caller: &Caller, id: MessageId, edit: MessageEdit) -> Result<Message> {
        self.sanctions.may_speak(&caller.user)?;
        let limits = &self.settings().limits;
        let MessageEdit { content, mentions } = edit;
        check_content(&content, true, limits)?; // whether there are attachments is known later
        let named = mentions.map(|users| check_mentions(users, limits));
        let named = named.transpose()?;
        let kept = self.settings().limits.edits as usize;
        self.change_message(By::Member(caller), id, |change, message| {
            change.head.require_accepted()?;
            if message.sender != caller.user {
                return Err(Error::Forbidden("only the author can edit a message"));
            }
            if message.deleted_at.is_some() {
                return Err(Error::Conflict("the message is deleted"));
            }
            check_content(&content, message.attachments.is_some(), limits)?;
            let before = message.mentions.clone();
            if let Some(named) = &named {
                message.mentions = mentions_json(named);
                if named.iter().any(mentions::is_everybody) && message.mentions != before {
                    let is_admin = change.has(Role::Admin);
                    mentions::check_everybody(&change.head, is_admin, limits.mention_all_members)?;
                }
            }
            if content == message.content && message.mentions == before {
                return Ok(Touched::Unchanged);
            }
            let now = Timestamp::now();
            message.edited_at = Some(now);
            message.rev = change.head.next_rev();
            if content == message.content {
                return Ok(Touched::Updated);
            }
            let mut edits: Vec<Edit> = match &message.edit_history {
                Some(json) => serde_json::from_str(json).unwrap_or_else(|_| {
                    message::left_out("edits");
                    Vec::new()
                }),
                None => Vec::new(),
            };
            edits.push(Edit {
                content: std::mem::replace(&mut message.content, content.clone()),
                replaced_at: now,
            });
            let surplus = edits.len().saturating_sub(kept);
            message.edit_history = Some(RawJson::of(&&edits[surplus..]).get().to_owned());
            Ok(Touched::Updated)
        })
        .await
    }

    /// Deletes a message: its place stays, marked and empty. Its author may, and admins of the conversation.
    ///
    /// # Errors
    /// [`Error::Forbidden`], and as [`Store::message`].
    pub async fn delete_message(&self, caller: &Caller, id: MessageId) -> Result<Message> {
        self.change_message(By::Member(caller), id, |change, message| {
            if message.sender != caller.user && !change.has(Role::Admin) {
                return Err(Error::Forbidden(
                    "only the author or an admin can delete a message",
                ));
            }
            if message.is_deleted_whole() {
                return Ok(Touched::Unchanged);
            }
            message.mark_deleted(Timestamp::now());
            message.rev = change.head.next_rev();
            Ok(Touched::Deleted)
        })
        .await
    }

    /// Adds the caller's reaction; the same again changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no emoji, [`Error::LimitReached`], [`Error::NotAccepted`], [`Error::Conflict`] for a deleted message, and as
    /// [`Store::message`].
    pub async fn react(&self, caller: &Caller, id: MessageId, emoji: &str) -> Result<Message> {
        self.change_reaction(caller, id, emoji, true).await
    }

    /// Takes the caller's reaction back; if there is none, changes nothing.
    ///
    /// # Errors
    /// As [`Store::react`].
    pub async fn unreact(&self, caller: &Caller, id: MessageId, emoji: &str) -> Result<Message> {
        self.change_reaction(caller, id, emoji, false).await
    }

    async fn change_reaction(
        &self,
        caller: &Caller,
        id: MessageId,
        emoji: &str,
        add: bool,
    ) -> Result<Message> {
        if add {
            self.sanctions.may_speak(&caller.user)?;
        }
        let emoji = text::emoji(emoji).ok_or_else(|| Error::invalid("emoji", EMOJI_RULE))?;
        let limits = &self.settings().limits;
        self.change_message(By::Member(caller), id, |change, message| {
            change.head.require_accepted()?;
            if message.deleted_at.is_some() {
                return Err(Error::Conflict("the message is deleted"));
            }
            let mut reactions = message::stored_reactions(message.reactions.as_deref());
            let is_changed = match add {
                true => reactions.add(&emoji, &caller.user),
                false => reactions.remove(&emoji, &caller.user),
            };
            if !is_changed {
                return Ok(Touched::Unchanged);
            }
            if add {
                limit(
                    "reactions of one user on a message",
                    reactions.count_of(&caller.user),
                    limits.reactions_per_user,
                )?;
                limit(
                    "reactions on a message",
                    reactions.count(),
                    limits.reactions,
                )?;
            }
            message.reactions = reactions.into_stored();
            message.rev = change.head.next_rev();
            Ok(Touched::Updated)
        })
        .await
    }

    /// A change to one stored message, which takes the next rev if it changes anything. One that is archived is read
    /// before the transaction, which then makes it a hot row again ("thaw") and so no lock is held while the archive
    /// answers.
    pub(super) async fn change_message(
        &self,
        by: By<'_>,
        id: MessageId,
        work: impl Fn(&mut Change, &mut StoredMessage) -> Result<Touched>,
    ) -> Result<Message> {
        let limits = &self.settings().limits;
        let (most, most_pins) = (limits.message_bytes, limits.pins);
        let work = |change: &mut Change, message: &mut StoredMessage| {
            let before = message.content_bytes();
            let touched = work(change, message)?;
            let after = message.content_bytes();
            if after > before {
                limit(
                    "bytes of a message with its earlier versions, reactions and metadata",
                    after,
                    most,
                )?;
            }
            Ok(touched)
        };
        let work = &work;
        let mut read: Option<Thawed> = None;
        for _ in 0..THAW_ATTEMPTS {
            let archived = read.as_ref();
            let change = |change| async move {
                change_stored(change, id, archived, (work, most_pins)).await
            };
            match self.change_by(by, id.conversation, change).await? {
                Attempt::Done(message) => return Ok(*message),
                Attempt::Archived(plan) => {
                    read = Some(self.read_archived(id, plan, by.deadline()).await?);
                }
            }
        }
        Err(Error::ArchiveUnavailable) // archived anew each time we had read it
    }

    async fn read_archived(&self, id: MessageId, plan: Plan, deadline: Instant) -> Result<Thawed> {
        if plan.dropped().contains(&id.seq) {
            return Err(Error::NotFound("message"));
        }
        let parts = plan.parts();
        let reads = self.cold.read(id.conversation, &parts, deadline);
        let mut newest = plan.newest(reads.await)?;
        let message = match (newest.messages.remove(&id.seq), newest.failure) {
            (Some(message), _) => Ok(message),
            (None, Some(damaged @ Error::ArchiveDamaged(_))) => Err(damaged),
            (None, _) => return Err(Error::ArchiveUnavailable),
        };
        Ok(Thawed { plan, message })
    }
}

/// A try at a change to one message; `archived` is what was read of it before, if it was archived then.
async fn change_stored(
    mut change: Change,
    id: MessageId,
    archived: Option<&Thawed>,
    (work, most_pins): (
        impl Fn(&mut Change, &mut StoredMessage) -> Result<Touched>,
        u32,
    ),
) -> Result<Changed<Attempt>> {
    let conversation = id.conversation;
    if id.seq > change.head.head_seq {
        return Err(Error::NotFound("message"));
    }
    let hot = message::lock_row(&mut change.rows, conversation, id.seq).await?;
    let is_hot = hot.is_some();
    let mut stored = match hot {
        Some(stored) => stored,
        None => {
            // The head is locked, so nothing becomes hot now; what is not hot is in the index.
            let range = (id.seq, id.seq);
            let copies = Copies::find(&mut change.rows, conversation, range).await?;
            let plan = copies.plan(&[id.seq].into());
            match archived {
                Some(read) if read.plan == plan => {
                    read.message.clone().inspect_err(stretch::report_damage)?
                }
                _ if plan.nowhere().is_empty() => {
                    return Ok(change.unchanged(Attempt::Archived(plan)));
                }
                _ => return Err(message::nowhere(conversation, id.seq)),
            }
        }
    };
    let was_pinned = stored.pin.is_some();
    let before = message::stored_mentions(stored.mentions.as_deref());
    let touched = work(&mut change, &mut stored)?;
    let head = (change.head.kind, &change.head.latest_senders);
    let progress = history::progress(&mut change.rows, conversation, head).await?;
    let status = progress.status(&stored.sender, id.seq);
    let place = (conversation, change.head.threaded);
    if touched == Touched::Unchanged {
        let mut message = [stored.into_message(conversation, status)];
        threads::attach(&mut change.rows, place, &mut message).await?;
        let [message] = message;
        return Ok(change.unchanged(Attempt::Done(Box::new(message))));
    }
    if touched == Touched::Deleted {
        delete_everywhere(&mut change.rows, id).await?;
        threads::follow(&mut change.rows, conversation, &stored).await?;
    }
    let mentioned = follow_mentions(&mut change, &stored, before).await?;
    if stored.pin.is_some() != was_pinned {
        pins::follow(&mut change.rows, conversation, &stored).await?;
        let pins = pins::count(&mut change.rows, conversation).await?;
        if !was_pinned {
            limit("pinned messages", pins, most_pins)?;
        }
    }
    if is_hot {
        message::update(&mut change.rows, conversation, &stored).await?;
    } else {
        change.head.thaw(&stored);
        let row = [(conversation, stored)];
        message::insert_again(&mut change.rows, &row).await?;
        [(_, stored)] = row;
    }
    let concerns_everybody =
        stored.seq == change.head.head_seq || mentioned.iter().any(mentions::is_everybody);
    if concerns_everybody {
        change.lists = ListsToMark::Members;
    } else if !mentioned.is_empty() && change.head.relayed {
        change.lists = ListsToMark::Users(mentioned); // they have one unread mention more or less
    }
    change.head.touch(&stored);
    let mut message = [stored.into_message(conversation, status)];
    threads::attach(&mut change.rows, place, &mut message).await?;
    let [message] = message;
    change.events.push(match touched {
        Touched::Deleted => CommitEvent::MessageDeleted(message.clone()),
        _ => CommitEvent::MessageUpdated(message.clone()),
    });
    change.save(Attempt::Done(Box::new(message))).await
}

/// Of a changed message that mentioned `before`: the table follows. Gives whose mention came or went.
async fn follow_mentions(
    change: &mut Change,
    message: &StoredMessage,
    before: Vec<UserId>,
) -> Result<Vec<UserId>> {
    let id = change.head.id;
    let after = message::stored_mentions(message.mentions.as_deref());
    let is_new = |user: &&UserId| !before.contains(*user);
    let (everybody, new): (Vec<&UserId>, Vec<&UserId>) = after
        .iter()
        .filter(is_new)
        .partition(|user| mentions::is_everybody(user));
    let members = match new.is_empty() {
        true => Vec::new(),
        false => member::some(&mut change.rows, id, &new).await?,
    };
    let members = members.into_iter().filter(StoredMembership::is_active);
    let members: Vec<Membership> = members.map(|it| change.head.complete(it)).collect();
    if let Some(stranger) = new
        .iter()
        .find(|user| !members.iter().any(|member| member.user == ***user))
    {
        let rule = format!("`{stranger}` is no member of the conversation");
        return Err(Error::invalid("mentions", rule));
    }
    let unread = members
        .into_iter()
        .filter(|member| member.read_seq < message.seq && member.user != message.sender);
    let unread = unread.map(|member| member.user);
    let mut changed: Vec<UserId> = unread.chain(everybody.into_iter().cloned()).collect();
    let rows = changed.iter().map(|user| (id, user.clone(), message.seq));
    mentions::add(&mut change.rows, &rows.collect::<Vec<_>>()).await?;
    if !changed.is_empty() {
        change.head.last_mention = change.head.last_mention.max(Some(message.seq));
    }
    let gone = before.into_iter().filter(|user| !after.contains(user));
    let gone: Vec<UserId> = gone.collect();
    mentions::remove(&mut change.rows, (id, message.seq), &gone).await?;
    changed.extend(gone);
    Ok(changed)
}

/// Nothing is deleted under a legal hold.
async fn delete_everywhere(rows: &mut OwnedTransaction<'_>, id: MessageId) -> Result<()> {
    let conversation = id.conversation;
    if archive::is_held(rows, conversation).await? {
        return Err(Error::Conflict(HELD));
    }
    archive::erase_message(rows, conversation, id.seq).await
}

/// Whether a bound is kept.
fn limit(what: &'static str, count: usize, max: u32) -> Result<()> {
    match count > max as usize {
        true => Err(Error::LimitReached {
            what,
            max: u64::from(max),
        }),
        false => Ok(()),
    }
}

/// How often an archived message is read again because it was archived anew meanwhile.
const THAW_ATTEMPTS: usize = 4;

/// What came of a try to change a message.
enum Attempt {
    Done(Box<Message>),
    /// It must be read from the archive first.
    Archived(Plan),
}

/// An archived message that was read to be changed, if its copy is whole, and where the index said it was.
struct Thawed {
    plan: Plan,
    message: Result<StoredMessage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    Unchanged,
    Updated,
    Deleted,
}
