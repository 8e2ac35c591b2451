//! Users' notifications: sent by operators, listed and read by who they are for.

use std::sync::Arc;

use super::Store;
use super::batches::Batch;
use crate::commit_event::CommitEvent;
use crate::error::{Error, Result};
use crate::fence;
use crate::ids::{NotificationId, UserId};
use crate::model::{
    Caller, NewNotification, Notification, NotificationList, Timestamp, UnreadNotifications,
};
use crate::node::Shard;
use crate::notification::{self, Draft};
use crate::transaction::Transaction;

/// Most users who are sent a notification at once.
const USERS_AT_ONCE: usize = 100;
/// Most notifications in a page.
const PAGE_MAX: u32 = 100;

/// What came of a notification to several users.
#[derive(Debug, Default)]
pub struct Notified {
    /// To whom it was sent, with what each was sent.
    pub sent: Vec<(UserId, Notification)>,
    /// To whom it could not be sent, and why. Nothing was stored for them.
    pub failed: Vec<(Vec<UserId>, Error)>,
}

impl Store {
    /// Sends a notification to users, each on their own shard. The caller has to see to it that whoever asks for this may.
    ///
    /// # Errors
    /// [`Error::Invalid`]: nothing was sent.
    pub async fn notify(&self, caller: &Caller, mut new: NewNotification) -> Result<Notified> {
        let mut users = std::mem::take(&mut new.user_ids);
        users.sort_unstable(); // everybody locks in the same order
        users.dedup();
        if users.is_empty() || users.len() > USERS_AT_ONCE {
            return Err(Error::invalid(
                "userIds",
                format!("1 to {USERS_AT_ONCE} users"),
            ));
        }
        for user in &users {
            self.key(user)?;
        }
        let limits = &self.settings().limits;
        let draft = &Draft::new(new, limits.metadata_bytes)?;
        let keep = limits.notifications;
        let key = |user: &UserId| self.key(user).ok();
        let store = |shard: Arc<Shard>, assignment, batch: Batch<UserId>| async move {
            let at = Timestamp::now();
            let (shard, assignment, batch) = (&shard, &assignment, &batch);
            let store = |mut transaction: Transaction| async move {
                let connection = &mut transaction;
                fence::require_write(connection, shard.name(), assignment).await?;
                let mut stored = Vec::with_capacity(batch.len());
                for (key, user) in &**batch {
                    let owner = (*key, user);
                    let added = notification::add(connection, owner, draft, (at, keep)).await?;
                    stored.push((user.clone(), added));
                }
                Ok(stored)
            };
            let stored = shard.transaction(caller.deadline, store).await?;
            let events = stored
                .iter()
                .map(|(user, notification)| CommitEvent::Notified {
                    user: user.clone(),
                    notification: notification.clone(),
                });
            self.listener.committed(events.collect());
            Ok(stored)
        };
        let mut outcome = Notified::default();
        for (batch, stored) in self.in_batches(&users, key, caller.deadline, store).await {
            match stored {
                Ok(stored) => outcome.sent.extend(stored),
                Err(error) => {
                    let users = batch.iter().map(|(_, user)| user.clone());
                    outcome.failed.push((users.collect(), error));
                }
            }
        }
        Ok(outcome)
    }

    /// A page of the caller's notifications, the newest first; only unread ones with `unread`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a foreign cursor, [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn notifications(
        &self,
        caller: &Caller,
        cursor: Option<&str>,
        unread: bool,
        limit: u32,
    ) -> Result<NotificationList> {
        let before = match cursor {
            None => NotificationId::MAX,
            Some(cursor) => cursor.parse().map_err(|_| {
                Error::invalid("cursor", "pass the `nextCursor` of the page before")
            })?,
        };
        let limit = limit.clamp(1, PAGE_MAX);
        let key = self.key(&caller.user)?;
        let mut notifications = self
            .router
            .call(key, caller.deadline, |shard, assignment| async move {
                let mut connection = shard.reader(caller.deadline).await?;
                fence::require_read(&mut connection, shard.name(), &assignment).await?;
                let owner = (key, &caller.user);
                notification::page(&mut connection, owner, (before, unread), limit + 1).await
            })
            .await?;
        let more = notifications.len() > limit as usize;
        notifications.truncate(limit as usize);
        let next_cursor = notifications.last().filter(|_| more);
        Ok(NotificationList {
            next_cursor: next_cursor.map(|last| last.id.to_string()),
            notifications,
        })
    }

    /// How many notifications the caller has not read.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn unread_notifications(&self, caller: &Caller) -> Result<UnreadNotifications> {
        let key = self.key(&caller.user)?;
        let total = self
            .router
            .call(key, caller.deadline, |shard, assignment| async move {
                let mut connection = shard.reader(caller.deadline).await?;
                fence::require_read(&mut connection, shard.name(), &assignment).await?;
                notification::unread(&mut connection, (key, &caller.user)).await
            })
            .await?;
        Ok(UnreadNotifications { total })
    }

    /// The caller has read one of their notifications. Gives it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn read_notification(
        &self,
        caller: &Caller,
        id: NotificationId,
    ) -> Result<Notification> {
        let key = self.key(&caller.user)?;
        let (read, changed) = self
            .router
            .call(key, caller.deadline, |shard, assignment| async move {
                let (shard, assignment) = (&shard, &assignment);
                let mark = |mut transaction: Transaction| async move {
                    fence::require_write(&mut transaction, shard.name(), assignment).await?;
                    let (owner, now) = ((key, &caller.user), Timestamp::now());
                    notification::mark_read(&mut transaction, owner, id, now).await
                };
                shard.transaction(caller.deadline, mark).await
            })
            .await?;
        if changed {
            self.listener
                .committed(vec![CommitEvent::NotificationsRead {
                    user: caller.user.clone(),
                    ids: (id, id),
                }]);
        }
        Ok(read)
    }

    /// The caller has read all their notifications.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn read_notifications(&self, caller: &Caller) -> Result<()> {
        let key = self.key(&caller.user)?;
        let through = self
            .router
            .call(key, caller.deadline, |shard, assignment| async move {
                let (shard, assignment) = (&shard, &assignment);
                let mark = |mut transaction: Transaction| async move {
                    fence::require_write(&mut transaction, shard.name(), assignment).await?;
                    let (owner, now) = ((key, &caller.user), Timestamp::now());
                    notification::mark_all_read(&mut transaction, owner, now).await
                };
                shard.transaction(caller.deadline, mark).await
            })
            .await?;
        if let Some(through) = through {
            self.listener
                .committed(vec![CommitEvent::NotificationsRead {
                    user: caller.user.clone(),
                    ids: (NotificationId(1), through),
                }]);
        }
        Ok(())
    }
}
