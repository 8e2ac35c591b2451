//! Notifications of another system, with their own times.
//!
//! Each user's come in the order of time. What is older than the user's newest notification, or the same as one of its moment,
//! is there already or was superseded: so an import that was interrupted is run again, and nothing is stored twice.

use super::record::check_time;
use crate::error::Result;
use crate::ids::{NotificationId, UserId, UserKey};
use crate::model::{
    NewNotification, Notification, NotificationFilter, NotificationRecord, Timestamp,
};
use crate::notification::{self, Draft};
use crate::owned::OwnedTransaction;
use crate::settings::LimitSettings;

/// Whether a record can be stored.
///
/// # Errors
/// [`Error::Invalid`](crate::error::Error::Invalid) naming the field.
pub fn check_notification(record: &NotificationRecord, limits: &LimitSettings) -> Result<()> {
    check_time("at", record.at, Timestamp::now())?;
    record.user.check_new()?;
    draft(record, limits).map(drop)
}

fn draft(record: &NotificationRecord, limits: &LimitSettings) -> Result<Draft> {
    let new = NewNotification {
        user_ids: Vec::new(),
        kind: record.kind.clone(),
        priority: record.priority,
        title: record.title.clone(),
        body: record.body.clone(),
        action_url: record.action_url.clone(),
        metadata: record.metadata.clone(),
    };
    Draft::new(new, limits.metadata_bytes)
}

/// In a write transaction: stores those of a user's `records`, in the order of time, that are not there. Says how many.
///
/// # Errors
/// [`Error::Invalid`](crate::error::Error::Invalid) for a record that breaks a rule; when the database fails.
pub(crate) async fn add_notifications(
    transaction: &mut OwnedTransaction<'_>,
    (key, user): (UserKey, &UserId),
    records: &[NotificationRecord],
    limits: &LimitSettings,
) -> Result<u64> {
    let keep = limits.notifications;
    let (owner, all) = ((key, user), NotificationFilter::default());
    notification::lock(transaction, owner).await?;
    let here = notification::page(transaction, owner, (NotificationId::MAX, all), keep).await?;
    let newest = here.first().map(|newest| newest.created_at);
    let is_here = |at: Timestamp, record: &NotificationRecord| {
        newest.is_some_and(|newest| at < newest)
            || here
                .iter()
                .any(|one| one.created_at == at && is_same(one, record))
    };
    // Of more than are kept, the older ones would be dropped at once.
    let older = records.len().saturating_sub(keep as usize);
    let mut stored = 0;
    for record in &records[older..] {
        let at = Timestamp(record.at);
        if !is_here(at, record) {
            let read_at = record.read.then_some(at);
            let draft = draft(record, limits)?;
            notification::add(transaction, owner, &draft, (at, read_at, keep)).await?;
            stored += 1;
        }
    }
    Ok(stored)
}

fn is_same(one: &Notification, record: &NotificationRecord) -> bool {
    (&one.kind, &one.title, &one.body) == (&record.kind, &record.title, &record.body)
}
