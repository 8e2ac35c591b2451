//! Which users are a user's contacts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::Store;
use super::batches::Batch;
use crate::contacts;
use crate::ids::{ConversationId, UserId, UserKey};
use crate::map::Assignment;
use crate::node::Shard;

impl Store {
    /// Those of `others` who are [contacts](contacts) of `user`. At most two statements a range of keys, and one more. A user
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
        let mut found = self.with_direct_conversation(me, others, deadline).await;
        let rest = others.iter().filter(|other| !found.contains(*other));
        let rest: Vec<UserId> = rest.cloned().collect();
        if !rest.is_empty() {
            found.extend(self.sharing_group(me, &rest, deadline).await);
        }
        found
    }

    async fn with_direct_conversation(
        &self,
        (key, user): (UserKey, &UserId),
        others: &[UserId],
        deadline: Instant,
    ) -> HashSet<UserId> {
        let direct = |other: &UserId| {
            let id = ConversationId::direct((user, key), (other, self.key(other).ok()?), 0);
            Some((id, other.clone()))
        };
        let asked: Vec<(ConversationId, UserId)> = others.iter().filter_map(direct).collect();
        let owner = |(id, _): &(ConversationId, UserId)| Some(id.owner_key());
        let ask = |shard: Arc<Shard>,
                   assignment: Assignment,
                   batch: Batch<(ConversationId, UserId)>| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            let asked: HashMap<ConversationId, &UserId> =
                batch.iter().map(|(_, (id, other))| (*id, other)).collect();
            contacts::with_direct_conversation(&mut rows, user, &asked).await
        };
        let answers = self.in_batches(&asked, owner, deadline, ask).await;
        answered(answers).collect()
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
        answered(answers).collect()
    }
}

/// The users of the answers that came.
fn answered<T>(
    answers: Vec<(Batch<T>, crate::error::Result<Vec<UserId>>)>,
) -> impl Iterator<Item = UserId> {
    let users = answers.into_iter().filter_map(|(batch, users)| {
        let users = users.inspect_err(|error| {
            tracing::warn!(%error, asked = batch.len(), "cannot tell with whom a user shares conversations");
        });
        users.ok()
    });
    users.flatten()
}
