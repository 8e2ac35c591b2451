//! Sending, reading and changing messages; watermarks.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{HELD, Store};
use crate::archive::{self, ArchivedRun};
use crate::conversation::{Change, Told};
use crate::db::{Connection, values};
use crate::error::{Error, Result};
use crate::history;
use crate::ids::{ConversationId, MessageId, Seq};
use crate::lane::{Outcome, TOGETHER_MAX, Work};
use crate::map::Assignment;
use crate::message::{self, Draft, StoredMessage, check_content};
use crate::model::{
    Caller, Edit, HistoryPage, Message, NewMessage, Position, RawJson, Role, Sent, Timestamp,
    Watermarks,
};
use crate::node::Shard;
use crate::seams::Event;

/// Longest emoji of a reaction in bytes: the longest sequences of Unicode's list (families, flags with tags) have up to 35.
const EMOJI_MAX_BYTES: usize = 64;

/// A lane's answer does not fit the question.
fn not_one_each() -> Error {
    Error::Corrupt("sends and answers do not match".into())
}

/// By the primary key.
const UPDATE: &str = "UPDATE messages SET rev = ?, content = ?, attachments = ?, reactions = ?, metadata = ?, \
     edit_history = ?, edited_at = ?, deleted_at = ? WHERE conversation_id = ? AND seq = ?";

impl Store {
    /// Appends a message. The same client message id again gives the same message, at any time (INV-IDEM).
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NotMember`], [`Error::IdempotencyConflict`], [`Error::Overloaded`],
    /// [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn send(
        &self,
        caller: &Caller,
        id: ConversationId,
        message: NewMessage,
    ) -> Result<Sent> {
        let draft = Draft::check(message, id, &self.settings().limits)?;
        self.append_one(caller, id, draft).await
    }

    /// Appends messages in their order, as [`Store::send`] does one. Up to [`TOGETHER_MAX`] of them cost hardly more than
    /// one, since they share its transaction. Each has an outcome of its own: what one is refused for does not keep the
    /// others back.
    pub async fn send_all(
        &self,
        caller: &Caller,
        id: ConversationId,
        messages: Vec<NewMessage>,
    ) -> Vec<Result<Sent>> {
        let limits = &self.settings().limits;
        let checked = messages.into_iter();
        let checked = checked.map(|message| Draft::check(message, id, limits));
        let mut drafts = Vec::new();
        // Those that are refused, and nothing for each that is sent.
        let refused: Vec<Option<Error>> = checked
            .map(|checked| checked.map(|draft| drafts.push(draft)).err())
            .collect();
        let mut sent = Vec::with_capacity(drafts.len());
        while !drafts.is_empty() {
            let rest = drafts.split_off(drafts.len().min(TOGETHER_MAX));
            let together: Arc<[Draft]> = std::mem::replace(&mut drafts, rest).into();
            match self.append(caller, id, Arc::clone(&together)).await {
                Ok(outcomes) => sent.extend(outcomes),
                // One of them is at fault: each by itself, as a lane does with callers.
                Err(Error::Database(_) | Error::Corrupt(_)) if together.len() > 1 => {
                    for draft in &*together {
                        sent.push(self.append_one(caller, id, draft.clone()).await);
                    }
                }
                Err(error) => {
                    sent.extend(together.iter().skip(1).map(|_| Err(error.again())));
                    sent.push(Err(error));
                }
            }
        }
        let mut sent = sent.into_iter();
        let outcome = |refused: Option<Error>| match refused {
            Some(error) => Err(error),
            None => sent.next().unwrap_or_else(|| Err(not_one_each())),
        };
        refused.into_iter().map(outcome).collect()
    }

    async fn append_one(&self, caller: &Caller, id: ConversationId, draft: Draft) -> Result<Sent> {
        let mut sent = self.append(caller, id, [draft].into()).await?;
        sent.pop().unwrap_or_else(|| Err(not_one_each()))
    }

    async fn append(
        &self,
        caller: &Caller,
        id: ConversationId,
        drafts: Arc<[Draft]>,
    ) -> Result<Vec<Result<Sent>>> {
        match self.submit(caller, id, Work::Send(drafts)).await? {
            Outcome::Sent(sent) => Ok(sent),
            Outcome::Watermarks(_) => Err(not_one_each()),
        }
    }

    /// Moves the caller's read watermark forward; to the head without a seq. It never goes back.
    ///
    /// # Errors
    /// As [`Store::send`]; [`Error::Invalid`] for a seq beyond the head.
    pub async fn mark_read(
        &self,
        caller: &Caller,
        id: ConversationId,
        seq: Option<Seq>,
    ) -> Result<Watermarks> {
        self.watermark(caller, id, Work::Read(seq)).await
    }

    /// Moves the caller's delivered watermark forward; to the head without a seq. It never goes back.
    ///
    /// # Errors
    /// As [`Store::mark_read`].
    pub async fn mark_delivered(
        &self,
        caller: &Caller,
        id: ConversationId,
        seq: Option<Seq>,
    ) -> Result<Watermarks> {
        self.watermark(caller, id, Work::Delivered(seq)).await
    }

    async fn watermark(
        &self,
        caller: &Caller,
        id: ConversationId,
        work: Work,
    ) -> Result<Watermarks> {
        match self.submit(caller, id, work).await? {
            Outcome::Watermarks(watermarks) => Ok(watermarks),
            Outcome::Sent(_) => Err(Error::Corrupt(
                "a watermark was answered with a message".into(),
            )),
        }
    }

    /// A page of history, oldest first; at most [`history::PAGE_MAX`] messages.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::ArchiveUnavailable`], [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn history(
        &self,
        caller: &Caller,
        id: ConversationId,
        position: Position,
        limit: u32,
    ) -> Result<HistoryPage> {
        self.router
            .call(
                id.owner_key(),
                caller.deadline,
                |shard, assignment| async move {
                    let cold = self.cold.as_ref();
                    history::page(
                        &shard,
                        &assignment,
                        cold,
                        (id, &caller.user),
                        (position, limit),
                        caller.deadline,
                    )
                    .await
                },
            )
            .await
    }

    /// One message, with its edit history.
    ///
    /// # Errors
    /// [`Error::NotFound`] beyond the head, and as [`Store::history`].
    pub async fn message(&self, caller: &Caller, id: MessageId) -> Result<Message> {
        let (conversation, seq) = (id.conversation, id.seq);
        let read = |shard: Arc<Shard>, assignment| async move {
            let mut connection = shard.reader(caller.deadline).await?;
            let access = history::access(
                &mut connection,
                &shard,
                &assignment,
                (conversation, &caller.user),
            )
            .await?;
            if seq > access.head_seq {
                return Err(Error::NotFound("message"));
            }
            let hot = history::rows(&mut connection, conversation, (seq, seq)).await?;
            let progress = history::progress(
                &mut connection,
                conversation,
                (access.kind, &access.writers),
            )
            .await?;
            drop(connection);
            let merged = history::merge(
                &shard,
                self.cold.as_ref(),
                conversation,
                (seq, seq),
                hot,
                caller.deadline,
            )
            .await?;
            let mut stored = merged
                .messages
                .into_iter()
                .next()
                .ok_or(Error::NotFound("message"))?;
            let edit_history = stored.edit_history.take();
            let status = progress.status(&stored.sender, stored.seq);
            let mut message = stored.into_message(conversation, status)?;
            message.edit_history = edit_history
                .map(RawJson::parse)
                .transpose()
                .map_err(|error| Error::Corrupt(format!("an edit history: {error}")))?;
            Ok(message)
        };
        self.router
            .call(conversation.owner_key(), caller.deadline, read)
            .await
    }

    /// Replaces the text of one's own message; the earlier text goes into its edit history.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for another's message, [`Error::Conflict`] for a deleted one, and as [`Store::message`].
    pub async fn edit_message(
        &self,
        caller: &Caller,
        id: MessageId,
        content: String,
    ) -> Result<Message> {
        check_content(&content, &self.settings().limits)?;
        let kept = self.settings().limits.edits as usize;
        self.change_message(caller, id, |change, message| {
            if message.sender != caller.user {
                return Err(Error::Forbidden("only the author can edit a message"));
            }
            if message.deleted_at.is_some() {
                return Err(Error::Conflict("the message is deleted"));
            }
            if content.is_empty() && message.attachments.is_none() {
                return Err(Error::invalid(
                    "content",
                    "a message needs text or attachments",
                ));
            }
            if content == message.content {
                return Ok(Touched::Unchanged);
            }
            let now = Timestamp::now().max(message.created_at);
            let mut edits: Vec<Edit> = match &message.edit_history {
                Some(json) => serde_json::from_str(json)
                    .map_err(|error| Error::Corrupt(format!("an edit history: {error}")))?,
                None => Vec::new(),
            };
            edits.push(Edit {
                content: std::mem::replace(&mut message.content, content.clone()),
                replaced_at: now,
            });
            let surplus = edits.len().saturating_sub(kept);
            message.edit_history = Some(RawJson::of(&&edits[surplus..]).get().to_owned());
            message.edited_at = Some(now);
            message.rev = change.head.next_rev();
            Ok(Touched::Updated)
        })
        .await
    }

    /// Deletes a message: its place stays, marked and empty. Its author may, and admins of the conversation.
    ///
    /// # Errors
    /// [`Error::Forbidden`], and as [`Store::message`].
    pub async fn delete_message(&self, caller: &Caller, id: MessageId) -> Result<Message> {
        self.change_message(caller, id, |change, message| {
            if message.sender != caller.user && !change.me.has(Role::Admin) {
                return Err(Error::Forbidden(
                    "only the author or an admin can delete a message",
                ));
            }
            if message.deleted_at.is_some() {
                return Ok(Touched::Unchanged);
            }
            message.content.clear();
            message.attachments = None;
            message.reactions = None;
            message.metadata = None;
            message.edit_history = None;
            message.deleted_at = Some(Timestamp::now().max(message.created_at));
            message.rev = change.head.next_rev();
            Ok(Touched::Deleted)
        })
        .await
    }

    /// Adds the caller's reaction; the same again changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no emoji, [`Error::LimitReached`], [`Error::Conflict`] for a deleted message, and as
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
        check_emoji(emoji)?;
        let max = self.settings().limits.reactions;
        self.change_message(caller, id, |change, message| {
            if message.deleted_at.is_some() {
                return Err(Error::Conflict("the message is deleted"));
            }
            let mut reactions: BTreeMap<String, Vec<String>> = match &message.reactions {
                Some(json) => serde_json::from_str(json)
                    .map_err(|error| Error::Corrupt(format!("reactions: {error}")))?,
                None => BTreeMap::new(),
            };
            let users = reactions.entry(emoji.to_owned()).or_default();
            let mine = users.iter().position(|user| user == caller.user.as_str());
            match (mine, add) {
                (Some(_), true) | (None, false) => return Ok(Touched::Unchanged),
                (None, true) => users.push(caller.user.as_str().to_owned()),
                (Some(at), false) => drop(users.remove(at)),
            }
            reactions.retain(|_, users| !users.is_empty());
            if add && reactions.values().map(Vec::len).sum::<usize>() > max as usize {
                return Err(Error::LimitReached {
                    what: "reactions on a message",
                    max: u64::from(max),
                });
            }
            message.reactions =
                (!reactions.is_empty()).then(|| RawJson::of(&reactions).get().to_owned());
            message.rev = change.head.next_rev();
            Ok(Touched::Updated)
        })
        .await
    }

    /// A change to one stored message, which takes the next rev if it changes anything. One that is archived is read
    /// before the transaction, which then makes it a hot row again ("thaw") and so no lock is held while the archive
    /// answers.
    async fn change_message(
        &self,
        caller: &Caller,
        id: MessageId,
        work: impl Fn(&mut Change, &mut StoredMessage) -> Result<Touched>,
    ) -> Result<Message> {
        let work = &work;
        let change = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut archived = None;
            for _ in 0..THAW_ATTEMPTS {
                let outcome = self
                    .try_change_message(&shard, &assignment, caller, id, archived.take(), work)
                    .await?;
                match outcome {
                    Attempt::Done(message) => return Ok(*message),
                    Attempt::Archived(run) => {
                        archived = self.read_archived(id, run, caller).await?
                    }
                }
            }
            Err(Error::ArchiveUnavailable) // archived anew each time we had read it
        };
        self.router
            .call(id.conversation.owner_key(), caller.deadline, change)
            .await
    }

    async fn read_archived(
        &self,
        id: MessageId,
        run: ArchivedRun,
        caller: &Caller,
    ) -> Result<Option<(ArchivedRun, StoredMessage)>> {
        if run.segment.is_none() {
            return Err(Error::NotFound("message"));
        }
        let parts = [(run, (id.seq, id.seq))];
        let read = self.cold.read(id.conversation, &parts, caller.deadline);
        let messages = read.await.pop().transpose()?;
        let message = messages.and_then(|mut messages| messages.pop());
        Ok(message.map(|message| (run, message)))
    }

    async fn try_change_message(
        &self,
        shard: &Shard,
        assignment: &Assignment,
        caller: &Caller,
        id: MessageId,
        archived: Option<(ArchivedRun, StoredMessage)>,
        work: impl Fn(&mut Change, &mut StoredMessage) -> Result<Touched>,
    ) -> Result<Attempt> {
        let conversation = id.conversation;
        let mut change = self.begin(shard, assignment, caller, conversation).await?;
        if id.seq > change.head.head_seq {
            return Err(Error::NotFound("message"));
        }
        let range = (id.seq, id.seq);
        let hot = history::rows(&mut change.connection, conversation, range)
            .await?
            .pop();
        let is_hot = hot.is_some();
        let mut stored = match hot {
            Some(stored) => stored,
            None => {
                let runs = archive::locate(&mut change.connection, conversation, range).await?;
                match (archived, runs.last()) {
                    (Some((read, stored)), Some(run)) if read == *run => stored,
                    (_, Some(run)) => return Ok(Attempt::Archived(*run)),
                    (_, None) => {
                        return Err(Error::Corrupt(format!(
                            "conversation {conversation} has no message {}",
                            id.seq
                        )));
                    }
                }
            }
        };
        let touched = work(&mut change, &mut stored)?;
        let head = (change.head.kind, &change.head.writers);
        let progress = history::progress(&mut change.connection, conversation, head).await?;
        let status = progress.status(&stored.sender, id.seq);
        if touched == Touched::Unchanged {
            let message = stored.into_message(conversation, status)?;
            return Ok(Attempt::Done(Box::new(message)));
        }
        if touched == Touched::Deleted {
            delete_everywhere(&mut change.connection, id).await?;
        }
        if is_hot {
            update(&mut change.connection, conversation, &stored).await?;
        } else {
            change.head.thaw(&stored);
            let row = [(conversation, stored)];
            message::insert(&mut change.connection, &row).await?;
            [(_, stored)] = row;
        }
        if stored.seq == change.head.head_seq {
            change.told = Told::Members;
        }
        change.head.touch(&stored);
        let message = stored.into_message(conversation, status)?;
        change.events.push(match touched {
            Touched::Deleted => Event::MessageDeleted(message.clone()),
            _ => Event::MessageUpdated(message.clone()),
        });
        self.commit(shard, change).await?;
        Ok(Attempt::Done(Box::new(message)))
    }
}

/// Nothing is deleted under a legal hold; and what is in the archive is put down to be erased there as well.
async fn delete_everywhere(connection: &mut Connection, id: MessageId) -> Result<()> {
    let conversation = id.conversation;
    if archive::is_held(connection, conversation).await? {
        return Err(Error::Conflict(HELD));
    }
    let copies = archive::locate(connection, conversation, (id.seq, id.seq)).await?;
    if !copies.is_empty() {
        archive::request_erasure(connection, conversation, id.seq, Timestamp::now()).await?;
    }
    Ok(())
}

/// How often an archived message is read again because it was archived anew meanwhile.
const THAW_ATTEMPTS: usize = 4;

/// What came of a try to change a message.
enum Attempt {
    Done(Box<Message>),
    /// It must be read from here first.
    Archived(ArchivedRun),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touched {
    Unchanged,
    Updated,
    Deleted,
}

async fn update(
    connection: &mut Connection,
    conversation: ConversationId,
    message: &StoredMessage,
) -> Result<()> {
    let args = values![
        message.rev,
        message.content.as_str(),
        message.attachments.as_deref(),
        message.reactions.as_deref(),
        message.metadata.as_deref(),
        message.edit_history.as_deref(),
        message.edited_at.map(|at| at.0),
        message.deleted_at.map(|at| at.0),
        &conversation,
        message.seq,
    ];
    connection.execute(UPDATE, &args).await?;
    Ok(())
}

fn check_emoji(emoji: &str) -> Result<()> {
    let unsuitable = |c: char| c.is_control() || c.is_whitespace();
    if emoji.is_empty() || emoji.len() > EMOJI_MAX_BYTES || emoji.chars().any(unsuitable) {
        return Err(Error::invalid(
            "emoji",
            "1 to 64 bytes without spaces or control characters",
        ));
    }
    Ok(())
}
