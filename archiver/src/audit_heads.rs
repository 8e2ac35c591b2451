//! Heads of the audit log in the object store, where those who can write the directory's database cannot change them
//! ([`backscroll_shard::audit`]).
//!
//! A head is an object whose key says it all: `audit/<deployment>/<number>-<hash>.json`. So the same head is the same object whichever
//! node puts it down, and a listing is enough to compare; the content is for people. Each head is also a line of the service's log.
//! Objects are never deleted: there is at most one for [`RECORDS`] records or [`LONGEST`], and none without a new record.
//!
//! A node puts the newest head down when it starts, then whenever so many records or so much time has passed. A crash leaves records
//! without a head after them until a node starts or the next is due. The bucket's policy has to keep those away from the objects who
//! can write the directory; with files on a disk that is for the machine's administrator to see to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::audit::{Head, PublishedHead};
use backscroll_shard::store::Store;
use backscroll_shard::tasks::TaskGroup;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::object_store::{ErrorKind, KeyPrefix, ObjectKey, ObjectStore, Result, transfer};

/// What the keys of heads begin with.
pub const KEY_PREFIX: &str = "audit/";
/// How often the log is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// After how many records a head is put down.
const RECORDS: u64 = 100;
/// After what time one is, if there is any new record.
const LONGEST: Duration = Duration::from_secs(600);

/// The newest head that this node has put down, and when.
#[derive(Clone, Copy, Debug)]
struct Last {
    number: u64,
    at: Instant,
}

impl Last {
    fn is_due(this: Option<Self>, head: &Head, now: Instant) -> bool {
        this.is_none_or(|last| {
            let new = head.number.saturating_sub(last.number);
            new >= RECORDS || (new > 0 && now.duration_since(last.at) >= LONGEST)
        })
    }
}

/// Puts heads down until `stop`.
pub fn start(
    store: &Arc<Store>,
    objects: &Arc<dyn ObjectStore>,
    tasks: &TaskGroup,
    stop: &CancellationToken,
) {
    let (store, objects, stopping) = (Arc::clone(store), Arc::clone(objects), stop.clone());
    tasks.supervise("audit-heads", stop, move || {
        let (store, objects, stop) = (Arc::clone(&store), Arc::clone(&objects), stopping.clone());
        async move {
            stop.run_until_cancelled(watch(&store, objects.as_ref()))
                .await;
        }
    });
}

async fn watch(store: &Store, objects: &dyn ObjectStore) {
    let mut last = None;
    loop {
        match store.audit().head().await {
            Ok(Some(head)) if Last::is_due(last, &head, Instant::now()) => {
                match publish(store, objects, &head).await {
                    Ok(()) => {
                        last = Some(Last {
                            number: head.number,
                            at: Instant::now(),
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the head of the audit log could not be put down; it is tried again");
                    }
                }
            }
            Ok(_) => {}
            // Those who watch the map log that the directory is away.
            Err(error) => tracing::debug!(%error, "the head of the audit log could not be read"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Puts a head down, in the log of the service and as an object.
///
/// # Errors
/// When the object store fails.
pub async fn publish(store: &Store, objects: &dyn ObjectStore, head: &Head) -> Result<()> {
    let (number, hash) = (head.number, head.hash);
    tracing::info!(target: "backscroll::audit", number, %hash, at = %head.at, "head of the audit log");
    let prefix = prefix(store);
    let key = format!("{}{number:020}-{hash}.json", prefix.as_str());
    let key = ObjectKey::new(key).map_err(|error| misnamed(&prefix, error))?;
    let deployment = store.router().deployed().deployment();
    let content =
        json!({ "deployment": deployment, "number": number, "at": head.at, "hash": hash });
    let content = Bytes::from(format!("{content}\n"));
    objects.put(&key, content).await
}

/// All heads that were put down as objects, in the order of their numbers.
///
/// # Errors
/// When the object store fails, or has an object there that is no head.
pub async fn published(store: &Store, objects: &dyn ObjectStore) -> Result<Vec<PublishedHead>> {
    let prefix = prefix(store);
    let mut listing = std::pin::pin!(transfer::list(objects, &prefix));
    let mut heads = Vec::new();
    while let Some(object) = listing.try_next().await? {
        let head = head_of(&object.key, &prefix)
            .ok_or_else(|| misnamed(&prefix, format_args!("{} is no head", object.key)))?;
        heads.push(head);
    }
    Ok(heads)
}

fn head_of(key: &ObjectKey, prefix: &KeyPrefix) -> Option<PublishedHead> {
    let name = key.as_str().strip_prefix(prefix.as_str())?;
    let (number, hash) = name.strip_suffix(".json")?.split_once('-')?;
    Some(PublishedHead {
        number: number.parse().ok()?,
        hash: hash.parse().ok()?,
        place: format!("the object {key}"),
    })
}

#[expect(clippy::expect_used, reason = "hexadecimal digits between slashes")]
fn prefix(store: &Store) -> KeyPrefix {
    let deployment = store.router().deployed().deployment();
    KeyPrefix::new(format!("{KEY_PREFIX}{deployment}/")).expect("valid")
}

fn misnamed(prefix: &KeyPrefix, what: impl std::fmt::Display) -> crate::object_store::StoreError {
    use crate::object_store::{Operation, StoreError};
    StoreError::new(ErrorKind::Refused, Operation::List, prefix, what)
}

#[cfg(test)]
mod tests {
    use backscroll_shard::model::Timestamp;

    use super::*;

    fn head(number: u64) -> Head {
        Head {
            number,
            at: Timestamp(0),
            hash: "ab".repeat(32).parse().unwrap(),
        }
    }

    #[test]
    fn a_head_is_due_after_many_records_or_some_time() {
        let now = Instant::now();
        assert!(Last::is_due(None, &head(1), now));
        let last = Some(Last { number: 7, at: now });
        for (number, later, is_due) in [
            (7, LONGEST * 2, false),
            (8, LONGEST - Duration::from_secs(1), false),
            (8, LONGEST, true),
            (106, Duration::ZERO, false),
            (107, Duration::ZERO, true),
            (3, LONGEST * 2, false),
        ] {
            let due = Last::is_due(last, &head(number), now + later);
            assert_eq!(due, is_due, "{number} after {later:?}");
        }
    }

    #[test]
    fn a_key_says_its_head() {
        let prefix = KeyPrefix::new("audit/00ff/").unwrap();
        let key = format!("audit/00ff/{:020}-{}.json", 42, head(1).hash);
        let found = head_of(&ObjectKey::new(key).unwrap(), &prefix).unwrap();
        assert_eq!((found.number, found.hash), (42, head(1).hash));
        for wrong in ["audit/00ff/7.json", "audit/00ff/7-ab.json", "audit/1/7-ab"] {
            assert!(head_of(&ObjectKey::new(wrong).unwrap(), &prefix).is_none());
        }
    }
}
