//! `backscroll serve --demo`: an embedded deployment with years of made-up conversations in it.
//!
//! The data is in `<data_dir>/demo`. Filling it takes a few seconds, once: a note beside the data says until when the
//! history goes and whether all of it is there. After a crash the next start goes on with the same history, which is
//! made from a seed: the import skips what is stored, and messages are sent again under the same client message ids
//! (INV-IDEM). A start that finds everything there changes nothing.

mod history;
mod phrases;
mod today;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_shard::guard::GuardSettings;
use backscroll_shard::ids::{ConversationId, Seq, UserId};
use backscroll_shard::model::{Caller, ConversationKind, NewConversation, NewMessage, Timestamp};
use backscroll_shard::store::Store;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use crate::auth;
use crate::boot::{self, Running};
use crate::config::Config;
use crate::http::console::ConsoleSettings;

use history::{PEOPLE, ROOMS, Room};
use today::{IN_ROOMS, SMALL, Small};

const SEED: u64 = 20_170_131;

/// Messages in one transaction of the import.
const BATCH: usize = 1000;

/// How long one call of the store may take here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who the printed token is for.
const WHO: &str = "alice";

/// How long after the start what is old is archived.
const ARCHIVED_AFTER: Duration = Duration::from_secs(20);

/// How long the printed token is valid.
const TOKEN_DAYS: u64 = 30;

/// The note beside the data.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    /// Where the history ends, in milliseconds since 1970: when the demo was first started.
    until: i64,
    /// What is there, once all of it is.
    filled: Option<Filled>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Filled {
    messages: u64,
    /// The room with the longest history.
    room: ConversationId,
    /// A place in it, years ago.
    years_ago: Seq,
}

/// Serves the demo: prints where its chat page is, fills it if need be while it answers already, and prints how to try it.
///
/// # Errors
/// As [`boot::serve`].
pub async fn serve(config: Config, print: impl Fn(&str)) -> anyhow::Result<()> {
    // With the secret of the data folder, so that `backscroll token` makes tokens for the demo as well.
    let folder = config.data_dir.join("demo");
    let config = config.with_secret(true)?;
    share_secret(&folder)?;
    let mut config = config.embedded_in(&folder);
    config.console = ConsoleSettings {
        chat: true,
        people: people()?,
    };
    config.archive.schedule = schedule(&config.archive);
    config.store.guard = GuardSettings::off(); // the demo talks for its users, all at once
    boot::serve(config, async |running| {
        print(&welcome(&running)?);
        let started = Instant::now();
        let filled = fill(running.store, &folder)
            .await
            .context("cannot fill the demo")?;
        tracing::info!(
            messages = filled.messages,
            seconds = started.elapsed().as_secs_f64(),
            "the demo is ready"
        );
        print(&instructions(&running, filled)?);
        Ok(())
    })
    .await
}

fn people() -> anyhow::Result<Vec<UserId>> {
    let people = PEOPLE.iter().map(|(name, _)| Ok(UserId::new(*name)?));
    people.collect()
}

/// Unless another was set: soon, so that the history is in both tiers while somebody looks, and every ten minutes from then on.
fn schedule(archive: &ArchiveSettings) -> String {
    if archive.schedule != ArchiveSettings::default().schedule {
        return archive.schedule.clone();
    }
    let soon = (jiff::Timestamp::now() + ARCHIVED_AFTER).to_zoned(archive.zone());
    let (second, minute) = (soon.second(), soon.minute() % 10);
    format!("{second} {minute}/10 * * * *")
}

/// Commands whose data folder is the demo's own find the secret as well.
fn share_secret(folder: &Path) -> anyhow::Result<()> {
    let link = folder.join("secret");
    let shared = std::fs::create_dir_all(folder)
        .and_then(|()| std::os::unix::fs::symlink("../secret", &link));
    match shared {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        shared => shared.with_context(|| format!("cannot make {}", link.display())),
    }
}

async fn fill(store: &Arc<Store>, folder: &Path) -> anyhow::Result<Filled> {
    let file = folder.join("demo.json");
    let note = match std::fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).with_context(|| {
            format!(
                "{} cannot be read; delete the folder to begin anew",
                file.display()
            )
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let note = Note {
                until: Timestamp::now().0,
                filled: None,
            };
            save(&file, &note)?;
            note
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(filled) = note.filled {
        return Ok(filled);
    }
    let rooms = try_join_all(
        ROOMS
            .iter()
            .zip(SEED..)
            .map(|(room, seed)| fill_room(store, room, Timestamp(note.until), seed)),
    )
    .await?;
    let small = try_join_all(SMALL.iter().map(|small| talk(store, small))).await?;
    store.relay_idle(Instant::now() + PATIENCE).await?;

    let (longest, _) = rooms[0];
    let messages =
        rooms.iter().map(|(_, messages)| messages).sum::<u64>() + small.iter().sum::<u64>();
    let years_ago = Seq(rooms[0].1 * 3 / 10);
    let filled = Filled {
        messages,
        room: longest,
        years_ago,
    };
    save(
        &file,
        &Note {
            filled: Some(filled),
            ..note
        },
    )?;
    Ok(filled)
}

/// Whole or not at all.
fn save(file: &PathBuf, note: &Note) -> anyhow::Result<()> {
    let folder = file.parent().context("the note has a folder")?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&mut temporary, note)?;
    temporary.flush()?;
    temporary.as_file().sync_all()?;
    temporary.persist(file)?;
    Ok(())
}

/// A room's history, what was said in it today, and who has read how far.
async fn fill_room(
    store: &Arc<Store>,
    room: &'static Room,
    until: Timestamp,
    seed: u64,
) -> anyhow::Result<(ConversationId, u64)> {
    let records = tokio::task::spawn_blocking(move || history::make(room, until, seed)).await??;
    let owner = UserId::new(room.members[0])?;
    let (id, stored) = store.import_begin(room.name, &owner).await?;
    let mut position = 0;
    for batch in records.chunks(BATCH) {
        let end = position + batch.len() as u64;
        if end > stored {
            store.import_append(id, position, batch).await?;
        }
        position = end;
    }
    let today = IN_ROOMS
        .iter()
        .find(|(name, _)| *name == room.name)
        .map_or(&[][..], |(_, lines)| lines);
    for (user, unread) in room.members.iter().zip([3, 0, 12, 1, 40, 0, 7, 2, 150]) {
        let read = Seq((records.len() as u64).saturating_sub(unread));
        store.mark_read(&caller(user)?, id, Some(read)).await?;
    }
    say(store, id, (room.name, room.members), today).await?;
    Ok((id, position + today.len() as u64))
}

async fn talk(store: &Arc<Store>, small: &Small) -> anyhow::Result<u64> {
    let (creator, others) = small
        .members
        .split_first()
        .context("a conversation has members")?;
    let members = others
        .iter()
        .map(|user| Ok(UserId::new(*user)?))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let new = NewConversation {
        kind: small.kind,
        members,
        title: small.title.map(ToOwned::to_owned),
        metadata: None,
    };
    // Direct conversations are create-or-get by themselves.
    let key = (small.kind != ConversationKind::Direct).then_some("demo");
    let (conversation, _) = store
        .create_conversation(&caller(creator)?, new, key)
        .await?;
    say(
        store,
        conversation.id,
        ("small", small.members),
        small.lines,
    )
    .await?;
    Ok(small.lines.len() as u64)
}

/// Sends `lines` in order, which mention the members that they name; the first of the members pins the first line, somebody reacts
/// to it, and the last line answers it.
async fn say(
    store: &Arc<Store>,
    id: ConversationId,
    (name, members): (&str, &[&str]),
    lines: &[(&str, &str)],
) -> anyhow::Result<()> {
    let mut first = None;
    for (number, (user, text)) in lines.iter().enumerate() {
        let is_last = number > 0 && number + 1 == lines.len();
        let message = NewMessage {
            content: (*text).to_owned(),
            client_msg_id: Some(format!("demo-{name}-{number}")),
            reply_to: first.filter(|_| is_last),
            mentions: history::mentioned(members, user, text)?,
            ..NewMessage::default()
        };
        let sent = store.send(&caller(user)?, id, message).await?;
        if number == 1 {
            let first = first.context("there is a first line")?;
            store.react(&caller(user)?, first, "👍").await?;
            store.pin_message(&caller(members[0])?, first).await?;
        }
        first = first.or(Some(sent.message.id));
    }
    Ok(())
}

fn caller(user: &str) -> anyhow::Result<Caller> {
    Ok(Caller::new(UserId::new(user)?, PATIENCE))
}

/// What is printed first: where it is, and where the chat page is.
fn welcome(running: &Running<'_>) -> anyhow::Result<String> {
    let (url, token) = (url(running), token(running)?);
    Ok(format!(
        "Backscroll is listening on {url}

The chat page, as {WHO}, alone or side by side with others:

{url}/console/chat#token={token}
"
    ))
}

fn url(running: &Running<'_>) -> String {
    format!("http://{}", reachable(running.address))
}

fn token(running: &Running<'_>) -> anyhow::Result<String> {
    let ttl = Duration::from_secs(TOKEN_DAYS * 86_400);
    auth::mint_token(&running.config.auth, &UserId::new(WHO)?, None, ttl)
}

/// What is printed once everything is there: a token, and three commands that can be pasted.
fn instructions(running: &Running<'_>, filled: Filled) -> anyhow::Result<String> {
    let (url, token) = (url(running), token(running)?);
    let curl = format!("curl -sS -H 'Authorization: Bearer {token}'");
    let Filled {
        messages,
        room,
        years_ago,
    } = filled;
    let (room_name, people, member_of) = (ROOMS[0].name, PEOPLE.len(), ROOMS.len());
    let before = years_ago.next();
    Ok(format!(
        "{messages} messages of {people} people in {member_of} rooms and some smaller conversations, made up, over more than four years.

You are {WHO}; this is your token for {TOKEN_DAYS} days (`backscroll token --user ben` makes one for ben):

{token}

Your conversations, the latest first:

{curl} '{url}/chat/conversations?limit=5'

A page of `{room_name}` from years ago:

{curl} '{url}/chat/conversations/{room}/messages?before={before}&limit=5'

Say something there:

{curl} -H 'Content-Type: application/json' -d '{{\"content\":\"Hello from the command line\"}}' '{url}/chat/conversations/{room}/messages'
"
    ))
}

/// `address`, or this machine's own when it listens on all.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        address.ip()
    };
    SocketAddr::new(ip, address.port())
}
