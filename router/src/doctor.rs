//! Tests everything that a configuration names, as it is configured, and says what is wrong and what to do about it.
//!
//! It writes nothing that stays: what it inserts to learn whether it may is rolled back, and the objects with which it tries
//! the object store are deleted again.

mod database;
mod objects;
mod redis;

use std::sync::Arc;
use std::time::Duration;

use backscroll_shard::directory::Directory;
use backscroll_shard::error::Error;
use backscroll_shard::fence::{Fence, FenceState};
use backscroll_shard::map::{Assignment, ShardMap};
use backscroll_shard::settings::ShardSettings;
use futures_util::future::{join, join_all};
use serde::Serialize;

use crate::auth::{Authenticator, TokenAlgorithm};
use crate::config::Config;
use crate::schema;

use database::{Examination, Role};

/// Longest examination of one database or service.
const PATIENCE: Duration = Duration::from_secs(10);

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and may not do so for long, or not as well as it could.
    Warning,
    /// It does not work.
    Failure,
}

/// One thing that was tested.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was tested, as `shard db2`.
    pub subject: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it; none when it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn ok(subject: &str, detail: impl Into<String>) -> Self {
        Self {
            subject: subject.to_owned(),
            verdict: Verdict::Ok,
            detail: detail.into(),
            remedy: None,
        }
    }

    /// Something that should be seen to.
    #[must_use]
    pub fn warning(subject: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(subject, detail)
        }
    }

    /// Something that must be mended.
    #[must_use]
    pub fn failure(subject: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Failure,
            remedy: Some(remedy.into()),
            ..Self::ok(subject, detail)
        }
    }
}

/// Tests everything. At most a few times the time that one dependency may take.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![configuration(config)];
    if config.is_embedded() {
        let folder = data_dir(config);
        let nothing_there = folder.verdict != Verdict::Ok;
        findings.push(folder);
        if nothing_there {
            return findings;
        }
    }
    findings.extend(identity(config).await);
    let (schemas, (databases, map), objects, redis) = futures_util::join!(
        schema::inspect(&config.store),
        join(databases(config), directory_map(config)),
        objects::examine(&config.object_store),
        redis::examine(&config.redis),
    );
    for schema in &schemas {
        findings.extend(schema_finding(schema));
    }
    let fences = databases
        .iter()
        .filter_map(|(shard, examination)| Some((shard.as_ref()?, examination.fences.as_ref()?)));
    let fences: Vec<(&ShardSettings, &Vec<Fence>)> = fences.collect();
    let map_findings = match &map {
        Ok(map) => fences
            .iter()
            .map(|(shard, fences)| ownership(map, shard, fences))
            .collect(),
        // When it does not answer, or has no schema yet, that is said already.
        Err(Error::Database(_) | Error::DeadlineExceeded) => Vec::new(),
        Err(error) => vec![Finding::failure(
            "shard map",
            error.to_string(),
            "make the configuration agree with the directory",
        )],
    };
    findings.extend(
        databases
            .into_iter()
            .flat_map(|(_, examination)| examination.findings),
    );
    findings.extend(map_findings);
    findings.extend(objects);
    findings.extend(redis);
    findings
}

fn configuration(config: &Config) -> Finding {
    let kind = if config.is_embedded() {
        "embedded SQLite"
    } else {
        "MySQL"
    };
    Finding::ok(
        "configuration",
        format!(
            "{} shards, {kind}, listening on {}",
            config.store.shards.len(),
            config.server.listen
        ),
    )
}

fn data_dir(config: &Config) -> Finding {
    let folder = &config.data_dir;
    let subject = format!("data folder {}", folder.display());
    let shards = config.store.shards.iter().map(|shard| &shard.primary);
    let mut databases = std::iter::once(&config.store.directory.url).chain(shards);
    if !databases.any(|url| database::missing_file(url).is_none()) {
        let remedy = "nothing to do: the first `backscroll serve` or `import` makes it";
        return Finding::warning(&subject, "there is no data yet", remedy);
    }
    match tempfile::NamedTempFile::new_in(folder) {
        Ok(_) => Finding::ok(&subject, "can be written"),
        Err(error) => {
            let remedy = "give the account that runs backscroll the right to write there";
            Finding::failure(&subject, error.to_string(), remedy)
        }
    }
}

async fn identity(config: &Config) -> Option<Finding> {
    if config.auth.algorithm == TokenAlgorithm::HS256 {
        return None; // its secret was checked with the configuration
    }
    let subject = "keys of the token issuer";
    let remedy = "check auth.jwks_url or auth.jwks_file";
    Some(
        match tokio::time::timeout(PATIENCE, Authenticator::open(&config.auth)).await {
            Ok(Ok(opened)) => match opened.failure() {
                None => Finding::ok(subject, "were read"),
                Some(failure) => Finding::failure(subject, failure, remedy),
            },
            Ok(Err(error)) => Finding::failure(subject, format!("{error:#}"), remedy),
            Err(_) => Finding::failure(subject, "no answer in time", remedy),
        },
    )
}

fn schema_finding(schema: &schema::DatabaseSchema) -> Option<Finding> {
    // One that does not answer is reported by its own examination.
    let pending = schema.pending.as_ref().ok()?;
    let subject = format!("schema of {}", name_of(&schema.database));
    Some(if pending.is_empty() {
        Finding::ok(&subject, "up to date")
    } else {
        Finding::failure(
            &subject,
            format!("lacks {}", pending.join(", ")),
            "run `backscroll migrate` with this configuration",
        )
    })
}

fn name_of(database: &str) -> String {
    if database == "directory" {
        database.to_owned()
    } else {
        format!("shard {database}")
    }
}

/// Every database, each with the shard whose primary it is.
async fn databases(config: &Config) -> Vec<(Option<ShardSettings>, Examination)> {
    let pool = &config.store.pool;
    let lanes = config.store.write.lanes;
    let examine = |shard: Option<&ShardSettings>, subject: String, url, role| {
        let shard = shard.cloned();
        async move {
            (
                shard,
                database::examine(&subject, url, role, pool, lanes).await,
            )
        }
    };
    let directory = examine(
        None,
        "directory".into(),
        &config.store.directory.url,
        Role::Directory,
    );
    let shards = config.store.shards.iter().flat_map(|shard| {
        let replica = move |(number, url)| {
            examine(
                None,
                format!("replica {number} of shard {}", shard.name),
                url,
                Role::Replica,
            )
        };
        let primary = examine(
            Some(shard),
            format!("shard {}", shard.name),
            &shard.primary,
            Role::Primary,
        );
        std::iter::once(primary).chain(shard.replicas.iter().enumerate().map(replica))
    });
    join_all(std::iter::once(directory).chain(shards)).await
}

async fn directory_map(config: &Config) -> Result<Arc<ShardMap>, Error> {
    let read = async {
        let directory = Directory::open(&config.store, &[]).await?;
        let map = directory.map();
        directory.close().await;
        Ok(map)
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .unwrap_or(Err(Error::DeadlineExceeded))
}

/// Whether a shard's fences say the same as the map (INV-OWNER).
fn ownership(map: &ShardMap, shard: &ShardSettings, fences: &[Fence]) -> Finding {
    let subject = format!("ranges of shard {}", shard.name);
    let owned: Vec<&Assignment> = map.ranges_of(&shard.name).collect();
    let agrees = |assignment: &Assignment, fence: &Fence| {
        fence.range == assignment.range && fence.epoch == assignment.epoch
    };
    let missing = owned.iter().filter(|assignment| {
        !fences
            .iter()
            .any(|fence| agrees(assignment, fence) && fence.state != FenceState::Gone)
    });
    let live = fences
        .iter()
        .filter(|fence| fence.state != FenceState::Gone);
    let extra = live
        .clone()
        .filter(|fence| !owned.iter().any(|assignment| agrees(assignment, fence)));
    let frozen = live
        .filter(|fence| fence.state == FenceState::Frozen)
        .count();
    let problems: Vec<String> = missing
        .map(|assignment| {
            format!(
                "the map gives it {} at epoch {}, its fences do not",
                assignment.range, assignment.epoch
            )
        })
        .chain(extra.map(|fence| {
            format!(
                "it has a fence for {} at epoch {}, the map does not give it that",
                fence.range, fence.epoch
            )
        }))
        .collect();
    if !problems.is_empty() {
        let remedy = "run `backscroll migrate`, which adds the fences of a first start that was interrupted; otherwise make sure \
                      that this is the database the directory means";
        return Finding::failure(&subject, problems.join("; "), remedy);
    }
    if frozen > 0 {
        return Finding::warning(
            &subject,
            format!("{frozen} frozen"),
            "nothing, if a move is under way; it takes a moment",
        );
    }
    Finding::ok(
        &subject,
        format!("{} owned, fences agree with the map", owned.len()),
    )
}

#[cfg(test)]
mod tests {
    use backscroll_shard::ids::{Epoch, ShardName};
    use backscroll_shard::range::KeyRange;
    use backscroll_shard::settings::DatabaseUrl;

    use super::*;

    #[test]
    fn fences_must_say_what_the_map_says() {
        let name = ShardName::new("a").unwrap();
        let shard = ShardSettings {
            name: name.clone(),
            primary: DatabaseUrl("sqlite://a".into()),
            replicas: vec![],
        };
        let map = ShardMap::new(vec![Assignment {
            range: KeyRange::ALL,
            shard: name,
            epoch: Epoch(2),
        }])
        .unwrap();
        let verdict = |fences: &[(u64, FenceState)]| {
            let fence = |(epoch, state): &(u64, FenceState)| Fence {
                range: KeyRange::ALL,
                epoch: Epoch(*epoch),
                state: *state,
            };
            ownership(&map, &shard, &fences.iter().map(fence).collect::<Vec<_>>()).verdict
        };
        assert_eq!(verdict(&[(2, FenceState::Open)]), Verdict::Ok);
        assert_eq!(verdict(&[(2, FenceState::Moving)]), Verdict::Ok);
        assert_eq!(verdict(&[(2, FenceState::Frozen)]), Verdict::Warning);
        assert_eq!(verdict(&[]), Verdict::Failure, "missing");
        assert_eq!(
            verdict(&[(2, FenceState::Gone)]),
            Verdict::Failure,
            "given up"
        );
        assert_eq!(
            verdict(&[(1, FenceState::Open)]),
            Verdict::Failure,
            "another epoch"
        );
        assert_eq!(
            verdict(&[(2, FenceState::Open), (1, FenceState::Gone)]),
            Verdict::Ok,
            "history"
        );
    }
}
