//! Sending and reading messages; watermarks.

use std::sync::Arc;

use super::Store;
use crate::error::{Error, Result};
use crate::guard::Action;
use crate::history;
use crate::ids::{ConversationId, MessageId, Seq};
use crate::lane::{self, Outcome, TOGETHER_MAX, Work};
use crate::map::Assignment;
use crate::message::{self, Draft, Room, StoredMessage};
use crate::model::{Caller, HistoryPage, Message, NewMessage, Position, Sent, Watermarks};
use crate::node::Shard;
use crate::stretch::{Merged, Stretch};
use crate::threads;

/// A lane's answer does not fit the question.
fn not_one_each() -> Error {
    Error::Unexpected("sends and answers do not match")
}

/// What becomes of one of several messages.
enum Place {
    /// It is sent, in its turn.
    Sent,
    /// It breaks a rule.
    Refused(Error),
    /// It is beyond a rate limit, and refused unless it is a repetition.
    Beyond(Draft, Error),
}

impl Store {
    /// Appends a message. The same client message id again gives the same message, for at least as long as
    /// [`idempotency`](crate::settings::LimitSettings::idempotency) says (INV-IDEM); later it may be a new message.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NotMember`], [`Error::NotAccepted`], [`Error::IdempotencyConflict`], [`Error::Sanctioned`], [`Error::RateLimited`], [`Error::Overloaded`],
    /// [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn send(
        &self,
        caller: &Caller,
        id: ConversationId,
        message: NewMessage,
    ) -> Result<Sent> {
        let draft = Draft::check(message, id, &self.settings().limits)?;
        match self.act(Action::Send, caller).await {
            Ok(charge) => {
                let sent = self.append_one(caller, id, draft).await;
                charge.settle(&sent, |sent| sent.created);
                sent
            }
            Err(refusal) => self.repeat(caller, id, &draft, refusal).await,
        }
    }

    /// The same for a caller that answers for how often its users send: rate limits count nothing.
    ///
    /// # Errors
    /// As [`Store::send`], but for [`Error::RateLimited`].
    pub async fn send_uncounted(
        &self,
        caller: &Caller,
        id: ConversationId,
        message: NewMessage,
    ) -> Result<Sent> {
        let draft = Draft::check(message, id, &self.settings().limits)?;
        self.sanctions.may_speak(&caller.user)?;
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
        let (mut drafts, mut charges) = (Vec::new(), Vec::new());
        let places: Vec<Place> = checked
            .map(|checked| match checked {
                Err(error) => Place::Refused(error),
                Ok(draft) => match self.charge(Action::Send, caller) {
                    Err(refusal) => Place::Beyond(draft, refusal),
                    Ok(charge) => {
                        charges.push(charge);
                        drafts.push(draft);
                        Place::Sent
                    }
                },
            })
            .collect();
        if let Some(last) = charges.last() {
            last.wait().await;
        }
        let mut sent = Vec::with_capacity(drafts.len());
        while !drafts.is_empty() {
            let rest = drafts.split_off(drafts.len().min(TOGETHER_MAX));
            let together: Arc<[Draft]> = std::mem::replace(&mut drafts, rest).into();
            match self.append(caller, id, Arc::clone(&together)).await {
                Ok(outcomes) => sent.extend(outcomes),
                // One of them is at fault: each by itself, as a lane does with callers.
                Err(error) if error.is_of_one_entry() && together.len() > 1 => {
                    for draft in &*together {
                        sent.push(self.append_one(caller, id, draft.clone()).await);
                    }
                }
                Err(error) => {
                    sent.extend(together.iter().skip(1).map(|_| Err(error.clone())));
                    sent.push(Err(error));
                }
            }
        }
        for (charge, sent) in charges.into_iter().zip(&sent) {
            charge.settle(sent, |sent| sent.created);
        }
        let mut sent = sent.into_iter();
        let mut outcomes = Vec::with_capacity(places.len());
        for place in places {
            outcomes.push(match place {
                Place::Sent => sent.next().unwrap_or_else(|| Err(not_one_each())),
                Place::Refused(error) => Err(error),
                Place::Beyond(draft, refusal) => self.repeat(caller, id, &draft, refusal).await,
            });
        }
        outcomes
    }

    /// The outcome of a message beyond a rate limit: the stored message when it is a repetition, otherwise `refusal`.
    async fn repeat(
        &self,
        caller: &Caller,
        id: ConversationId,
        draft: &Draft,
        refusal: Error,
    ) -> Result<Sent> {
        if draft.client_msg_id.is_none() {
            return Err(refusal);
        }
        let look = |shard: Arc<Shard>, assignment: Assignment| async move {
            let (me, deadline) = ((id, &caller.user), caller.deadline);
            let (mut rows, _) = history::access(&shard, &assignment, me, deadline).await?;
            lane::repetition(&mut rows, me, draft).await
        };
        let found = self.router.call(id.owner_key(), caller.deadline, look);
        found.await?.ok_or(refusal)
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
            Outcome::Sent(_) => Err(Error::Unexpected("a watermark was answered with a message")),
        }
    }

    /// A page of history, oldest first: at most [`history::PAGE_MAX`] messages, and about
    /// [`answer_bytes`](crate::settings::LimitSettings::answer_bytes) of them.
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
                        (position, limit, self.answer_bytes()),
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
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let (me, deadline) = ((conversation, &caller.user), caller.deadline);
            let (mut rows, access) = history::access(&shard, &assignment, me, deadline).await?;
            if seq > access.head_seq {
                return Err(Error::NotFound("message"));
            }
            let range = (seq, seq);
            let room = Room::of_all(range);
            let hot = message::rows(&mut rows, conversation, range, room).await?;
            let progress = history::progress(
                &mut rows,
                conversation,
                (access.kind, &access.latest_senders),
            )
            .await?;
            let place = (conversation, access.is_threaded);
            let threads = threads::of_range(&mut rows, place, range).await?;
            let stretch = Stretch {
                shard: &shard,
                assignment: &assignment,
                cold: self.cold.as_ref(),
                id: conversation,
                range,
                room,
                deadline: caller.deadline,
            };
            let merged: Merged<StoredMessage> = stretch.read(rows, (access.rev, hot)).await?;
            let stored = merged
                .messages
                .into_iter()
                .next()
                .ok_or(Error::NotFound("message"))?;
            let edit_history = stored.edits();
            let status = progress.status(&stored.sender, stored.seq);
            let mut message = stored.into_message(conversation, status);
            threads::show(&mut message, &threads);
            Ok(Message {
                edit_history,
                ..message
            })
        };
        self.router
            .call(conversation.owner_key(), caller.deadline, read)
            .await
    }
}
