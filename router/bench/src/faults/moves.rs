//! The moves of ranges between shards: at the end all have to be over, whatever was killed in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use tokio::time::sleep;

use crate::faults::commands::Commands;

/// The longest time in which nodes bring all moves to an end after the last fault.
const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until no move is under way, and so no shard has rows of a range that it gave up. Returns how many moves came to which
/// state.
///
/// # Errors
/// When a command cannot be run.
pub async fn finish(commands: &Commands) -> Result<BTreeMap<String, u64>> {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        let moves = ask(commands, "status").await?;
        if moves.as_array().is_some_and(Vec::is_empty) {
            break;
        }
        if Instant::now() > give_up_at {
            let problem = format!("moves are not over {PATIENCE:?} after the last fault: {moves}");
            commands.context.report_general(&problem, "checks");
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    let mut states = BTreeMap::new();
    let history = ask(commands, "history").await?;
    for job in history.as_array().into_iter().flatten() {
        let state = job["state"].as_str().unwrap_or_default();
        *states.entry(state.to_owned()).or_default() += 1;
    }
    Ok(states)
}

/// What `rebalance status` or `history` prints; nothing when it fails.
async fn ask(commands: &Commands, what: &str) -> Result<Value> {
    let mut arguments = vec!["rebalance", what, "--json"];
    if what == "history" {
        arguments.extend(["--limit", "65535"]);
    }
    let ended = commands.run(&arguments, 0).await?;
    Ok(serde_json::from_slice(&ended.output).unwrap_or_default())
}
