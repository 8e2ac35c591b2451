//! From the conversations of other systems' exports to records, under the same rules as lines of our own form.
//!
//! An export is read twice: all of it is checked before the first message is stored. Messages are put in the order of time,
//! so the same export gives the same records again, and a longer one begins with them (see [`super::recognise`]).

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backscroll_shard::ids::{Seq, UserId};
use backscroll_shard::import::ImportedAs;
use backscroll_shard::model::{ConversationKind, HistoryRecord, MessageType, RawJson, Role};
use backscroll_shard::tasks::Supervisor;
use serde::Serialize;
use serde_json::json;

use super::feed::{Batch, NobodyWrites, Rejected, Writers};
use super::format::{self, Conversation, Format, Hints, LeftOut, Message};
use super::line::Rules;
use super::members::Members;
use super::people::People;
use super::understood::Understood;
use super::unpacked::{Unpacked, unpack};
use super::{Args, import, refuse_bad, report};
use crate::boot;
use crate::cli::{BadInput, out};
use crate::config::Config;

/// Most messages of a batch, which is one transaction.
const BATCH_RECORDS: usize = 1000;
/// Most bytes of a batch.
const BATCH_BYTES: usize = 1 << 20;

/// By whom a notice is that names nobody.
const SYSTEM: &str = "system";

const OTHER_ONE: &str = "messages of direct conversations in which only one person wrote, whose export does not name the other";
const EMPTY: &str = "conversations without messages and members";

/// The input, and the rules for it.
#[derive(Debug)]
pub(super) struct Foreign {
    pub format: Format,
    pub path: PathBuf,
    /// Keeps the folder at `path` where that was unpacked for this run.
    pub unpacked: Option<Unpacked>,
    pub hints: Hints,
    pub people: People,
    pub rules: Arc<Rules>,
}

/// What there is of an export besides its messages.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub good: u64,
    pub rejected: Rejected,
    pub left_out: LeftOut,
}

/// A conversation as it is stored.
struct Ready {
    channel: String,
    owner: UserId,
    wanted: ImportedAs,
    records: Vec<HistoryRecord>,
    /// Where each record stands in its file.
    places: Vec<u64>,
}

/// Imports the export of another system, or shows what would be imported.
///
/// # Errors
/// [`BadInput`] for what is bad in the export or contradicts it; when the store fails.
pub(super) async fn run(config: Config, args: Args, format: Format) -> anyhow::Result<()> {
    let is_whatsapp = format == Format::Whatsapp;
    for (is_given, option) in [
        (args.kind.is_some(), "--as"),
        (args.channel.is_some(), "--channel"),
        (args.date_order.is_some(), "--date-order"),
    ] {
        if is_given && !is_whatsapp {
            let what = format!("{option} is for whatsapp; what this export has says it");
            return Err(BadInput(what).into());
        }
    }
    if args.file == *"-" {
        return Err(BadInput(
            "with --format the input is a file or a folder, since it is read twice".into(),
        )
        .into());
    }
    let people = match args.people.clone() {
        None => People::default(),
        Some(path) => tokio::task::spawn_blocking(move || People::read(&path)).await??,
    };
    let nobody = (ConversationKind::Channel, Members::default());
    let rules = Arc::new(Rules::new(&config.store, None, nobody, None)?);
    let hints = Hints {
        zone: args.time_zone.clone(),
        dates: args.date_order,
        channel: args.channel.clone(),
        kind: args.kind.map(ConversationKind::from),
    };
    let path = args.file.clone();
    let unpacked = match format.has_several_files() {
        true => tokio::task::spawn_blocking(move || unpack(&path)).await??,
        false => None,
    };
    let foreign = Arc::new(Foreign {
        format,
        path: unpacked.as_ref().map_or(args.file.clone(), Unpacked::root),
        unpacked,
        hints,
        people,
        rules,
    });
    let (unit, reader) = (foreign.unit(), foreign.clone());
    let check = tokio::task::spawn_blocking(move || reader.check());
    let (read, understood) = check
        .await?
        .map_err(|error| foreign.of_input(error, &args.file))?;
    if read.good + read.rejected.count == 0 {
        let file = args.file.display();
        let left_out = read.left_out.counts().iter();
        let left_out: String = left_out
            .map(|(what, count)| format!("\n  {what}: {count}"))
            .collect();
        let what = format!("{file}: the export has no messages that can be imported{left_out}");
        return Err(BadInput(what).into());
    }
    if args.dry_run {
        understood.print((args.time_zone.as_ref(), unit), (&read.rejected, args.json))?;
    } else if !read.left_out.counts().is_empty() && !args.json {
        out::note("some of the export is left out; --dry-run says what and why");
    }
    refuse_bad(&args, (&read.rejected, read.good), "records")?;
    if args.dry_run {
        return Ok(());
    }
    let deployment = boot::open(&config, &Supervisor::default()).await?;
    let (writers, queues) = Writers::new();
    let send = move || foreign.send(&writers);
    let outcome = import(&deployment.store, &args, (send, queues), Some(read.good)).await;
    boot::close(&deployment).await;
    report(&args, outcome?)
}

impl Foreign {
    /// The fault of an input, with the name that the input has for people.
    fn of_input(&self, error: anyhow::Error, input: &Path) -> anyhow::Error {
        match error.downcast_ref::<BadInput>() {
            Some(BadInput(what)) if self.unpacked.is_some() => {
                let (folder, input) = (self.path.display(), input.display());
                BadInput(what.replace(&folder.to_string(), &input.to_string())).into()
            }
            _ => error,
        }
    }

    /// Reads everything and stores nothing.
    ///
    /// # Errors
    /// When the export cannot be read.
    pub(super) fn check(&self) -> anyhow::Result<(Read, Understood)> {
        let mut understood = Understood::default();
        let read = self.each(|ready| {
            let kind = ready.wanted.kind;
            let members = ready.wanted.members.iter().map(|(user, _)| user.clone());
            understood.conversation(&ready.channel, kind, members.chain([ready.owner.clone()]));
            ready
                .records
                .iter()
                .for_each(|record| understood.message(record, kind));
        })?;
        let (mut read, people) = read;
        for (person, name) in people {
            match self.people.user(&person) {
                Ok(user) => understood.name(user, name),
                Err(_) => read.left_out.add(
                    "people without messages whose ids cannot be those of users",
                    1,
                ),
            }
        }
        understood.left_out(&read.left_out);
        Ok((read, understood))
    }

    /// Reads everything and sends it to the writers.
    ///
    /// # Errors
    /// When the export cannot be read; what precedes is sent.
    pub(super) fn send(&self, writers: &Writers) -> anyhow::Result<Rejected> {
        let mut is_over = false;
        let (read, _) = self.each(|ready| {
            is_over = is_over || send(ready, self.unit(), writers).is_err(); // the writers say why
        })?;
        Ok(read.rejected)
    }

    fn each(
        &self,
        mut take: impl FnMut(Ready),
    ) -> anyhow::Result<(Read, std::collections::BTreeMap<String, String>)> {
        let mut read = Read::default();
        let mut names = HashSet::new();
        let export = format::read(self.format, &self.path, &self.hints, &mut |conversation| {
            let place = conversation.name.clone();
            match self.ready(conversation, &mut names, &mut read) {
                Ok(Some(ready)) => take(ready),
                Ok(None) => {}
                Err(what) => read
                    .rejected
                    .add_at(format!("conversation `{place}`: {what}")),
            }
            Ok(())
        })?;
        read.left_out.join(&export.left_out);
        Ok((read, export.people))
    }

    /// The conversation as it is stored; none when nothing is.
    fn ready(
        &self,
        mut conversation: Conversation,
        names: &mut HashSet<String>,
        read: &mut Read,
    ) -> Result<Option<Ready>, String> {
        conversation.messages.sort_by_key(|message| message.order);
        let count = conversation.messages.len() as u64;
        if conversation.messages.is_empty() && conversation.members.is_empty() {
            read.left_out.add(EMPTY, 1);
            return Ok(None);
        }
        let mut kind = conversation.kind;
        let Some(members) = self.members(&mut conversation)? else {
            read.left_out.add(OTHER_ONE, count);
            return Ok(None);
        };
        if kind == ConversationKind::Group && members.len() as u64 > self.rules.group_members() {
            kind = ConversationKind::Channel;
        }
        let channel = channel_name(&conversation, kind, &members, names)?;
        let writer = conversation
            .messages
            .iter()
            .find(|message| !message.is_system);
        let first = writer.and_then(|message| message.sender.clone());
        let owner = conversation
            .owner
            .take()
            .or(first)
            .map(|person| self.people.user(&person));
        let owner = owner.transpose()?.or_else(|| members.first().cloned());
        let Some(owner) = owner else {
            read.left_out.add(EMPTY, 1);
            return Ok(None);
        };
        let mut ready = Ready {
            channel,
            owner,
            wanted: ImportedAs {
                kind,
                members: members
                    .into_iter()
                    .map(|user| (user, Role::Member))
                    .collect(),
            },
            records: Vec::with_capacity(conversation.messages.len()),
            places: Vec::with_capacity(conversation.messages.len()),
        };
        read.left_out.join(&conversation.left_out);
        let mut numbers: HashMap<String, u64> = HashMap::new();
        for message in conversation.messages {
            let (file, number, id) = (message.file.clone(), message.number, message.id.clone());
            match self.record(message, &ready, &numbers, &mut read.left_out) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    read.good += 1;
                    ready.records.push(record);
                    ready.places.push(number);
                    numbers.insert(id, ready.records.len() as u64);
                }
                Err(what) => read
                    .rejected
                    .add_at(format!("{file}, {} {number}: {what}", self.unit())),
            }
        }
        Ok(Some(ready))
    }

    /// What positions in the files count.
    pub(super) fn unit(&self) -> &'static str {
        match self.format {
            Format::Mattermost | Format::Whatsapp => "line",
            _ => "record",
        }
    }

    /// Those who are let in: all of a direct conversation, and otherwise those that the export names. None when it does not
    /// name both people of a direct conversation.
    fn members(&self, conversation: &mut Conversation) -> Result<Option<Vec<UserId>>, String> {
        let is_direct = conversation.kind == ConversationKind::Direct;
        let is_named = !conversation.members.is_empty();
        let mut people = std::mem::take(&mut conversation.members);
        let mut known: HashSet<String> = people.iter().cloned().collect();
        let writers = conversation
            .messages
            .iter()
            .filter_map(|message| message.sender.as_ref());
        for writer in writers.filter(|_| is_direct && !is_named) {
            if known.insert(writer.clone()) {
                people.push(writer.clone());
            }
        }
        let mut members = Vec::with_capacity(people.len());
        let mut seen = HashSet::new();
        for person in people {
            let user = self.people.user(&person)?;
            if seen.insert(user.clone()) {
                members.push(user);
            }
        }
        if !is_direct {
            return Ok(Some(members));
        }
        match (members.len(), is_named) {
            (2, _) | (1, true) => Ok(Some(members)),
            (0 | 1, _) => Ok(None),
            (count, _) => Err(format!(
                "{count} people wrote in it, and a direct conversation has two; import it --as group"
            )),
        }
    }

    /// A message as a record of the conversation; none when it is left out.
    fn record(
        &self,
        message: Message,
        ready: &Ready,
        numbers: &HashMap<String, u64>,
        left_out: &mut LeftOut,
    ) -> Result<Option<HistoryRecord>, String> {
        let is_direct = ready.wanted.kind == ConversationKind::Direct;
        let user = match message.sender {
            None if is_direct => {
                left_out.add("notices of direct conversations that name nobody", 1);
                return Ok(None);
            }
            None => UserId::new(SYSTEM).map_err(|error| error.to_string())?,
            Some(person) => self.people.user(&person)?,
        };
        if is_direct
            && !ready
                .wanted
                .members
                .iter()
                .any(|(member, _)| *member == user)
        {
            left_out.add("messages of others in direct conversations", 1);
            return Ok(None);
        }
        let reply_to = message.reply_to.and_then(|id| {
            let number = numbers.get(&id).copied();
            left_out.add(
                "answers' references to messages that the export does not have, or that are later",
                u64::from(number.is_none()),
            );
            number.map(Seq)
        });
        let is_deleted = message.deleted_at.is_some();
        let (most_files, most_reactions) = self.rules.most();
        let mut files = message.attachments;
        let excess = files.len().saturating_sub(most_files);
        left_out.add(
            "attachments above limits.attachments of a message",
            excess as u64,
        );
        files.truncate(most_files);
        let mut reactions = Vec::new();
        for (emoji, people) in message.reactions {
            let Some(emoji) = backscroll_shard::text::emoji(&emoji) else {
                left_out.add("reactions that are no emoji", people.len() as u64);
                continue;
            };
            for person in people {
                let reaction = (emoji.clone(), self.people.user(&person)?);
                match reactions.contains(&reaction) {
                    false if reactions.len() < most_reactions => reactions.push(reaction),
                    false => left_out.add("reactions above limits.reactions of a message", 1),
                    true => {}
                }
            }
        }
        let record = HistoryRecord {
            channel: ready.channel.clone(),
            user,
            at: message.at,
            text: if is_deleted {
                String::new()
            } else {
                message.text
            },
            message_type: match message.is_system && !is_deleted {
                true => MessageType::System,
                false => MessageType::Text,
            },
            reply_to,
            attachments: (!files.is_empty() && !is_deleted)
                .then(|| raw(&files))
                .transpose()?,
            reactions: (!reactions.is_empty() && !is_deleted)
                .then(|| by_emoji(reactions))
                .transpose()?,
            metadata: message
                .forwarded_from
                .filter(|_| !is_deleted)
                .map(|from| raw(&json!({ "forwardedFrom": from })))
                .transpose()?,
            mentions: Vec::new(),
            pinned_at: None,
            pinned_by: None,
            edited_at: message.edited_at,
            deleted_at: message.deleted_at,
            to: None,
            status: None,
        };
        let number = ready.records.len() as u64 + 1;
        self.rules.check(&record, number)?;
        Ok(Some(record))
    }
}

fn raw(value: &impl Serialize) -> Result<RawJson, String> {
    let text = serde_json::to_string(value).and_then(RawJson::parse);
    text.map_err(|error| error.to_string())
}

/// Reactions as they are stored, in the order of the export.
fn by_emoji(reactions: Vec<(String, UserId)>) -> Result<RawJson, String> {
    let mut map = serde_json::Map::new();
    for (emoji, user) in reactions {
        let users = map.entry(emoji).or_insert_with(|| json!([]));
        if let Some(users) = users.as_array_mut() {
            users.push(json!(user));
        }
    }
    raw(&map)
}

/// The name under which it is imported: a direct conversation's is its people; the second of one name has its id, too.
fn channel_name(
    conversation: &Conversation,
    kind: ConversationKind,
    members: &[UserId],
    names: &mut HashSet<String>,
) -> Result<String, String> {
    if kind == ConversationKind::Direct {
        let mut pair: Vec<&str> = members.iter().map(UserId::as_str).collect();
        pair.sort_unstable();
        let pair = match pair.as_slice() {
            [one] => [*one, *one].join("\t"),
            pair => pair.join("\t"),
        };
        return match names.insert(pair.clone()) {
            true => Ok(pair),
            false => {
                Err("is the second conversation of these two people; import them one by one".into())
            }
        };
    }
    let mut name = conversation.name.clone();
    if names.contains(&name) {
        name = format!("{name} ({})", conversation.id);
    }
    match names.insert(name.clone()) {
        true => Ok(name),
        false => Err("is there twice".into()),
    }
}

fn send(ready: Ready, unit: &'static str, writers: &Writers) -> Result<(), NobodyWrites> {
    let Ready {
        channel,
        owner,
        wanted,
        records,
        places,
    } = ready;
    let mut records = records.into_iter().zip(places).peekable();
    let mut is_first = true;
    while is_first || records.peek().is_some() {
        is_first = false;
        let mut batch = Batch {
            channel: channel.clone(),
            owner: owner.clone(),
            is_owner_named: false,
            wanted: wanted.clone(),
            records: Vec::new(),
            lines: Vec::new(),
            unit,
        };
        let mut bytes = 0;
        while bytes < BATCH_BYTES && batch.records.len() < BATCH_RECORDS {
            let Some((record, place)) = records.next() else {
                break;
            };
            let json = [&record.attachments, &record.reactions, &record.metadata];
            bytes += record.text.len()
                + json
                    .into_iter()
                    .flatten()
                    .map(|it| it.get().len())
                    .sum::<usize>();
            batch.records.push(record);
            batch.lines.push(place);
        }
        writers.pass_on(batch)?;
    }
    Ok(())
}
