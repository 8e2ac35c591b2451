//! Who received and read a message, and when.

use std::sync::Arc;

use super::Store;
use crate::error::Result;
use crate::ids::MessageId;
use crate::map::Assignment;
use crate::model::{Caller, Message, ReceiptList};
use crate::node::Shard;
use crate::receipts;

impl Store {
    /// Who of the other members received and read a message, and between which times; of those who were members when it was
    /// sent.
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::error::Error::Conflict) in channels and in conversations of more than
    /// [`receipts::MEMBERS_MAX`] members, and as [`Store::message`].
    pub async fn receipts(&self, caller: &Caller, id: MessageId) -> Result<ReceiptList> {
        let message: &Message = &self.message(caller, id).await?;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let owner = (&*shard, &assignment);
            receipts::of_message(owner, &caller.user, message, caller.deadline).await
        };
        self.router
            .call(id.conversation.owner_key(), caller.deadline, read)
            .await
    }
}
