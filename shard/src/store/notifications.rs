//! Users' notifications: sent by operators, listed and read by their users.

use std::sync::Arc;
use std::time::Instant;

use super::Store;
use super::batches::Batch;
use super::operator::STEP;
use crate::commit_event::CommitEvent;
use crate::error::{Error, Result};
use crate::ids::{NotificationId, UserId};
use crate::import;
use crate::map::Assignment;
use crate::model::{
    Caller, NewNotification, Notification, NotificationFilter, NotificationList,
    NotificationRecord, Timestamp, UnreadNotifications,
};
use crate::node::Shard;
use crate::notification::{self, Draft};
use crate::owned::{OwnedTransaction, WriteScope};

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
    /// Sends a notification to users, each on their own shard. This does not authorize: callers check for
    /// the role of an operator.
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
            user.check_new()?;
            self.key(user)?;
        }
        let limits = &self.settings().limits;
        let draft = &Draft::new(new, limits.metadata_bytes)?;
        let keep = limits.notifications;
        let key = |user: &UserId| self.key(user).ok();
        let store = |shard: Arc<Shard>, assignment: Assignment, batch: Batch<UserId>| async move {
            let at = Timestamp::now();
            let batch = &batch;
            let store = |mut transaction: OwnedTransaction<'static>| async move {
                let rows = &mut transaction;
                let mut stored = Vec::with_capacity(batch.len());
                for (key, user) in &**batch {
                    let owner = (*key, user);
                    let added = notification::add(rows, owner, draft, (at, None, keep)).await?;
                    stored.push((user.clone(), added));
                }
                Ok(stored)
            };
            let users = batch.iter().map(|(key, user)| (*key, user));
            let scope = WriteScope::users(&assignment, users);
            let stored = shard.write(&scope, caller.deadline, store).await?;
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

    /// Stores what another system has told `user`, in the order of time, under the user's next numbers; the user's clients are told
    /// nothing. What is older than the user's newest notification, or there already, is left out. Says how many were stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] about a record, [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn import_notifications(
        &self,
        user: &UserId,
        records: &[NotificationRecord],
    ) -> Result<u64> {
        let (key, deadline) = (self.key(user)?, Instant::now() + STEP);
        self.router
            .call(key, deadline, |shard, assignment| async move {
                let owner = (key, user);
                let limits = &self.settings().limits;
                let add = |mut rows: OwnedTransaction<'static>| async move {
                    import::add_notifications(&mut rows, owner, records, limits).await
                };
                let scope = WriteScope::users(&assignment, [owner]);
                shard.write(&scope, deadline, add).await
            })
            .await
    }

    /// A page of the caller's notifications, the newest first: those of `filter`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a foreign cursor or what can be no type, [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn notifications(
        &self,
        caller: &Caller,
        cursor: Option<&str>,
        filter: NotificationFilter<'_>,
        limit: u32,
    ) -> Result<NotificationList> {
        let before = match cursor {
            None => NotificationId::MAX,
            Some(cursor) => cursor.parse().map_err(|_| {
                Error::invalid("cursor", "pass the `nextCursor` of the page before")
            })?,
        };
        filter.kind.map_or(Ok(()), notification::check_kind)?;
        let limit = limit.clamp(1, PAGE_MAX);
        let key = self.key(&caller.user)?;
        let mut notifications = self
            .router
            .call(key, caller.deadline, |shard, assignment| async move {
                let mut rows = shard.read(&assignment, caller.deadline).await?;
                let owner = (key, &caller.user);
                notification::page(&mut rows, owner, (before, filter), limit + 1).await
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
                let mut rows = shard.read(&assignment, caller.deadline).await?;
                notification::unread(&mut rows, (key, &caller.user)).await
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
                let owner = (key, &caller.user);
                let mark = |mut rows: OwnedTransaction<'static>| async move {
                    notification::mark_read(&mut rows, owner, id, Timestamp::now()).await
                };
                let scope = WriteScope::users(&assignment, [owner]);
                shard.write(&scope, caller.deadline, mark).await
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
                let owner = (key, &caller.user);
                let mark = |mut rows: OwnedTransaction<'static>| async move {
                    notification::mark_all_read(&mut rows, owner, Timestamp::now()).await
                };
                let scope = WriteScope::users(&assignment, [owner]);
                shard.write(&scope, caller.deadline, mark).await
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
