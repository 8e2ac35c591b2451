//! Which users are a user's contacts.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::Store;
use super::batches::Batch;
use crate::contacts;
use crate::ids::{ConversationId, UserId, UserKey};
use crate::map::Assignment;
use crate::node::Shard;

impl Store {
    /// Those of `others` who are [contacts] of `user`. At most two statements a range of keys, and one more. A user
    /// whose shard does not answer is none.
    pub async fn contacts_among(
        &self,
        user: &UserId,
        others: &[UserId],
        deadline: Instant,
    ) -> HashSet<UserId> {
        let Ok(key) = self.key(user) else {
            return HashSet::new();
        };
        let me = (key, user);
        let direct = self.direct_conversations(me, others, deadline).await;
        if let Some(error) = &direct.failure {
            tracing::warn!(%error, asked = direct.unknown.len(), "cannot tell with whom a user has direct conversations");
        }
        // Somebody may block the other, so those of whom it is not known are none.
        let is_open = |other: &&UserId| {
            !direct.found.contains_key(*other) && !direct.unknown.contains(*other)
        };
        let rest: Vec<UserId> = others.iter().filter(is_open).cloned().collect();
        let direct = direct.found.into_iter();
        let direct = direct.filter(|(_, blockers)| blockers.is_empty());
        let mut contacts: HashSet<UserId> = direct.map(|(other, _)| other).collect();
        if !rest.is_empty() {
            contacts.extend(self.sharing_group(me, &rest, deadline).await);
        }
        contacts
    }

    async fn sharing_group(
        &self,
        me: (UserKey, &UserId),
        others: &[UserId],
        deadline: Instant,
    ) -> HashSet<UserId> {
        let (key, user) = me;
        let listed = self
            .router
            .call(key, deadline, |shard, assignment| async move {
                let mut mine = shard.read(&assignment, deadline).await?;
                contacts::listed(&mut mine, me).await
            });
        let ids = listed.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell which conversations a user shares");
            Vec::new()
        });
        let owner = |id: &ConversationId| Some(id.owner_key());
        let ask = |shard: Arc<Shard>, assignment: Assignment, batch: Batch<ConversationId>| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            let ids: Vec<ConversationId> = batch.iter().map(|(_, id)| *id).collect();
            contacts::sharing(&mut rows, &ids, (user, others)).await
        };
        let answers = self.in_batches(&ids, owner, deadline, ask).await;
        let answers = answers.into_iter().filter_map(|(batch, users)| {
            let users = users.inspect_err(|error| {
                tracing::warn!(%error, asked = batch.len(), "cannot tell with whom a user shares conversations");
            });
            users.ok()
        });
        answers.flatten().collect()
    }
}
