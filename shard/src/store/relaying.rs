//! Members' lists follow the changes that this store makes: at once within the request, or by the relay.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Store;
use crate::error::{Error, Result};
use crate::ids::ConversationId;
use crate::model::Caller;
use crate::node::Shard;
use crate::relay::{self, WithinRequest};

/// How long a caller who changed a conversation's members or name waits for the lists to follow.
const RELAY_NOW: Duration = Duration::from_secs(1);

impl Store {
    /// Tells the relay at once, so that lists follow within milliseconds.
    pub(super) fn hint(&self, shard: &Arc<Shard>, id: ConversationId) {
        self.attended.hint(shard, id);
    }

    /// Brings the list of the caller, who will look at it next, up to date now, and those of the other members if they are few.
    /// The relay does the rest, also if that fails or takes long.
    pub(super) async fn relay_now(&self, caller: &Caller, id: ConversationId) {
        let deadline = caller.deadline.min(Instant::now() + RELAY_NOW);
        let map = self.router.map();
        let relayed = match self.router.shard(&map.locate(id.owner_key()).shard) {
            Ok(shard) => {
                let (listener, me) = (self.listener.as_ref(), (id, &caller.user));
                let relay =
                    relay::apply_within_request(&self.router, shard, listener, me, deadline);
                let relayed = relay.await;
                if matches!(relayed, WithinRequest::Own) {
                    self.hint(shard, id);
                }
                relayed
            }
            Err(error) => WithinRequest::Failed(error),
        };
        if let WithinRequest::Failed(error) = relayed {
            tracing::warn!(conversation = %id, %error, "conversation lists lag behind; the marks are kept");
        }
    }

    /// Waits until no list mark is left on any shard: every list is exact then.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] when marks are left at `deadline`.
    pub async fn relay_idle(&self, deadline: Instant) -> Result<()> {
        for shard in self.router.shards() {
            while !relay::is_idle(shard, deadline).await? {
                if Instant::now() >= deadline {
                    return Err(Error::DeadlineExceeded);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}
