//! What a dry run shows: what was understood of an input, and what would be left out. Nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backscroll_shard::ids::UserId;
use backscroll_shard::model::{ConversationKind, HistoryRecord, MessageType};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::value::RawValue;

use super::feed::Rejected;
use super::format::LeftOut;
use super::line::{LineReader, Rules};
use super::source::Source;
use super::{Args, NAMED, empty, refuse_bad};
use crate::cli::out;

/// Shows what would be imported of lines of our own form.
///
/// # Errors
/// [`crate::cli::BadInput`] for bad lines, unless they are left out.
pub(super) async fn dry_run(args: &Args, source: Source, rules: Arc<Rules>) -> anyhow::Result<()> {
    let check = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let kind = rules.kind();
        let mut understood = Understood::default();
        for channel in rules.members().channels() {
            let members = rules
                .members()
                .of(channel)
                .iter()
                .map(|(user, _)| user.clone());
            understood.conversation(channel, kind, members);
        }
        let mut lines = LineReader::new(source, rules);
        let (mut rejected, mut good) = (Rejected::default(), 0);
        while let Some(line) = lines.next()? {
            match line.record {
                Ok(record) => {
                    understood.message(&record, kind);
                    good += 1;
                }
                Err(what) => rejected.add(line.number, &what),
            }
        }
        lines.check_order()?;
        Ok((understood, rejected, good))
    });
    let (understood, rejected, good) = check.await??;
    if rejected.count + good == 0 {
        return Err(empty(args));
    }
    understood.print((args.time_zone.as_ref(), "line"), (&rejected, args.json))?;
    refuse_bad(args, (&rejected, good), "lines")
}

/// A conversation as it would be made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    kind: ConversationKind,
    messages: u64,
    /// In the zone of the input, or in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    #[serde(skip)]
    times: Option<(i64, i64)>,
    #[serde(serialize_with = "count")]
    members: BTreeSet<UserId>,
}

fn count<S: serde::Serializer>(members: &BTreeSet<UserId>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(members.len() as u64)
}

/// What was understood.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Understood {
    /// Users, with their names in the export; empty when they have no other.
    people: BTreeMap<UserId, String>,
    /// By their names.
    conversations: BTreeMap<String, Seen>,
    messages: u64,
    replies: u64,
    reactions: u64,
    edited: u64,
    deleted: u64,
    /// Notices of the system.
    notices: u64,
    /// The bytes stay where they are.
    attachments: u64,
    left_out: BTreeMap<&'static str, u64>,
    bad_records: u64,
}

impl Understood {
    /// Takes a conversation with members of its own.
    pub(super) fn conversation(
        &mut self,
        channel: &str,
        kind: ConversationKind,
        members: impl Iterator<Item = UserId>,
    ) {
        for member in members {
            self.people.entry(member.clone()).or_default();
            self.seen(channel, kind).members.insert(member);
        }
    }

    fn seen(&mut self, channel: &str, kind: ConversationKind) -> &mut Seen {
        self.conversations
            .entry(channel.to_owned())
            .or_insert_with(|| Seen {
                kind,
                messages: 0,
                first: None,
                last: None,
                times: None,
                members: BTreeSet::new(),
            })
    }

    /// Takes a message.
    pub(super) fn message(&mut self, record: &HistoryRecord, kind: ConversationKind) {
        let seen = self.seen(&record.channel, kind);
        seen.messages += 1;
        let (first, last) = seen.times.unwrap_or((record.at, record.at));
        seen.times = Some((first.min(record.at), last.max(record.at)));
        for user in [Some(&record.user), record.to.as_ref()]
            .into_iter()
            .flatten()
        {
            if !seen.members.contains(user) {
                seen.members.insert(user.clone());
            }
        }
        for user in [Some(&record.user), record.to.as_ref()]
            .into_iter()
            .flatten()
        {
            if !self.people.contains_key(user) {
                self.people.insert(user.clone(), String::new());
            }
        }
        self.messages += 1;
        self.notices += u64::from(record.message_type == MessageType::System);
        self.replies += u64::from(record.reply_to.is_some());
        self.edited += u64::from(record.edited_at.is_some());
        self.deleted += u64::from(record.deleted_at.is_some());
        let attachments = record.attachments.as_ref();
        let attachments =
            attachments.and_then(|json| serde_json::from_str::<Vec<&RawValue>>(json.get()).ok());
        self.attachments += attachments.map_or(0, |list| list.len() as u64);
        let reactions = record.reactions.as_ref();
        let reactions = reactions.and_then(|json| {
            serde_json::from_str::<BTreeMap<String, Vec<String>>>(json.get()).ok()
        });
        let users = reactions.into_iter().flat_map(BTreeMap::into_values);
        self.reactions += users.map(|users| users.len() as u64).sum::<u64>();
    }

    /// The name of a person.
    pub(super) fn name(&mut self, user: UserId, name: String) {
        self.people.insert(user, name);
    }

    /// What is left out.
    pub(super) fn left_out(&mut self, left_out: &LeftOut) {
        for (what, count) in left_out.counts() {
            *self.left_out.entry(what).or_default() += count;
        }
    }

    /// Prints it; times are shown in `zone`.
    pub(super) fn print(
        mut self,
        (zone, unit): (Option<&TimeZone>, &str),
        (rejected, as_json): (&Rejected, bool),
    ) -> anyhow::Result<()> {
        let zone = zone.cloned().unwrap_or(TimeZone::UTC);
        let shown = |millis: i64| {
            let at = Timestamp::from_millisecond(millis);
            at.map(|at| at.to_zoned(zone.clone()).to_string())
                .unwrap_or_default()
        };
        for seen in self.conversations.values_mut() {
            (seen.first, seen.last) = seen
                .times
                .map(|(first, last)| (shown(first), shown(last)))
                .unzip();
        }
        self.bad_records = rejected.count;
        if as_json {
            return out::json(&self);
        }
        self.print_text(rejected, unit)
    }

    fn print_text(&self, rejected: &Rejected, unit: &str) -> anyhow::Result<()> {
        out::line("Dry run: nothing was written.")?;
        out::line(format_args!(
            "\nPeople: {}",
            out::grouped(self.people.len() as u64)
        ))?;
        for (user, name) in self.people.iter().take(NAMED) {
            out::line(
                format_args!("  {}  {}", out::inline(user.as_str()), out::inline(name))
                    .to_string()
                    .trim_end(),
            )?;
        }
        rest(self.people.len())?;
        out::line(format_args!(
            "\nConversations: {}",
            out::grouped(self.conversations.len() as u64)
        ))?;
        for (channel, seen) in self.conversations.iter().take(NAMED) {
            let members = out::counted(seen.members.len() as u64, "member");
            let messages = out::counted(seen.messages, "message");
            let kind = match seen.kind {
                ConversationKind::Direct => "direct",
                ConversationKind::Group => "group",
                ConversationKind::Channel => "channel",
            };
            let times = seen.first.as_ref().zip(seen.last.as_ref());
            let times = times.map(|(first, last)| format!(", {first} to {last}"));
            let channel = match seen.kind {
                ConversationKind::Direct => channel.replace('\t', ", "),
                _ => channel.clone(),
            };
            out::line(format_args!(
                "  {kind} {}: {messages}, {members}{}",
                out::inline(&channel),
                times.unwrap_or_default()
            ))?;
        }
        rest(self.conversations.len())?;
        out::line(format_args!("\nMessages: {}", out::grouped(self.messages)))?;
        for (count, what) in [
            (self.replies, "replies"),
            (self.reactions, "reactions"),
            (self.edited, "edited"),
            (self.deleted, "deleted (only the place is stored)"),
            (self.notices, "notices of the system"),
            (
                self.attachments,
                "attachments (name, size, type and address are kept, the bytes stay where they are)",
            ),
        ] {
            out::line(format_args!("  {what}: {}", out::grouped(count)))?;
        }
        if !self.left_out.is_empty() {
            out::line("\nLeft out:")?;
        }
        for (what, count) in &self.left_out {
            out::line(format_args!("  {what}: {}", out::grouped(*count)))?;
        }
        if rejected.count > 0 {
            let bad = out::counted(rejected.count, &format!("bad {unit}"));
            out::line(format_args!("\n{bad}:\n{rejected}"))?;
        }
        Ok(())
    }
}

fn rest(all: usize) -> std::io::Result<()> {
    match all > NAMED {
        true => out::line(format_args!(
            "  … and {} more; --json lists all",
            all - NAMED
        )),
        false => Ok(()),
    }
}
