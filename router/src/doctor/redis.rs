//! Tries Redis: whether it answers, and whether what is published comes back.

use std::time::{Duration, Instant};

use backscroll_realtime::bus::{Bus as _, Roster as _};
use backscroll_realtime::redis::{Redis, RedisSettings};
use backscroll_shard::tasks::Supervisor;

use super::Finding;

/// How long what is published may be on its way.
const PATIENCE: Duration = Duration::from_secs(6);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is found; nothing where no Redis is configured.
pub(super) async fn examine(settings: &RedisSettings) -> Option<Finding> {
    let location = settings.url.as_ref()?.redacted();
    let subject = "redis";
    let redis = match Redis::open(settings, "doctor", &Supervisor::default()) {
        Ok(redis) => redis,
        Err(error) => {
            return Some(Finding::failure(
                subject,
                error.to_string(),
                "mend redis.url",
            ));
        }
    };
    let finding = if comes_back(&redis).await {
        let nodes = redis.roster().nodes().await.map_or(0, |nodes| nodes.len());
        let detail = format!(
            "{location} answers, and what is published comes back; nodes connected: {nodes}"
        );
        Finding::ok(subject, detail)
    } else {
        let error = match redis.roster().nodes().await {
            Ok(_) => "it answers, but what is published does not come back".to_owned(),
            Err(error) => error.to_string(),
        };
        let remedy = "check redis.url and its password, that this machine reaches it, and that the account may publish and subscribe";
        Finding::failure(subject, format!("{location}: {error}"), remedy)
    };
    redis.close(Instant::now()).await; // only canaries wait
    Some(finding)
}

/// Whether a canary has gone around: silence counts from the opening until then.
async fn comes_back(redis: &Redis) -> bool {
    let opened = Instant::now();
    while opened.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK_EVERY).await;
        let since_opening = opened.elapsed();
        if redis
            .bus()
            .silence()
            .is_some_and(|silence| silence + LOOK_EVERY / 2 < since_opening)
        {
            return true;
        }
    }
    false
}
