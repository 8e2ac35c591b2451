//! How far messages had come where they are from, as watermarks of those who received them.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::member::{self, Membership};
use crate::model::{DeliveryStatus, HistoryRecord, Timestamp};
use crate::owned::OwnedTransaction;

/// Conversations with more members have no receipts, here as elsewhere.
const MEMBERS_MAX: usize = 100;

/// In the transaction that stores `records`, the first of them as message `first`: moves the watermarks of the other members
/// up to the newest message that they had read, or received.
///
/// # Errors
/// When the database fails.
pub(super) async fn save(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    (records, first): (&[HistoryRecord], Seq),
) -> Result<()> {
    let mut newest: BTreeMap<&UserId, (Seq, Seq)> = BTreeMap::new();
    for (seq, record) in (first.0..).map(Seq).zip(records) {
        let (read, delivered) = match record.status {
            None | Some(DeliveryStatus::Sent) => continue,
            Some(DeliveryStatus::Delivered) => (Seq(0), seq),
            Some(DeliveryStatus::Read) => (seq, seq),
        };
        let of_sender = newest.entry(&record.user).or_default();
        *of_sender = (of_sender.0.max(read), of_sender.1.max(delivered));
    }
    if newest.is_empty() {
        return Ok(());
    }
    let members = member::page(transaction, id, &[], MEMBERS_MAX + 1).await?;
    if members.len() > MEMBERS_MAX {
        return Ok(());
    }
    let moved: Vec<Membership> = members
        .into_iter()
        .filter_map(|member| {
            let others = newest.iter().filter(|(sender, _)| **sender != &member.user);
            let (read_seq, delivered_seq) = others
                .map(|(_, seqs)| *seqs)
                .reduce(|one, other| (one.0.max(other.0), one.1.max(other.1)))?;
            Some(Membership {
                user: member.user,
                role: member.role,
                read_seq,
                delivered_seq,
                rev: Rev(0),
                joined_at: Timestamp(0),
            })
        })
        .collect();
    let moved: Vec<_> = moved.iter().map(|member| (id, member)).collect();
    member::save_watermarks(transaction, &moved).await
}
