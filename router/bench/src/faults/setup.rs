//! Conversations that are created through the API: direct ones, groups and channels, new ones and old ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::index::sample;
use serde::Deserialize;
use serde_json::json;

use crate::faults::context::RunContext;
use crate::faults::conversation::Conversation;
use crate::faults::deployment::{Deployment, SHARDS};
use crate::faults::history::shard_of;
use crate::faults::ledger::user_name;
use crate::faults::operation::{Action, Answer, Operation, parse};
use crate::faults::transport::HttpClient;

/// The number of conversations of each kind.
const OF_EACH_KIND: usize = 6;
/// The number of messages of an old one.
const OLD_MESSAGES: u64 = 50;
/// The longest padding of an old text.
const PADDING: u16 = 1500;

#[derive(Deserialize)]
struct Created {
    id: String,
}

/// Creates conversations of each kind at the first node; `old` ones with their first messages.
///
/// # Errors
/// When one cannot be created: there are no faults yet.
pub async fn create_conversations(
    context: &Arc<RunContext>,
    random: &mut SmallRng,
    old: bool,
) -> Result<()> {
    let mut client = HttpClient::default();
    for (kind, people) in [("direct", 2), ("group", 6), ("channel", 10)] {
        for n in 0..OF_EACH_KIND {
            let members = sample(random, context.users.len(), people).into_vec();
            let names: Vec<String> = members[1..].iter().map(|user| user_name(*user)).collect();
            let mut new = json!({"kind": kind, "members": names});
            if kind != "direct" {
                new["title"] = json!(format!("{kind} {n}"));
            }
            let owner = &context.users[members[0]];
            let body = new.to_string();
            let request = ("POST", "/chat/conversations", Some(body.as_str()));
            let reply = client.ask(context, 0, owner, request).await;
            let Answer::Done { body, .. } = reply.answer else {
                bail!("a conversation cannot be created: {:?}", reply.answer);
            };
            let created: Created = parse(&body).map_err(anyhow::Error::msg)?;
            if context.ledger().position(&created.id).is_some() {
                continue; // the two users have one
            }
            let database = Deployment::database_of(shard_of(&created.id)?);
            let conversation = Conversation::new(created.id, database, members, 0);
            let position = context.ledger().add(conversation);
            if old {
                fill(context, &mut client, random, position).await?;
            }
        }
    }
    Ok(())
}

/// Refuses a run in which a shard has no conversation.
///
/// # Errors
/// When there is such a shard.
pub fn require_every_shard(context: &RunContext) -> Result<()> {
    let ledger = context.ledger();
    let shards = ledger.conversations.iter().map(|it| shard_of(&it.id));
    let shards = shards.collect::<Result<BTreeSet<usize>>>()?;
    ensure!(
        shards.len() == SHARDS,
        "a shard has no conversation: try another seed"
    );
    Ok(())
}

/// Sends the first messages of a conversation.
async fn fill(
    context: &Arc<RunContext>,
    client: &mut HttpClient,
    random: &mut SmallRng,
    conversation: usize,
) -> Result<()> {
    for n in 1..=OLD_MESSAGES {
        let operation = {
            let mut ledger = context.ledger();
            let text = ledger.text(random.random_range(0..PADDING));
            let known = &mut ledger.conversations[conversation];
            known.old = n;
            let operation = Operation {
                conversation,
                id: known.id.clone(),
                user: known.members[random.random_range(0..known.members.len())],
                action: Action::Send {
                    client_id: format!("old-{n}"),
                    text,
                },
            };
            ledger.begin(&operation);
            operation
        };
        let (method, path, body) = operation.request();
        let user = &context.users[operation.user];
        let reply = client
            .ask(context, 0, user, (method, &path, body.as_deref()))
            .await;
        let Answer::Done { status, body } = reply.answer else {
            bail!("a message cannot be sent: {:?}", reply.answer);
        };
        let how = (reply.asked, true);
        let finished = context
            .ledger()
            .acknowledge(&operation, (status, &body), how);
        finished
            .map_err(|(_, problem)| anyhow::Error::msg(problem))
            .context("a message sent")?;
    }
    Ok(())
}
