//! Tests everything that a configuration names, as it is configured, and says what is wrong and what to do about it.
//!
//! It writes nothing that stays: what it inserts to learn whether it may is rolled back, and the objects with which it tries
//! the object store are deleted again.

mod database;
mod objects;
mod public;
mod redis;

use std::time::Duration;

use backscroll_archiver::media::scan::Scanner;
use backscroll_shard::error::Error;
use backscroll_shard::fence::{self, Fence, FenceState};
use backscroll_shard::identity::survey::Look;
use backscroll_shard::identity::{self, Assessment, Deployed, Misplaced, Role, Survey};
use backscroll_shard::ids::ShardName;
use backscroll_shard::map::ShardMap;
use backscroll_shard::settings::DatabaseUrl;
use futures_util::future::join_all;
use serde::Serialize;

use crate::auth::{Authenticator, TokenAlgorithm};
use crate::config::Config;

use database::{Examination, Use};

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
    findings.extend(token_keys(config).await);
    let ((survey, assessment), objects, redis) = futures_util::join!(
        identity::examine(&config.store),
        objects::examine(config),
        redis::examine(&config.redis),
    );
    let misplaced: Vec<Role> = assessment
        .problems
        .iter()
        .map(|it| it.role.clone())
        .collect();
    findings.extend(assessment.problems.iter().map(identity_problem));
    findings.extend(assessment.remarks.iter().map(|remark| {
        let remedy = "make the configuration say what is there";
        Finding::warning("configuration", remark, remedy)
    }));
    let looks = || {
        survey
            .looks()
            .filter(|look| !misplaced.contains(&look.role))
    };
    for look in looks() {
        findings.extend(identity_finding(look));
        findings.extend(schema_finding(look, &assessment));
    }
    // What belongs to something else is left alone.
    let is_examined = |role: &Role| !misplaced.contains(role) && !assessment.is_outsider(role);
    for examination in databases(config, is_examined).await {
        findings.extend(examination.findings);
    }
    findings.extend(looks().filter_map(|look| ranges(look, assessment.known()?)));
    if misplaced.is_empty() {
        findings.extend(deployment_finding(&survey, assessment));
    }
    findings.extend(objects);
    findings.extend(scanner(config).await);
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
    if !databases.any(|url| url.file().is_some_and(std::path::Path::exists)) {
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

async fn token_keys(config: &Config) -> Option<Finding> {
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

/// Whether clamd answers; nothing where none is configured.
async fn scanner(config: &Config) -> Option<Finding> {
    let (media, subject) = (&config.media, "virus scanner");
    let address = media.clamd.as_ref()?;
    let detail = match Scanner::new(media).ping().await? {
        Ok(()) => return Some(Finding::ok(subject, format!("{address} answers"))),
        Err(error) => format!("{address}: {error}"),
    };
    let remedy = "start clamd (its signatures have to be there), and check media.clamd";
    Some(if media.scan_required {
        Finding::failure(subject, detail, remedy)
    } else {
        Finding::warning(subject, detail, remedy)
    })
}

fn identity_problem(problem: &Misplaced) -> Finding {
    let subject = format!("identity of {}", problem.role);
    Finding::failure(&subject, &problem.what, &problem.remedy)
}

/// Of a database that says which it is; the others are told of by their schema.
fn identity_finding(look: &Look) -> Option<Finding> {
    let identity = look.found.as_ref().ok()?.identity.as_ref()?;
    let subject = format!("identity of {}", look.role);
    let detail = format!(
        "{} of deployment {}, incarnation {}",
        identity.role, identity.deployment, identity.incarnation
    );
    Some(Finding::ok(&subject, detail))
}

fn schema_finding(look: &Look, assessment: &Assessment) -> Option<Finding> {
    // One that does not answer is reported by its own examination, one that is not used by a remark.
    let found = look.found.as_ref().ok()?;
    let pending = &found.pending;
    if assessment.is_outsider(&look.role) {
        return None;
    }
    let subject = match &look.role {
        Role::Directory => "schema of directory".into(),
        Role::Shard(name) => format!("schema of shard {name}"),
    };
    let later = found.later.join(", ");
    Some(if pending.is_empty() && later.is_empty() {
        Finding::ok(&subject, "up to date")
    } else if pending.is_empty() {
        Finding::warning(
            &subject,
            format!("has {later} of a later version"),
            "run that version; this one starts only as long as none of these contracts the schema",
        )
    } else {
        Finding::failure(
            &subject,
            format!("lacks {}", pending.join(", ")),
            "run `backscroll migrate` with this configuration",
        )
    })
}

/// Why the deployment cannot be used, where nothing else has said so.
fn deployment_finding(survey: &Survey, assessment: Assessment) -> Option<Finding> {
    let lacks = |look: &Look| matches!(&look.found, Ok(found) if !found.pending.is_empty());
    let (why, remedy) = match assessment.deployed() {
        Ok(_) | Err(Error::DirectoryUnavailable(_)) => return None,
        Err(Error::Unprepared(_)) if survey.looks().any(lacks) => return None,
        Err(error @ Error::Unprepared(_)) => (error, "run `backscroll migrate`"),
        Err(error) => (error, "make the configuration agree with the directory"),
    };
    Some(Finding::failure("deployment", why.to_string(), remedy))
}

fn ranges(look: &Look, deployed: &Deployed) -> Option<Finding> {
    match (&look.role, &look.found) {
        (Role::Shard(name), Ok(found)) if deployed.shard(name).is_some() => {
            Some(ownership(deployed.map(), name, &found.fences))
        }
        _ => None,
    }
}

/// A database that the configuration names: whose it is, in words too, where it is, and what it is used for.
type Named<'a> = (Role, String, &'a DatabaseUrl, Use);

fn named_databases(config: &Config) -> impl Iterator<Item = Named<'_>> {
    let directory = &config.store.directory.url;
    let directory = (
        Role::Directory,
        "directory".to_owned(),
        directory,
        Use::Directory,
    );
    let shards = config.store.shards.iter().flat_map(|shard| {
        let role = Role::Shard(shard.name.clone());
        let of_replica = role.clone();
        let replica = move |(number, url)| {
            let subject = format!("replica {number} of shard {}", shard.name);
            (of_replica.clone(), subject, url, Use::Replica)
        };
        let primary = (
            role,
            format!("shard {}", shard.name),
            &shard.primary,
            Use::Primary,
        );
        std::iter::once(primary).chain(shard.replicas.iter().enumerate().map(replica))
    });
    std::iter::once(directory).chain(shards)
}

/// The databases that are to be examined.
async fn databases(config: &Config, is_examined: impl Fn(&Role) -> bool) -> Vec<Examination> {
    let pool = &config.store.pool;
    let lanes = config.store.write.lanes;
    let examine = |(_, subject, url, used): Named<'_>| {
        let url = url.clone();
        async move { database::examine(&subject, &url, used, pool, lanes).await }
    };
    let examined = named_databases(config).filter(|(role, ..)| is_examined(role));
    join_all(examined.map(examine)).await
}

/// At the start of a service: logs which settings of its SQL servers break a promise. A server that does not answer is told of by
/// its users.
pub async fn preflight(config: Config) {
    let pool = &config.store.pool;
    let lanes = config.store.write.lanes;
    let look = |(_, subject, url, used): Named<'_>| {
        let url = url.clone();
        async move { database::broken_settings(&subject, &url, used, pool, lanes).await }
    };
    for finding in join_all(named_databases(&config).map(look)).await.concat() {
        let remedy = finding.remedy.unwrap_or_default();
        tracing::warn!(subject = finding.subject, remedy, "{}", finding.detail);
    }
}

/// Whether a shard's fences say the same as the map (INV-OWNER).
fn ownership(map: &ShardMap, shard: &ShardName, fences: &[Fence]) -> Finding {
    let subject = format!("ranges of shard {shard}");
    let disagreements = fence::disagreements(map, shard, fences);
    if !disagreements.is_empty() {
        let remedy = format!(
            "nothing, if a move is under way; if this is a backup of the shard, `backscroll shards adopt {shard}` makes its fences agree"
        );
        return Finding::failure(&subject, disagreements.join("; "), remedy);
    }
    let frozen = fences
        .iter()
        .filter(|fence| fence.state == FenceState::Frozen);
    let frozen = frozen.count();
    if frozen > 0 {
        let remedy = "nothing, if a move is under way; it takes a moment";
        return Finding::warning(&subject, format!("{frozen} frozen"), remedy);
    }
    let owned = map.ranges_of(shard).count();
    Finding::ok(
        &subject,
        format!("{owned} owned, fences agree with the map"),
    )
}

#[cfg(test)]
mod tests {
    use backscroll_shard::ids::Epoch;
    use backscroll_shard::map::Assignment;
    use backscroll_shard::range::KeyRange;

    use super::*;

    #[test]
    fn fences_must_say_what_the_map_says() {
        let name = ShardName::new("a").unwrap();
        let map = ShardMap::new(vec![Assignment {
            range: KeyRange::ALL,
            shard: name.clone(),
            epoch: Epoch(2),
        }])
        .unwrap();
        let verdict = |fences: &[(u64, FenceState)]| {
            let fence = |(epoch, state): &(u64, FenceState)| Fence {
                range: KeyRange::ALL,
                epoch: Epoch(*epoch),
                state: *state,
            };
            ownership(&map, &name, &fences.iter().map(fence).collect::<Vec<_>>()).verdict
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
