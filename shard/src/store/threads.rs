//! The replies of messages; of archived ones too.

use std::sync::Arc;

use super::Store;
use crate::error::Result;
use crate::ids::{MessageId, Seq};
use crate::map::Assignment;
use crate::model::{Caller, ReplyList};
use crate::node::Shard;
use crate::scattered;
use crate::threads;

impl Store {
    /// A page of a message's replies, the oldest first, without deleted ones: at most 100, and about
    /// [`answer_bytes`](crate::settings::LimitSettings::answer_bytes) of them.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::error::Error::Invalid) for a foreign cursor, and as [`Store::message`].
    pub async fn replies(
        &self,
        caller: &Caller,
        id: MessageId,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<ReplyList> {
        let after = cursor.map(scattered::parse_cursor).transpose()?;
        let page = (after.unwrap_or(Seq(0)), limit, self.answer_bytes());
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let tiers = (&*shard, &assignment, self.cold.as_ref());
            threads::page(tiers, (id, &caller.user), page, caller.deadline).await
        };
        self.router
            .call(id.conversation.owner_key(), caller.deadline, read)
            .await
    }
}
