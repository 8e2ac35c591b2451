//! The statements on the table `reports`.

use super::{
    EVIDENCE_DAYS, NewReport, OPEN_MAX, Report, ReportFilter, ReportReason, ReportState,
    Resolution, Verdict,
};
use crate::db::{Connection, Row, Value, placeholders, values};
use crate::directory;
use crate::error::{Error, Result};
use crate::ids::{MessageId, ReportId, Rev, Seq, UserId};
use crate::model::{RawJson, Timestamp};

/// The property at which transactions that add reports wait for each other.
const LOCK: &str = "reports";

/// By the primary key.
const LAST: &str = "SELECT COALESCE(MAX(id), 0) FROM reports";
/// By the index `reports_reporter`.
const COUNT_OPEN: &str =
    "SELECT COUNT(*) FROM reports {by reports_reporter} WHERE reporter = ? AND state = 'open'";
const INSERT: &str = "INSERT INTO reports (id, conversation_id, seq, rev, sender, reporter, reason, note, evidence, reported_at, state) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, {now}, 'open')";
/// By the primary key.
const RESOLVE: &str = "UPDATE reports SET state = 'resolved', verdict = ?, resolution = ?, resolved_by = ?, resolved_at = {now}, \
     forget_at = {now} + ? WHERE id = ? AND state = 'open'";
/// By the index `reports_forget`.
const DUE: &str = "SELECT id FROM reports {by reports_forget} WHERE forget_at <= {now} ORDER BY forget_at LIMIT ?";
const FORGET: &str =
    "UPDATE reports SET evidence = NULL, note = NULL, forget_at = NULL WHERE id IN ";

macro_rules! columns {
    () => {
        "SELECT id, conversation_id, seq, rev, sender, reporter, reason, note, evidence, reported_at, state, verdict, resolution, \
         resolved_by, resolved_at FROM reports "
    };
}
/// By the primary key.
const ONE: &str = concat!(columns!(), "WHERE id = ?");
/// By the key `reports_message`.
const FIND: &str = concat!(
    columns!(),
    "WHERE conversation_id = ? AND seq = ? AND reporter = ?"
);

const DAY_MS: i64 = 24 * 3600 * 1000;

/// A message as it is reported.
pub(super) struct Reported<'a> {
    pub(super) message: MessageId,
    pub(super) rev: Rev,
    pub(super) sender: &'a UserId,
    pub(super) evidence: &'a str,
}

/// In a write transaction: adds a report, unless `reporter` has reported the message; says which, and whether it is new.
pub(super) async fn add(
    connection: &mut Connection,
    reporter: &UserId,
    reported: &Reported<'_>,
    new: &NewReport,
) -> Result<(Report, bool)> {
    directory::lock_property(connection, LOCK).await?;
    let (conversation, seq) = (reported.message.conversation, reported.message.seq);
    if let Some(found) = find(connection, reporter, reported.message).await? {
        return Ok((found, false));
    }
    let open = connection
        .fetch_optional(COUNT_OPEN, &values![reporter])
        .await?;
    if open.map_or(Ok(0), |row| row.int(0))? >= OPEN_MAX {
        return Err(Error::LimitReached {
            what: "reports of one user that are open",
            max: OPEN_MAX.cast_unsigned(),
        });
    }
    let last = connection.fetch_optional(LAST, &[]).await?;
    let id = ReportId::from_i64(last.map_or(Ok(0), |row| row.int(0))? + 1);
    let args = values![
        id,
        &conversation,
        seq,
        reported.rev,
        reported.sender,
        reporter,
        new.reason.name(),
        new.note.as_deref(),
        reported.evidence,
    ];
    connection.execute(INSERT, &args).await?;
    Ok((one(connection, id).await?, true))
}

/// The report of a message by `reporter`, if there is one.
pub(super) async fn find(
    connection: &mut Connection,
    reporter: &UserId,
    message: MessageId,
) -> Result<Option<Report>> {
    let args = values![&message.conversation, message.seq, reporter];
    let row = connection.fetch_optional(FIND, &args).await?;
    row.map(|row| report(&row)).transpose()
}

pub(super) async fn one(connection: &mut Connection, id: ReportId) -> Result<Report> {
    let row = connection.fetch_optional(ONE, &values![id]).await?;
    row.map_or(Err(Error::NotFound("report")), |row| report(&row))
}

/// In a write transaction: resolves a report that is open; says whether it was.
pub(super) async fn resolve(
    connection: &mut Connection,
    id: ReportId,
    moderator: &UserId,
    resolution: &Resolution,
) -> Result<bool> {
    let args = values![
        resolution.verdict.name(),
        resolution.note.as_deref(),
        moderator,
        EVIDENCE_DAYS * DAY_MS,
        id,
    ];
    Ok(connection.execute(RESOLVE, &args).await? == 1)
}

/// The newest `limit` reports before number `end` that `filter` lets through, the newest first. By the index of the first of its
/// conditions, or by the primary key.
pub(super) async fn matching(
    connection: &mut Connection,
    filter: &ReportFilter,
    end: ReportId,
    limit: usize,
) -> Result<Vec<Report>> {
    let conditions = [
        (
            "conversation",
            "conversation_id",
            filter.conversation.as_ref().map(Value::from),
        ),
        ("sender", "sender", filter.user.as_ref().map(Value::from)),
        ("state", "state", filter.state.map(|it| it.name().into())),
    ];
    let given: Vec<(&str, &str, Value<'_>)> = conditions
        .into_iter()
        .filter_map(|(index, column, value)| Some((index, column, value?)))
        .collect();
    let mut statement = String::from(columns!());
    if let Some((index, ..)) = given.first() {
        statement.push_str(&format!("{{by reports_{index}}} "));
    }
    statement.push_str("WHERE ");
    let mut args: Vec<Value<'_>> = Vec::new();
    for (_, column, value) in given {
        statement.push_str(&format!("{column} = ? AND "));
        args.push(value);
    }
    statement.push_str("id < ? ORDER BY id DESC LIMIT ?");
    args.extend(values![end, stored_limit(limit)]);
    let rows = connection.fetch_all(&statement, &args).await?;
    rows.iter().map(report).collect()
}

/// In a write transaction: takes the evidence out of at most `limit` reports whose time has come, and gives how many they were.
pub(super) async fn forget(connection: &mut Connection, limit: usize) -> Result<usize> {
    let args = values![stored_limit(limit)];
    let rows = connection.fetch_all(DUE, &args).await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.int(0)).collect::<Result<_>>()?;
    if !ids.is_empty() {
        let statement = format!("{FORGET}({})", placeholders(ids.len()));
        let args: Vec<Value<'_>> = ids.iter().map(|id| (*id).into()).collect();
        connection.execute(&statement, &args).await?;
    }
    Ok(ids.len())
}

fn stored_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn report(row: &Row) -> Result<Report> {
    let mut columns = row.columns();
    let id = ReportId::from_i64(columns.int()?);
    let (conversation_id, seq) = (columns.conversation()?, Seq::from_i64(columns.int()?));
    let damaged = |error| Error::corrupt(format_args!("the evidence of a report: {error}"));
    let known = |name: &str| Error::corrupt(format_args!("unknown word {name} in a report"));
    Ok(Report {
        id,
        conversation_id,
        message_id: MessageId {
            conversation: conversation_id,
            seq,
        },
        rev: Rev::from_i64(columns.int()?),
        sender_id: columns.user()?,
        reporter_id: columns.user()?,
        reason: {
            let name = columns.text()?;
            ReportReason::of(&name).ok_or_else(|| known(&name))?
        },
        note: columns.opt_text()?,
        evidence: {
            let evidence = columns.opt_text()?.map(RawJson::parse);
            evidence.transpose().map_err(damaged)?
        },
        reported_at: Timestamp(columns.int()?),
        state: {
            let name = columns.text()?;
            ReportState::of(&name).ok_or_else(|| known(&name))?
        },
        verdict: match columns.opt_text()? {
            Some(name) => Some(Verdict::of(&name).ok_or_else(|| known(&name))?),
            None => None,
        },
        resolution: columns.opt_text()?,
        resolved_by: columns.opt_user()?,
        resolved_at: columns.opt_int()?.map(Timestamp),
    })
}
