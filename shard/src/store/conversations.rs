//! Reading, renaming and deleting conversations.

use std::sync::Arc;

use super::{HELD, Store};
use crate::archive;
use crate::change::{Change, ListsToMark};
use crate::commit_event::{CommitEvent, Left};
use crate::error::{Error, Result};
use crate::head::{FIRST_MEMBERS, Head};
use crate::ids::{ConversationId, Seq};
use crate::map::Assignment;
use crate::member::{self, Membership, StoredMembership};
use crate::message::{check_object, stored_json};
use crate::model::{
    AnyObject, Caller, Conversation, ConversationKind, ConversationPatch, RawJson, Role, Timestamp,
};
use crate::node::Shard;
use crate::standing;

/// Longest title in characters.
const TITLE_MAX: usize = 255;

impl Store {
    pub(super) fn check_metadata(&self, metadata: Option<&RawJson>) -> Result<Option<String>> {
        let check = |json| check_object("metadata", json, self.settings().limits.metadata_bytes);
        Ok(metadata.map(check).transpose()?.flatten())
    }

    /// One conversation as the caller sees it.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn conversation(&self, caller: &Caller, id: ConversationId) -> Result<Conversation> {
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let (me, deadline) = ((id, &caller.user), caller.deadline);
            let (mut rows, head, me) = standing::whole(&shard, &assignment, me, deadline).await?;
            let members = member::page(&mut rows, id, &[], FIRST_MEMBERS).await?;
            Ok((head, me, members))
        };
        let call = self.router.call(id.owner_key(), caller.deadline, read);
        let (head, me, members) = call.await?;
        Ok(view(head, &me, members))
    }

    /// Renames it, replaces its metadata or changes who may pin messages (admins), pins or mutes it (each for themselves).
    ///
    /// # Errors
    /// [`Error::Forbidden`], and as [`Store::conversation`].
    pub async fn update_conversation(
        &self,
        caller: &Caller,
        id: ConversationId,
        patch: ConversationPatch,
    ) -> Result<Conversation> {
        let title = patch.title.as_deref().map(check_title).transpose()?;
        let metadata = self.check_metadata(patch.metadata.as_ref())?;
        let members_pin = patch.members_may_pin;
        if title.is_some() || patch.metadata.is_some() || members_pin.is_some() {
            self.sanctions.may_speak(&caller.user)?;
            let (title, metadata) = (
                title.as_ref(),
                patch.metadata.is_some().then_some(&metadata),
            );
            let rename = |mut change: Change| async move {
                if change.head.kind == ConversationKind::Direct {
                    return Err(Error::Forbidden(
                        "a direct conversation has no title, metadata or rules of its own",
                    ));
                }
                if !change.has(Role::Admin) {
                    return Err(Error::Forbidden(
                        "only admins can rename a conversation or change its metadata or rules",
                    ));
                }
                if title.is_some() {
                    change.head.title = title.cloned();
                }
                if let Some(metadata) = metadata {
                    change.head.metadata.clone_from(metadata);
                }
                change.head.members_pin = members_pin.unwrap_or(change.head.members_pin);
                let rev = change.head.next_rev();
                change.lists = ListsToMark::All;
                change.events.push(CommitEvent::ConversationChanged {
                    conversation: id,
                    rev,
                    left: Left::Nobody,
                });
                change.save(()).await
            };
            self.change(caller, id, rename).await?;
            self.relay_now(caller, id).await;
        }
        if patch.pinned.is_some() || patch.muted.is_some() {
            self.conversation(caller, id).await?; // a member, then
            self.set_list_flags(caller, id, (patch.pinned, patch.muted))
                .await?;
        }
        self.conversation(caller, id).await
    }

    /// Deletes a conversation for all its members. Its owner may.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Conflict`] under a legal hold, and as [`Store::conversation`].
    pub async fn delete_conversation(&self, caller: &Caller, id: ConversationId) -> Result<()> {
        let delete = |mut change: Change| async move {
            if change.head.kind == ConversationKind::Direct {
                return Err(Error::Forbidden("a direct conversation cannot be deleted"));
            }
            if !change.has(Role::Owner) {
                return Err(Error::Forbidden("only the owner can delete a conversation"));
            }
            if archive::is_held(&mut change.rows, id).await? {
                return Err(Error::Conflict(HELD));
            }
            let now = Timestamp::now();
            change.head.deleted_at = Some(now);
            // Its rows, and its copies in the archive, are removed by the archive's job (INV-ERASE).
            archive::request_erasure(&mut change.rows, id, Seq(0), now).await?;
            let rev = change.head.next_rev();
            change.lists = ListsToMark::All;
            change.events.push(CommitEvent::ConversationChanged {
                conversation: id,
                rev,
                left: Left::Everybody,
            });
            change.save(()).await
        };
        self.change(caller, id, delete).await?;
        self.relay_now(caller, id).await;
        Ok(())
    }
}

pub(super) fn check_title(title: &str) -> Result<String> {
    let title = title.trim();
    if title.is_empty() || title.chars().count() > TITLE_MAX || title.chars().any(char::is_control)
    {
        return Err(Error::invalid(
            "title",
            "1 to 255 characters without control characters",
        ));
    }
    Ok(title.to_owned())
}

/// A conversation as `me` sees it.
fn view(head: Head, me: &Membership, members: Vec<StoredMembership>) -> Conversation {
    let members = members.into_iter();
    let members = members.map(|member| head.complete(member).into_member());
    let members = members.collect();
    Conversation {
        id: head.id,
        kind: head.kind,
        title: head.title,
        metadata: stored_json::<AnyObject>("metadata", head.metadata, "{}"),
        members_may_pin: head.members_pin || head.kind == ConversationKind::Direct,
        created_by: head.created_by,
        created_at: head.created_at,
        head_seq: head.head_seq,
        rev: head.rev,
        member_count: head.member_count,
        members,
        last_message: head.last,
        role: me.role.unwrap_or(Role::Member),
        read_seq: me.read_seq,
        delivered_seq: me.delivered_seq,
        unread_count: head.head_seq.0.saturating_sub(me.read_seq.0),
    }
}
