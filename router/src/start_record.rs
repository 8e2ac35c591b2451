//! What the audit log says of a node that starts: its version, and the configuration in effect.
//!
//! The configuration is there as a digest, SHA-256 of its JSON as `backscroll config dump --json` prints it without white space, its keys
//! sorted, and as the values that are not the defaults. Secrets are `***` in both.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use backscroll_shard::audit::{Act, Action, DETAILS_MAX_BYTES, Reference};
use backscroll_shard::store::Store;
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::deployment::node_name;

/// How long to wait before a start is tried to be recorded again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Most bytes that the differences may have; more of them are named without their values, or counted.
const DIFFERENCES_MAX_BYTES: usize = DETAILS_MAX_BYTES / 2;

/// Records that this node has started. While the directory is away it waits: a service starts without it.
pub(crate) async fn record(store: &Store, act: &Act) {
    while let Err(error) = store.audit().append(act).await {
        tracing::warn!(%error, "the start of this node is not in the audit log yet");
        if !error.is_retryable() {
            return;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// What is recorded of the start of this node.
pub(crate) fn act(config: &Config, address: SocketAddr) -> Act {
    let values = serde_json::to_value(config).unwrap_or_default();
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let hash = digest(&SHA256, values.to_string().as_bytes());
    let hash: String = hash.as_ref().iter().map(|it| format!("{it:02x}")).collect();
    let mut differences = Map::new();
    compare(&mut differences, "", &values, &defaults);
    let details = json!({
        "version": env!("CARGO_PKG_VERSION"), "address": address.to_string(), "configuration": hash,
        "differences": bounded(differences),
    });
    Act::new(Reference::node(&node_name()), Action::NodeStart, None).with(details)
}

/// The keys of `values` that `defaults` has otherwise, or not at all.
fn compare(found: &mut Map<String, Value>, key: &str, values: &Value, defaults: &Value) {
    match (values, defaults) {
        (Value::Object(values), Value::Object(defaults)) => {
            for (name, value) in values {
                let key = match key {
                    "" => name.clone(),
                    key => format!("{key}.{name}"),
                };
                let default = defaults.get(name).unwrap_or(&Value::Null);
                compare(found, &key, value, default);
            }
        }
        (value, default) if value != default => {
            found.insert(key.to_owned(), value.clone());
        }
        _ => {}
    }
}

fn bounded(differences: Map<String, Value>) -> Value {
    let fits = |value: &Value| value.to_string().len() <= DIFFERENCES_MAX_BYTES;
    let keys: Vec<String> = differences.keys().cloned().collect();
    let forms = [Value::Object(differences), json!(keys)];
    let fitting = forms.into_iter().find(fits);
    fitting.unwrap_or_else(|| json!(keys.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;

    fn details(config: &Config) -> Value {
        act(config, ([127, 0, 0, 1], 8080).into()).details
    }

    #[test]
    fn what_is_not_the_default_is_said_without_secrets() {
        let mut config = Config::default();
        let plain = details(&config);
        assert_eq!(plain["differences"], json!({}));
        config.auth.secret = Secret::new("correct horse battery staple 0123456789");
        config.store.limits.mentions = 7;
        let changed = details(&config);
        assert_eq!(
            changed["differences"],
            json!({ "auth.secret": "***", "limits.mentions": 7 })
        );
        assert_ne!(changed["configuration"], plain["configuration"]);
        assert_eq!(changed["configuration"].as_str().unwrap().len(), 64);
        assert!(!changed.to_string().contains("horse"));
    }

    #[test]
    fn a_configuration_of_any_size_fits() {
        let long = "x".repeat(DIFFERENCES_MAX_BYTES);
        let one = Map::from_iter([("a.key".to_owned(), json!(long))]);
        assert_eq!(bounded(one), json!(["a.key"]));
        let many = (0..10_000).map(|n| (format!("a.key.of.many.{n}"), json!(1)));
        assert_eq!(bounded(many.collect()), json!(10_000));
    }
}
