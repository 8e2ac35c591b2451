//! `backscroll shards`

use std::time::Duration;

use backscroll_shard::store::{DependencyHealth, Health, ShardHealth, Store};
use serde::Serialize;

use crate::boot;
use crate::config::Config;

use super::out;

/// How long each database may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the shards: whether they answer, how fast, and which part of the key space they own
    #[command(after_help = "Example:\n  backscroll shards list --config production.toml")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A shard as `--json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    /// The part of the key space it owns, 0 to 1.
    key_space: f64,
    #[serde(flatten)]
    health: ShardHealth,
}

pub(super) async fn run(config: Config, command: Command) -> anyhow::Result<()> {
    super::log_for_people(&config)?;
    let Command::List { json } = command;
    let deployment = boot::open_existing(&config).await?;
    let health = deployment.store.health(PATIENCE).await;
    let outcome = list(&deployment.store, health, json);
    boot::close(&deployment).await;
    outcome
}

fn list(store: &Store, health: Health, json: bool) -> anyhow::Result<()> {
    let listed: Vec<Listed> = health
        .shards
        .into_iter()
        .map(|shard| Listed {
            key_space: share(store, &shard),
            health: shard,
        })
        .collect();
    if json {
        return out::json(&listed);
    }
    let rows: Vec<[String; 7]> = listed.iter().map(row).collect();
    out::table(
        [
            "SHARD",
            "STATE",
            "LATENCY",
            "REPLICAS",
            "BREAKER",
            "KEY SPACE",
            "RANGES",
        ],
        &rows,
    )?;
    for shard in &listed {
        for error in std::iter::once(&shard.health.primary)
            .chain(&shard.health.replicas)
            .filter_map(|health| health.error.as_ref())
        {
            out::note(format_args!("{}: {error}", shard.health.name));
        }
    }
    Ok(())
}

/// Of all keys, how many the shard owns.
fn share(store: &Store, shard: &ShardHealth) -> f64 {
    let width: u128 = store
        .map()
        .ranges_of(&shard.name)
        .map(|assignment| assignment.range.width())
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = width as f64 / 2f64.powi(64);
    share
}

fn row(listed: &Listed) -> [String; 7] {
    let shard = &listed.health;
    let answering = shard.replicas.iter().filter(|replica| replica.ok).count();
    let ranges = shard
        .ranges
        .iter()
        .map(|assignment| assignment.range.to_string());
    [
        shard.name.to_string(),
        if shard.primary.ok { "up" } else { "DOWN" }.into(),
        latency(&shard.primary),
        format!("{answering}/{}", shard.replicas.len()),
        shard.breaker.into(),
        format!("{:.1} %", listed.key_space * 100.0),
        ranges.collect::<Vec<_>>().join(", "),
    ]
}

fn latency(health: &DependencyHealth) -> String {
    if health.ok {
        format!("{:.1} ms", health.latency_ms)
    } else {
        "-".into()
    }
}
