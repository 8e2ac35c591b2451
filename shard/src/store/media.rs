//! Files of conversations: begun, looked at, finished, given up. The bytes are the caller's business; membership is checked
//! here, in the transaction or on the connection that does the work (INV-MEMBER).

use std::sync::Arc;

use super::Store;
use crate::change::Change;
use crate::error::{Error, MediaFault, Result};
use crate::ids::{ConversationId, MediaId};
use crate::map::Assignment;
use crate::media;
use crate::model::{Caller, Media, MediaState, MediaVerdict, Timestamp};
use crate::node::Shard;
use crate::{head, member};

/// How much a user may have uploaded to the conversations of one shard.
#[derive(Clone, Copy, Debug)]
pub struct MediaQuota {
    /// Files.
    pub files: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Store {
    /// Puts down a file that the caller is going to upload.
    ///
    /// # Errors
    /// [`Error::LimitReached`] beyond the quota, [`Error::NotMember`], [`Error::ShardUnavailable`],
    /// [`Error::DeadlineExceeded`].
    pub async fn begin_media(
        &self,
        caller: &Caller,
        media: &Media,
        quota: MediaQuota,
    ) -> Result<()> {
        self.sanctions.may_speak(&caller.user)?;
        let begin = |mut change: Change| async move {
            let used = media::usage(&mut change.rows, &media.uploader).await?;
            if used.files >= quota.files {
                return Err(Error::LimitReached {
                    what: "files of one user",
                    max: quota.files,
                });
            }
            if used.bytes.saturating_add(media.bytes) > quota.bytes {
                return Err(Error::LimitReached {
                    what: "bytes in files of one user",
                    max: quota.bytes,
                });
            }
            media::insert(&mut change.rows, media).await?;
            Ok(change.unchanged(()))
        };
        self.change(caller, media.conversation, begin).await
    }

    /// Whether the caller is a member of the conversation.
    ///
    /// # Errors
    /// [`Error::NotMember`], and as [`Store::conversation`].
    pub async fn check_member(&self, caller: &Caller, id: ConversationId) -> Result<()> {
        self.conversation(caller, id).await.map(drop)
    }

    /// A file that the caller may see: their own, or one that a message of a conversation of theirs uses.
    ///
    /// # Errors
    /// [`Error::NotFound`] also for what others have not sent, [`Error::NotMember`], and as [`Store::conversation`].
    pub async fn media(&self, caller: &Caller, id: MediaId) -> Result<Media> {
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut rows = shard.read(&assignment, caller.deadline).await?;
            let found = media::one(&mut rows, id).await?;
            let media = found.ok_or(Error::NotFound("file"))?;
            let heads = head::read(&mut rows, &[media.conversation]).await?;
            let is_there = heads.iter().any(|head| head.deleted_at.is_none());
            let me = member::one(&mut rows, media.conversation, &caller.user).await?;
            if !is_there || !me.is_some_and(|me| me.is_active()) {
                return Err(Error::NotMember);
            }
            if media.uploader != caller.user && media.expires_at.is_some() {
                return Err(Error::NotFound("file"));
            }
            Ok(media)
        };
        self.router
            .call(id.owner_key(), caller.deadline, read)
            .await
    }

    /// Gives a pending file of the caller its verdict, and says how it is then, and whether this verdict counted: of several
    /// at once the first does.
    ///
    /// # Errors
    /// As [`Store::media`].
    pub async fn finish_media(
        &self,
        caller: &Caller,
        file: &Media,
        verdict: &MediaVerdict,
    ) -> Result<(Media, bool)> {
        let finish = |mut change: Change| async move {
            let current = media::lock(&mut change.rows, file.conversation, file.id).await?;
            if current.state != MediaState::Pending {
                return Ok(change.unchanged((current, false)));
            }
            media::finish(&mut change.rows, &current, verdict).await?;
            let now = media::lock(&mut change.rows, file.conversation, file.id).await?;
            Ok(change.unchanged((now, true)))
        };
        self.change(caller, file.conversation, finish).await
    }

    /// Gives up a file that no message uses. Its uploader may.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for another's file, [`Error::Media`] for one that is used, and as [`Store::media`].
    pub async fn delete_media(&self, caller: &Caller, id: MediaId) -> Result<()> {
        let file = self.media(caller, id).await?;
        if file.uploader != caller.user {
            return Err(Error::Forbidden("only its uploader can delete a file"));
        }
        let conversation = file.conversation;
        let delete = |mut change: Change| async move {
            media::lock(&mut change.rows, conversation, id).await?;
            if media::is_used(&mut change.rows, conversation, id).await? {
                return Err(Error::Media(MediaFault::InUse));
            }
            media::remove(&mut change.rows, conversation, id, Timestamp::now()).await?;
            Ok(change.unchanged(()))
        };
        self.change(caller, conversation, delete).await
    }
}
