//! What is wrong with a conversation's copies: for [`super::verify`] to tell and [`super::repair`] to mend.
//!
//! It looks beside writers and jobs. A conversation is looked at as of one moment, in which a message is hot or archived,
//! and its newest copy is there (INV-TIER, INV-COPY); what is wrong then is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{self, ArchivedRun, Copies, Erasure};
use backscroll_shard::cold_tier::ColdTier as _;
use backscroll_shard::db::Connection;
use backscroll_shard::error::Error;
use backscroll_shard::head;
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::node::Shard;
use backscroll_shard::owned::OwnedReader;

use super::{ArchiveJobs, Result, STEP};

/// Most erasures looked up at once.
const ERASURES: usize = 256;

/// What is wrong with one message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MessageFault {
    pub(super) seq: Seq,
    pub(super) kind: MessageFaultKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum MessageFaultKind {
    /// The hot row is older than an archived copy.
    OldHot { hot: Rev, newest: StoredMessage },
    /// It was deleted, and readers get its content. `newest` is the newest archived copy.
    Undeleted { newest: StoredMessage },
    /// It is deleted, an archived copy has its content, and no erasure is under way.
    NotErased,
    /// Archived copies of one rev differ.
    CopiesDiffer { rev: Rev },
}

impl fmt::Display for MessageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seq = self.seq;
        match &self.kind {
            MessageFaultKind::OldHot { hot, newest } => {
                let newest = newest.rev;
                write!(
                    f,
                    "message {seq}: the hot row has rev {hot}, an archived copy has rev {newest}"
                )
            }
            MessageFaultKind::Undeleted { .. } => {
                write!(f, "message {seq} was deleted, and its content is shown")
            }
            MessageFaultKind::NotErased => write!(
                f,
                "message {seq} is deleted, and its content is archived and not put down for erasure"
            ),
            MessageFaultKind::CopiesDiffer { rev } => write!(
                f,
                "message {seq}: archived copies that both have rev {rev} differ"
            ),
        }
    }
}

impl ArchiveJobs {
    /// Compares the copies of each of a conversation's messages of which there are, or should be, several.
    pub(super) async fn look_at_copies(
        &self,
        shard: &Arc<Shard>,
        id: ConversationId,
    ) -> Result<Vec<MessageFault>> {
        let mut faults = Vec::new();
        let mut after = Seq(0);
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let Some(range) = archive::next_archived(&mut connection, id, after).await? else {
                return Ok(faults);
            };
            after = range.1;
            connection.begin_snapshot().await?;
            let is_there = head::is_there(&mut OwnedReader::for_job(&mut connection), id).await?;
            let stretch = Stretch {
                hot: archive::hot_states(&mut connection, id, range).await?,
                copies: Copies::find(&mut connection, id, range).await?,
                erasures: erasures(&mut connection, id, range).await?,
            };
            connection.commit().await?;
            drop(connection);
            if is_there {
                let archived = self.every_copy(id, &stretch, range).await?;
                faults.extend(archived.iter().flat_map(|(seq, copies)| {
                    let kinds = stretch.faults(*seq, copies);
                    kinds
                        .into_iter()
                        .map(|kind| MessageFault { seq: *seq, kind })
                }));
            }
        }
    }

    /// Every archived copy of the messages of a stretch that may be wrong. Copies that are damaged or gone are left out:
    /// the look at their segment tells of them.
    async fn every_copy(
        &self,
        id: ConversationId,
        stretch: &Stretch,
        range: (Seq, Seq),
    ) -> Result<BTreeMap<Seq, Vec<StoredMessage>>> {
        let doubtful: BTreeSet<Seq> = (range.0.0..=range.1.0)
            .map(Seq)
            .filter(|seq| stretch.is_doubtful(*seq))
            .collect();
        let (parts, seqs): (Vec<_>, Vec<_>) =
            stretch.copies.every_copy(&doubtful).into_iter().unzip();
        let mut found: BTreeMap<Seq, Vec<StoredMessage>> = BTreeMap::new();
        let reads = self.frames.read(id, &parts, Instant::now() + STEP).await;
        for (read, seqs) in reads.into_iter().zip(seqs) {
            match read {
                Ok(messages) => {
                    for message in messages.into_iter().filter(|it| seqs.contains(&it.seq)) {
                        found.entry(message.seq).or_default().push(message);
                    }
                }
                Err(Error::ArchiveDamaged(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }
}

/// Messages of a conversation as of one moment.
struct Stretch {
    hot: BTreeMap<Seq, (Rev, bool)>,
    copies: Copies,
    erasures: BTreeMap<Seq, Erasure>,
}

impl Stretch {
    /// Whether a message's archived copies are to be read: it was deleted, has several of them, or a hot row that may be
    /// older than one.
    fn is_doubtful(&self, seq: Seq) -> bool {
        let holding: Vec<&ArchivedRun> = self
            .copies
            .runs()
            .iter()
            .filter(|run| run.holds(seq))
            .collect();
        let newest = holding.iter().map(|run| run.last_rev).max();
        let is_old = |rev: Rev| newest.is_some_and(|newest| rev < newest);
        let is_doubtful = |(rev, is_deleted): &(Rev, bool)| *is_deleted || is_old(*rev);
        let is_dropped = holding.iter().any(|run| run.segment.is_none());
        !is_dropped
            && (holding.len() > 1
                || self.hot.get(&seq).is_some_and(is_doubtful)
                || self.erasures.contains_key(&seq))
    }

    fn faults(&self, seq: Seq, archived: &[StoredMessage]) -> Vec<MessageFaultKind> {
        let mut faults = Vec::new();
        let Some(newest) = archived.iter().max_by_key(|copy| copy.rev) else {
            return faults;
        };
        let differs = |copy: &&StoredMessage| copy.rev == newest.rev && *copy != newest;
        if archived.iter().any(|copy| differs(&copy)) {
            faults.push(MessageFaultKind::CopiesDiffer { rev: newest.rev });
        }
        let hot = self.hot.get(&seq);
        if let Some((rev, _)) = hot.filter(|(rev, _)| *rev < newest.rev) {
            faults.push(MessageFaultKind::OldHot {
                hot: *rev,
                newest: newest.clone(),
            });
        }
        let is_deleted = match hot {
            Some((rev, is_deleted)) if *rev >= newest.rev => *is_deleted,
            _ => newest.deleted_at.is_some(),
        };
        let erasure = self.erasures.get(&seq);
        if !is_deleted && erasure.is_some() {
            let newest = newest.clone();
            faults.push(MessageFaultKind::Undeleted { newest });
        }
        let is_under_way = erasure.is_some_and(|erasure| erasure.rewritten_at.is_none());
        let has_content = archived.iter().any(|copy| copy.deleted_at.is_none());
        if is_deleted && has_content && !is_under_way {
            faults.push(MessageFaultKind::NotErased);
        }
        faults
    }
}

async fn erasures(
    connection: &mut Connection,
    id: ConversationId,
    (first, last): (Seq, Seq),
) -> Result<BTreeMap<Seq, Erasure>> {
    let mut found = BTreeMap::new();
    let mut after = Seq(first.0 - 1);
    loop {
        let page = archive::erasures_of(connection, id, Some(after), ERASURES).await?;
        let is_end = page.len() < ERASURES;
        for erasure in page {
            after = erasure.seq;
            if after <= last {
                found.insert(after, erasure);
            }
        }
        if is_end || after >= last {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use backscroll_shard::ids::{UserId, UserKey};
    use backscroll_shard::model::{MessageType, Timestamp};

    use super::*;

    /// A copy of message 1.
    fn copy(rev: u64, content: &str) -> StoredMessage {
        StoredMessage {
            seq: Seq(1),
            rev: Rev(rev),
            sender: UserId::new("alice").unwrap(),
            client_msg_id: None,
            body_digest: None,
            message_type: MessageType::Text,
            content: content.into(),
            reply_to: None,
            attachments: None,
            reactions: None,
            metadata: None,
            edit_history: None,
            created_at: Timestamp(1),
            edited_at: None,
            deleted_at: None,
            pin: None,
            mentions: None,
        }
    }

    fn deleted(rev: u64) -> StoredMessage {
        let mut copy = copy(rev, "");
        copy.mark_deleted(Timestamp(2));
        copy
    }

    /// An erasure, and whether no index should name the content any more.
    fn erasure(is_rewritten: bool) -> Erasure {
        Erasure {
            conversation_id: ConversationId::new(UserKey(1), 1),
            seq: Seq(1),
            requested_at: Timestamp(2),
            rewritten_at: is_rewritten.then_some(Timestamp(3)),
            erased_at: None,
        }
    }

    fn faults(
        hot: Option<(u64, bool)>,
        archived: &[StoredMessage],
        erasure: Option<Erasure>,
    ) -> Vec<MessageFaultKind> {
        let stretch = Stretch {
            hot: hot
                .map(|(rev, is_deleted)| (Seq(1), (Rev(rev), is_deleted)))
                .into_iter()
                .collect(),
            copies: Copies::default(),
            erasures: erasure.map(|it| (Seq(1), it)).into_iter().collect(),
        };
        stretch.faults(Seq(1), archived)
    }

    #[test]
    fn what_is_wrong_with_copies() {
        let (old, new) = (copy(2, "old"), copy(5, "new"));
        let both = [new.clone(), old.clone()];
        assert_eq!(faults(None, &both, None), []);
        assert_eq!(faults(Some((5, false)), &both, None), []);
        assert_eq!(faults(Some((9, false)), &both, None), []);
        let hot = Rev(4);
        let newest = new.clone();
        let old_hot = MessageFaultKind::OldHot { hot, newest };
        assert_eq!(faults(Some((4, false)), &both, None), [old_hot]);

        let differ = MessageFaultKind::CopiesDiffer { rev: Rev(2) };
        let two = [old.clone(), copy(2, "another")];
        assert_eq!(faults(None, &two, None), [differ]);

        let gone = [old.clone(), deleted(6)];
        assert_eq!(faults(None, &gone, Some(erasure(false))), []);
        let not_erased = [MessageFaultKind::NotErased];
        assert_eq!(faults(None, &gone, None), not_erased);
        assert_eq!(faults(None, &gone, Some(erasure(true))), not_erased);
        assert_eq!(
            faults(Some((7, true)), std::slice::from_ref(&old), None),
            not_erased
        );
        assert_eq!(faults(None, &[deleted(6)], Some(erasure(true))), []);

        let newest = old.clone();
        let undeleted = [MessageFaultKind::Undeleted { newest }];
        assert_eq!(faults(None, &[old], Some(erasure(true))), undeleted);
    }
}
