//! When members received and read messages: a compact record of how their watermarks moved.
//!
//! A member's row in `receipts` has the latest steps of the two watermarks in a conversation, each with its time, and nothing
//! a message: moves in the same [slot](SLOT_MS) of time are one step, at most [`STEPS_MAX`] are kept, and none older than [`KEPT`]. So
//! what is told of a message is an interval: the watermark was below it at the step before, and not below it at the
//! step itself.
//!
//! The row is written in the transaction that moves the watermark, in conversations of at most [`MEMBERS_MAX`] members, and
//! not in channels, whose messages have no status either. A sender has read what came before; that moves no stored watermark
//! (see [`crate::latest_senders`]) and makes no step, so a send costs nothing: the time is then that of the sender's message.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::db::{
    Connection, Value, WRITE_ROWS, in_rows, pad, padded, placeholders, rows_of, values,
};
use crate::error::{Error, Result};
use crate::head::Head;
use crate::history::{self, Access};
use crate::ids::{ConversationId, Seq, UserId};
use crate::map::Assignment;
use crate::member::{self, Membership};
use crate::message::left_out;
use crate::model::{ConversationKind, MemberReceipt, Message, ReceiptList, Timestamp};
use crate::node::Shard;
use crate::owned::{OwnedReader, OwnedTransaction};

/// Most members of a conversation whose receipts are kept.
pub const MEMBERS_MAX: u64 = 100;
/// Moves of a member's watermarks in the same slot of time are one step: milliseconds.
const SLOT_MS: i64 = 10_000;
/// Most steps of a member in a conversation.
const STEPS_MAX: usize = 48;
/// Steps are kept for so long.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// By the primary key.
const SELECT: &str = "SELECT conversation_id, user_id, steps FROM receipts {by PRIMARY} WHERE ";
/// By the primary key.
const SAVE: &str = "INSERT INTO receipts (conversation_id, user_id, steps) VALUES ";
const SAVE_UPDATE: &str = " {on_duplicate conversation_id, user_id} steps = {new steps}";
/// By the primary key.
const OF_CONVERSATION: &str = "SELECT user_id, steps FROM receipts WHERE conversation_id = ?";
/// By the primary key.
const REMOVE_ALL: &str = "DELETE FROM receipts WHERE conversation_id = ?";
/// By the primary key.
const SENT_AT: &str = "SELECT seq, created_at FROM messages WHERE conversation_id = ? AND seq IN (";

/// Where the watermarks were from some time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    /// None of the steps before it are kept, and its own time is not known any more.
    at: Option<Timestamp>,
    delivered: Seq,
    read: Seq,
}

/// The steps of a member in a conversation, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Steps(Vec<Step>);

impl Steps {
    /// From the stored form, a JSON list of `[time, delivered, read]`. What does not have the form is left out.
    fn stored(json: &str) -> Self {
        let steps: Vec<(i64, u64, u64)> = serde_json::from_str(json).unwrap_or_else(|_| {
            left_out("receipts");
            Vec::new()
        });
        let step = |(at, delivered, read)| Step {
            at: Some(Timestamp(at)).filter(|at| at.0 > 0),
            delivered: Seq(delivered),
            read: Seq(read),
        };
        Self(steps.into_iter().map(step).collect())
    }

    fn to_stored(&self) -> String {
        let steps = self.0.iter().map(|step| {
            let at = step.at.unwrap_or_default();
            (at.0, step.delivered.0, step.read.0)
        });
        let steps: Vec<(i64, u64, u64)> = steps.collect();
        crate::model::RawJson::of(&steps).get().to_owned()
    }

    /// Takes in where the watermarks are now.
    fn add(&mut self, (delivered, read): (Seq, Seq), now: Timestamp) {
        let at = Some(now);
        let step = Step {
            at,
            delivered,
            read,
        };
        let slot = |at: Timestamp| at.0.div_euclid(SLOT_MS);
        match self.0.last_mut() {
            Some(last) if last.at.is_some_and(|at| slot(at) == slot(now)) => *last = step,
            _ => self.0.push(step),
        }
        let oldest = now.minus(KEPT);
        let is_old = |step: &Step| step.at.is_none_or(|at| at < oldest);
        let old = self.0.iter().take_while(|step| is_old(step)).count();
        let surplus = match self.0.len() > STEPS_MAX {
            true => old.max(self.0.len() - STEPS_MAX + 1),
            false => old,
        };
        // The last of those that go stays as the beginning: what it covers was received or read before all others.
        if let Some(last) = surplus.checked_sub(1) {
            self.0.drain(..last);
            self.0[0].at = None;
        }
    }

    /// When a watermark came to `seq`: not later than the first, later than the second.
    fn reached(
        &self,
        seq: Seq,
        of: impl Fn(&Step) -> Seq,
    ) -> Option<(Option<Timestamp>, Option<Timestamp>)> {
        let place = self.0.iter().position(|step| of(step) >= seq)?;
        let before = place.checked_sub(1).and_then(|before| self.0[before].at);
        Some((self.0[place].at, before))
    }
}

/// Whether receipts are kept of this conversation.
pub(crate) fn are_kept(head: &Head) -> bool {
    head.kind != ConversationKind::Channel && head.member_count <= MEMBERS_MAX
}

/// In the transaction that moves the watermarks of these members to where they are now.
///
/// # Errors
/// When the database fails.
pub(crate) async fn record(
    rows: &mut OwnedTransaction<'_>,
    moved: &[(ConversationId, &Membership)],
    now: Timestamp,
) -> Result<()> {
    rows.require_conversations(moved.iter().map(|(id, _)| *id))?;
    for chunk in moved.chunks(WRITE_ROWS) {
        let keys: Vec<Value<'_>> = padded(chunk)
            .flat_map(|(id, member)| values![id, &member.user])
            .collect();
        let condition = in_rows(["conversation_id", "user_id"], keys.len() / 2);
        let mut known: HashMap<(ConversationId, UserId), Steps> = HashMap::new();
        for row in rows
            .fetch_all(&format!("{SELECT}{condition}"), &keys)
            .await?
        {
            let mut columns = row.columns();
            let key = (columns.conversation()?, columns.user()?);
            known.insert(key, Steps::stored(&columns.text()?));
        }
        let stored = chunk.iter().map(|(id, member)| {
            let known = known.remove(&(*id, member.user.clone()));
            let mut steps = known.unwrap_or_default();
            steps.add((member.delivered_seq, member.read_seq), now);
            (*id, &member.user, steps.to_stored())
        });
        let stored: Vec<(ConversationId, &UserId, String)> = stored.collect();
        let args: Vec<Value<'_>> = padded(&stored)
            .flat_map(|(id, user, steps)| values![id, *user, steps.as_str()])
            .collect();
        let statement = format!("{SAVE}{}{SAVE_UPDATE}", rows_of(args.len() / 3, 3));
        rows.execute(&statement, &args).await?;
    }
    Ok(())
}

/// In a job's transaction: a deleted conversation has no receipts.
///
/// # Errors
/// When the database fails.
pub async fn remove_all(connection: &mut Connection, id: ConversationId) -> Result<()> {
    connection
        .execute(REMOVE_ALL, &values![&id])
        .await
        .map(drop)
}

/// Who of the other members received and read `message`, and when; of those who were members when it was sent.
///
/// # Errors
/// [`Error::Conflict`] where receipts are not kept, [`Error::NotMember`], [`Error::NotOwner`].
pub(crate) async fn of_message(
    (shard, assignment): (&Shard, &Assignment),
    user: &UserId,
    message: &Message,
    deadline: Instant,
) -> Result<ReceiptList> {
    let id = message.conversation_id;
    let (mut rows, access) = history::access(shard, assignment, (id, user), deadline).await?;
    let most = usize::try_from(MEMBERS_MAX).unwrap_or(usize::MAX);
    let members = member::page(&mut rows, id, &[], most + 1).await?;
    if access.kind == ConversationKind::Channel || members.len() > most {
        return Err(Error::Conflict(
            "channels, and conversations of more than 100 members, have no receipts",
        ));
    }
    let sent = sent_at(&mut rows, id, &access).await?;
    let mut steps: HashMap<UserId, Steps> = HashMap::new();
    for row in rows.fetch_all(OF_CONVERSATION, &values![&id]).await? {
        let mut columns = row.columns();
        steps.insert(columns.user()?, Steps::stored(&columns.text()?));
    }
    let mut list = ReceiptList::default();
    for member in members {
        let member = member.complete(&access.latest_senders);
        if member.user == message.sender_id || member.joined_at > message.created_at {
            continue;
        }
        let own = steps.remove(&member.user).unwrap_or_default();
        let by_sending = sent.get(&member.user);
        let by_sending = by_sending.filter(|(seq, _)| *seq >= message.seq);
        let receipt = |of: fn(&Step) -> Seq| {
            let reached = own.reached(message.seq, of);
            let (at, after) = reached
                .or(by_sending.map(|(_, at)| (Some(*at), None)))
                .unwrap_or_default();
            MemberReceipt {
                user_id: member.user.clone(),
                at,
                after,
            }
        };
        if member.delivered_seq >= message.seq {
            list.delivered.push(receipt(|step| step.delivered));
        }
        if member.read_seq >= message.seq {
            list.read.push(receipt(|step| step.read));
        }
    }
    Ok(list)
}

/// The newest messages of the latest senders that are hot, and when they were sent.
async fn sent_at(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    access: &Access,
) -> Result<HashMap<UserId, (Seq, Timestamp)>> {
    let senders: HashMap<Seq, &UserId> = access
        .latest_senders
        .iter()
        .map(|(user, seq)| (*seq, user))
        .collect();
    if senders.is_empty() {
        return Ok(HashMap::new());
    }
    let mut args: Vec<Value<'_>> = senders.keys().map(|seq| Value::from(*seq)).collect();
    pad(&mut args);
    let statement = format!("{SENT_AT}{})", placeholders(args.len()));
    args.insert(0, Value::from(&id));
    let mut sent = HashMap::new();
    for row in rows.fetch_all(&statement, &args).await? {
        let (seq, at) = (Seq::from_i64(row.int(0)?), Timestamp(row.int(1)?));
        if let Some(user) = senders.get(&seq) {
            sent.insert((*user).clone(), (seq, at));
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1000;

    fn added(steps: &mut Steps, read: u64, at: i64) {
        steps.add((Seq(read), Seq(read)), Timestamp(at));
    }

    fn read(steps: &Steps, seq: u64) -> Option<(Option<i64>, Option<i64>)> {
        let reached = steps.reached(Seq(seq), |step| step.read)?;
        Some((reached.0.map(|at| at.0), reached.1.map(|at| at.0)))
    }

    #[test]
    fn a_message_was_read_between_two_steps() {
        let mut steps = Steps::default();
        let begin = 1_700_000_000_000;
        added(&mut steps, 3, begin);
        added(&mut steps, 5, begin + 60 * SECOND);
        added(&mut steps, 6, begin + 65 * SECOND);
        assert_eq!(read(&steps, 2), Some((Some(begin), None)));
        let second = Some((Some(begin + 65 * SECOND), Some(begin)));
        assert_eq!((read(&steps, 4), read(&steps, 6)), (second, second));
        assert_eq!(read(&steps, 7), None);
        assert_eq!(Steps::stored(&steps.to_stored()), steps);
        assert_eq!(Steps::stored("{}"), Steps::default());
    }

    #[test]
    fn steps_are_bounded_and_what_was_before_them_has_no_time() {
        let mut steps = Steps::default();
        let begin = 1_700_000_000_000;
        for n in 1..=1000 {
            added(&mut steps, n, begin + n.cast_signed() * 60 * SECOND);
        }
        assert_eq!(steps.0.len(), STEPS_MAX);
        assert!(steps.to_stored().len() < 4000);
        assert_eq!(read(&steps, 1), Some((None, None)));
        let last = begin + 1000 * 60 * SECOND;
        assert_eq!(
            read(&steps, 1000),
            Some((Some(last), Some(last - 60 * SECOND)))
        );
        let later = last + 40 * 86_400 * SECOND;
        added(&mut steps, 1001, later);
        assert_eq!(steps.0.len(), 2);
        assert_eq!(read(&steps, 1000), Some((None, None)));
        assert_eq!(read(&steps, 1001), Some((Some(later), None)));
    }
}
