//! How members left who were not removed: in the column `left_as` of their rows, whose role is 0.
//!
//! Leaving is final: others cannot add who has left. They can ask the user back, who may then join without them. A departure
//! shows nowhere, so it takes no rev; it is written in the transaction that ends the membership.

use crate::db::{Value, pad, placeholders, values};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, UserId};
use crate::owned::{OwnedReader, OwnedTransaction};

/// Both by the primary key.
const SELECT: &str = "SELECT user_id, left_as FROM members {by PRIMARY} \
     WHERE conversation_id = ? AND role = 0 AND left_as > 0 AND user_id IN (";
const SET: &str = "UPDATE members SET left_as = ? WHERE conversation_id = ? AND user_id = ?";

/// How a member left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// Others cannot add the user.
    Left,
    /// An admin has asked the user back since.
    AskedBack,
}

/// Those of some users (at least one) who have left the conversation and were not removed.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    users: &[&UserId],
) -> Result<Vec<(UserId, Departure)>> {
    let mut args: Vec<Value<'_>> = users.iter().map(|user| Value::from(*user)).collect();
    pad(&mut args);
    args.insert(0, Value::from(&id));
    let statement = format!("{SELECT}{})", placeholders(args.len() - 1));
    let found = rows.fetch_all(&statement, &args).await?;
    let departed = found.iter().map(|row| {
        let departure = match row.int(1)? {
            1 => Departure::Left,
            2 => Departure::AskedBack,
            code => return Err(Error::corrupt(format_args!("unknown departure {code}"))),
        };
        Ok((row.user(0)?, departure))
    });
    departed.collect()
}

/// Records how a membership ended: without a departure, the member was removed.
///
/// # Errors
/// When the database fails.
pub(crate) async fn set(
    transaction: &mut OwnedTransaction<'_>,
    (id, user): (ConversationId, &UserId),
    departure: Option<Departure>,
) -> Result<()> {
    transaction.require_conversations([id])?;
    let code: Option<i64> = departure.map(|departure| match departure {
        Departure::Left => 1,
        Departure::AskedBack => 2,
    });
    let args = values![code, &id, user];
    transaction.execute(SET, &args).await?;
    Ok(())
}
