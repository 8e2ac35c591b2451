//! Whether each database has the schema that this version needs.

use std::time::Duration;

use backscroll_shard::error::{Error, Result};
use backscroll_shard::migrate::migrate_all;
use backscroll_shard::settings::{DatabaseUrl, DirectorySettings, ShardSettings, StoreSettings};
use futures_util::future::join_all;

/// Longest look at one database.
const PATIENCE: Duration = Duration::from_secs(10);

/// A database and what its schema lacks.
#[derive(Debug)]
pub struct DatabaseSchema {
    /// `directory`, or the shard's name.
    pub database: String,
    /// Its address.
    pub url: DatabaseUrl,
    /// The migrations that are not applied yet, or why that is not known.
    pub pending: Result<Vec<String>>,
}

/// Looks at the directory and at every shard, all at once. Changes nothing.
pub async fn inspect(settings: &StoreSettings) -> Vec<DatabaseSchema> {
    let directory = inspect_one(
        "directory",
        &settings.directory.url,
        StoreSettings {
            shards: Vec::new(),
            ..settings.clone()
        },
    );
    let shards = settings.shards.iter().map(|shard| {
        inspect_one(
            shard.name.as_str(),
            &shard.primary,
            shard_alone(settings, shard),
        )
    });
    let (directory, shards) = futures_util::future::join(directory, join_all(shards)).await;
    std::iter::once(directory).chain(shards).collect()
}

/// Settings in which `shard` is the only database that is there: a dry run passes over a SQLite file that does not exist,
/// so a directory that is away does not hide the state of a shard.
fn shard_alone(settings: &StoreSettings, shard: &ShardSettings) -> StoreSettings {
    let nowhere = DatabaseUrl("sqlite:///nonexistent/directory.db".into());
    let directory = DirectorySettings {
        url: nowhere,
        ..settings.directory.clone()
    };
    StoreSettings {
        directory,
        shards: vec![shard.clone()],
        ..settings.clone()
    }
}

async fn inspect_one(database: &str, url: &DatabaseUrl, alone: StoreSettings) -> DatabaseSchema {
    let pending = match tokio::time::timeout(PATIENCE, migrate_all(&alone, true)).await {
        Ok(Ok(reports)) => {
            let of_this = reports
                .into_iter()
                .filter(|report| report.database == database);
            Ok(of_this.flat_map(|report| report.applied).collect())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::DeadlineExceeded),
    };
    DatabaseSchema {
        database: database.to_owned(),
        url: url.clone(),
        pending,
    }
}
