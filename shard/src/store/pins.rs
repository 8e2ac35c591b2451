//! Pinning messages; of archived ones too.

use std::sync::Arc;

use super::changes::Touched;
use super::{By, Store};
use crate::change::Change;
use crate::error::{Error, Result};
use crate::ids::{ConversationId, MessageId};
use crate::map::Assignment;
use crate::message::Pin;
use crate::model::{Caller, ConversationKind, Message, PinList, Role, Timestamp};
use crate::node::Shard;
use crate::pins;
use crate::scattered;

impl Store {
    /// Pins a message for all members; one that is pinned stays as it is. Admins may, in direct conversations both members, and
    /// all members where the conversation says so.
    ///
    /// # Errors
    /// [`Error::Sanctioned`], [`Error::Forbidden`], [`Error::NotAccepted`], [`Error::Conflict`] for a deleted message, [`Error::LimitReached`] when the conversation has as many
    /// pinned messages as [`pins`](crate::settings::LimitSettings::pins) says, and as [`Store::message`].
    pub async fn pin_message(&self, caller: &Caller, id: MessageId) -> Result<Message> {
        self.sanctions.may_speak(&caller.user)?;
        self.change_message(By::Member(caller), id, |change, message| {
            check_may_pin(change)?;
            if message.deleted_at.is_some() {
                return Err(Error::Conflict("the message is deleted"));
            }
            if message.pin.is_some() {
                return Ok(Touched::Unchanged);
            }
            message.pin = Some(Pin {
                at: Timestamp::now(),
                by: caller.user.clone(),
            });
            message.rev = change.head.next_rev();
            Ok(Touched::Updated)
        })
        .await
    }

    /// Takes a pin away; where there is none, changes nothing. Whoever may pin may.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::NotAccepted`], and as [`Store::message`].
    pub async fn unpin_message(&self, caller: &Caller, id: MessageId) -> Result<Message> {
        self.change_message(By::Member(caller), id, |change, message| {
            check_may_pin(change)?;
            if message.pin.take().is_none() {
                return Ok(Touched::Unchanged);
            }
            message.rev = change.head.next_rev();
            Ok(Touched::Updated)
        })
        .await
    }

    /// A page of a conversation's pinned messages, the newest message first: at most 100, and about
    /// [`answer_bytes`](crate::settings::LimitSettings::answer_bytes) of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a foreign cursor, [`Error::NotMember`], [`Error::ArchiveUnavailable`], [`Error::ShardUnavailable`],
    /// [`Error::DeadlineExceeded`].
    pub async fn pins(
        &self,
        caller: &Caller,
        id: ConversationId,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<PinList> {
        let before = cursor.map(scattered::parse_cursor).transpose()?;
        let page = (before, limit, self.answer_bytes());
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let tiers = (&*shard, &assignment, self.cold.as_ref());
            pins::page(tiers, (id, &caller.user), page, caller.deadline).await
        };
        self.router
            .call(id.owner_key(), caller.deadline, read)
            .await
    }
}

fn check_may_pin(change: &Change) -> Result<()> {
    let head = &change.head;
    head.require_accepted()?;
    let is_everybodys = head.members_pin || head.kind == ConversationKind::Direct;
    match is_everybodys || change.has(Role::Admin) {
        true => Ok(()),
        false => Err(Error::Forbidden(
            "only admins can pin messages in this conversation",
        )),
    }
}
