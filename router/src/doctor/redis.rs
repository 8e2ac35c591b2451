//! Tries Redis: whether it is a primary that lets this account in and takes writes, and whether what is published comes back.

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
    let comes_back = comes_back(&redis).await;
    let asked = redis.ask(Instant::now() + settings.timeout.0).await;
    let finding = if let Some(problem) = asked.err().or_else(|| redis.bus().problem()) {
        let detail = format!("{location}: {}", problem.said);
        Finding::failure(subject, detail, problem.remedy)
    } else if comes_back {
        let nodes = redis.roster().nodes().await.map_or(0, |nodes| nodes.len());
        let detail = format!(
            "{location} answers, and what is published comes back; nodes connected: {nodes}"
        );
        Finding::ok(subject, detail)
    } else {
        let detail = format!("{location}: what is published does not come back");
        Finding::failure(subject, detail, "see Redis's own log")
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
