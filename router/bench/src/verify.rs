//! Reads every conversation back through the REST API, page by page, and compares it with the ledger.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::http::{self, Connection, request};
use crate::ledger::{Findings, Ledger, Stored, compare};
use crate::sender::World;

/// The largest page there is.
const PAGE: u64 = 200;
/// How many connections read.
const READERS: usize = 8;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    messages: Vec<Stored>,
    head_seq: u64,
    has_more_after: bool,
}

/// Compares all conversations with `ledger`.
///
/// # Errors
/// When a page cannot be read.
pub async fn verify(world: &Arc<World>, ledger: Ledger) -> Result<Findings> {
    let conversations = world.population.conversations.len();
    let mut shares: Vec<Vec<(usize, Ledger)>> = (0..READERS).map(|_| Vec::new()).collect();
    for (n, ledger) in ledger
        .by_conversation(conversations)
        .into_iter()
        .enumerate()
    {
        shares[n % READERS].push((n, ledger));
    }
    let mut readers = JoinSet::new();
    for share in shares {
        let world = Arc::clone(world);
        readers.spawn(async move {
            let mut connection = Connection::open(world.address).await?;
            let mut findings = Findings::default();
            for (conversation, ledger) in share {
                let (head, stored) = read_all(&world, &mut connection, conversation).await?;
                let expected = |draft: &_| (world.sender_id(draft), world.texts.plain(draft));
                findings.add(&compare(&ledger, head, &stored, expected));
            }
            anyhow::Ok(findings)
        });
    }
    let mut total = Findings::default();
    while let Some(findings) = readers.join_next().await {
        total.add(&findings.context("a reader panicked")??);
    }
    Ok(total)
}

/// A whole conversation from its first message on, and its head.
async fn read_all(
    world: &World,
    connection: &mut Connection,
    conversation: usize,
) -> Result<(u64, Vec<Stored>)> {
    let conversation = &world.population.conversations[conversation];
    let reader = &world.population.users[conversation.members[0]].token;
    let mut stored: Vec<Stored> = Vec::new();
    loop {
        let after = stored.last().map_or(0, |message| message.seq);
        let path = format!(
            "/chat/conversations/{}/messages?after={after}&limit={PAGE}",
            conversation.id
        );
        let answer = connection
            .exchange(&request("GET", &path, reader, None))
            .await?;
        ensure!(
            answer.status == 200,
            "a page was answered with {}: {}",
            answer.status,
            http::text(answer.body)
        );
        let page: Page = serde_json::from_slice(answer.body).context("an answer is not a page")?;
        let ends = !page.has_more_after || page.messages.is_empty();
        stored.extend(page.messages);
        if ends {
            return Ok((page.head_seq, stored));
        }
    }
}
