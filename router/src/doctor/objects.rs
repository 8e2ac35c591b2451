//! Tries the object store with objects of its own, then its address for clients ([`super::public`]).

use std::time::Duration;

use backscroll_archiver::object_store::probe::{ProbeOutcome, probe};
use backscroll_archiver::object_store::{self, ObjectStore, ObjectStoreSettings, StoreKind};

use super::{Finding, public};
use crate::config::Config;

/// Longest trial: some ten requests.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that is asked of the store, once.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let (settings, subject) = (&config.object_store, "object store");
    if settings.kind == StoreKind::Disk && !settings.path.exists() {
        let detail = format!("the folder {} is not there yet", settings.path.display());
        let remedy = "nothing to do: `backscroll serve` and `archive` make it";
        return vec![Finding::warning(subject, detail, remedy)];
    }
    // A store that answers only at the second attempt is worth knowing of.
    let once = ObjectStoreSettings {
        max_attempts: 1,
        ..settings.clone()
    };
    let store = match object_store::open(&once).await {
        Ok(store) => store,
        Err(error) => {
            let remedy = "check the section object_store (for a folder: path, its owner and mode)";
            return vec![Finding::failure(subject, error.to_string(), remedy)];
        }
    };
    let (mut findings, works) = ask(store.as_ref(), subject).await;
    if works {
        let origins = &config.server.cors_origins;
        findings.extend(public::examine(store.as_ref(), settings, origins).await);
    }
    findings
}

/// What the service itself asks of the store, and whether all of it works.
async fn ask(store: &dyn ObjectStore, subject: &str) -> (Vec<Finding>, bool) {
    let location = store.location();
    let Ok(report) = tokio::time::timeout(PATIENCE, probe(store)).await else {
        let remedy = "check object_store.endpoint, and that this machine reaches it";
        let detail = format!("{location}: no answer in time");
        return (vec![Finding::failure(subject, detail, remedy)], false);
    };
    let mut findings = Vec::new();
    for step in &report.steps {
        match &step.outcome {
            ProbeOutcome::Passed => {}
            ProbeOutcome::Reservation(reservation) => {
                let detail = format!("{location}: {}: {reservation}", step.name);
                findings.push(Finding::warning(
                    subject,
                    detail,
                    "see archiver/README.md, object stores",
                ));
            }
            ProbeOutcome::Failed { error, remedy } => {
                let detail = format!("{location}: {}: {error}", step.name);
                findings.push(Finding::failure(subject, detail, *remedy));
            }
        }
    }
    if findings.is_empty() {
        let took: Duration = report.steps.iter().map(|step| step.took).sum();
        let detail = format!(
            "{location} can be written and read, in parts and in ranges; {} steps took {} ms",
            report.steps.len(),
            took.as_millis()
        );
        findings.push(Finding::ok(subject, detail));
    }
    (findings, report.failure().is_none())
}
