//! Buckets that keep versions of what is deleted.
//!
//! There, deleting an object only puts a marker over it, so that what was erased could be read again (INV-ERASE). A bucket
//! is asked whether it keeps versions; if it does, or did, or answers a deletion with a marker, all versions of an object
//! are deleted by their ids, and its markers too. A store that keeps versions and does not list them gives an error, and the erasure no receipt.
//! A crash leaves some of the versions; the deletion is made again.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::S3Store;
use super::errors::failed;
use crate::object_store::error::{ErrorKind, Operation, Result, StoreError};
use crate::object_store::key::ObjectKey;
use crate::object_store::{Deletion, ObjectStore as _};

/// How long a bucket's answer is believed: somebody may turn versions on.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// Most rounds of deleting a page of an object's versions: keys are written once, so one is usual.
const ROUNDS: usize = 100;

impl S3Store {
    /// Whether the bucket keeps versions, as it said a short while ago.
    pub(super) async fn keeps_versions(&self) -> Result<bool> {
        let known = *self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, keeps)) = known.filter(|(asked, _)| asked.elapsed() < BELIEVED_FOR) {
            return Ok(keeps);
        }
        let asked = Instant::now();
        let keeps = self.ask_versions().await?;
        *self.versions.lock().unwrap_or_else(PoisonError::into_inner) = Some((asked, keeps));
        Ok(keeps)
    }

    async fn ask_versions(&self) -> Result<bool> {
        let asked = self.client.get_bucket_versioning().bucket(&self.bucket);
        match asked.send().await {
            // Suspended, too: the versions from before are there.
            Ok(output) => Ok(output.status().is_some()),
            Err(error) => {
                let error = failed(Operation::Versioning, &self.bucket, &error);
                match error.kind() {
                    // A deletion's own answer says it, too.
                    ErrorKind::Unsupported
                    | ErrorKind::NotFound
                    | ErrorKind::Refused
                    | ErrorKind::Denied => Ok(false),
                    _ => Err(error),
                }
            }
        }
    }

    /// What becomes of deleted objects.
    pub(super) async fn ask_deletion(&self) -> Result<Deletion> {
        if !self.ask_versions().await? {
            return Ok(Deletion::Final);
        }
        let asked = self
            .client
            .get_object_lock_configuration()
            .bucket(&self.bucket);
        // Without object lock the answer is an error; so is that of a store without this call.
        let locks = asked.send().await.ok();
        let rule = locks
            .as_ref()
            .and_then(|output| output.object_lock_configuration()?.rule());
        Ok(if rule.is_some() {
            Deletion::Locked
        } else {
            Deletion::Versions
        })
    }

    /// Deletes an object, or one version of it, and says whether the bucket only put a marker over it.
    pub(super) async fn delete_one(
        &self,
        key: &ObjectKey,
        version: Option<String>,
    ) -> Result<bool> {
        let is_whole = version.is_none();
        let delete = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .set_version_id(version);
        match delete
            .send()
            .await
            .map_err(|error| failed(Operation::Delete, key, &error))
        {
            Ok(output) => Ok(is_whole && output.delete_marker() == Some(true)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes every version of an object.
    pub(super) async fn delete_versions(&self, key: &ObjectKey) -> Result<()> {
        for _ in 0..ROUNDS {
            let versions = self.versions_of(key).await?;
            if versions.is_empty() {
                return self.check_gone(key).await;
            }
            for version in versions {
                self.delete_one(key, Some(version)).await?;
            }
        }
        let detail = "versions of it are there however many are deleted";
        Err(StoreError::new(
            ErrorKind::Unsupported,
            Operation::Delete,
            key,
            detail,
        ))
    }

    /// The ids of the first versions of an object, and of its markers.
    async fn versions_of(&self, key: &ObjectKey) -> Result<Vec<String>> {
        let list = self
            .client
            .list_object_versions()
            .bucket(&self.bucket)
            .prefix(key.as_str());
        let output = list
            .send()
            .await
            .map_err(|error| failed(Operation::Delete, key, &error))?;
        let is_its = |found: Option<&str>| found == Some(key.as_str());
        let versions = output.versions().iter();
        let versions = versions.filter(|version| is_its(version.key()));
        let markers = output.delete_markers().iter();
        let markers = markers.filter(|marker| is_its(marker.key()));
        let ids = versions.map(|version| version.version_id());
        let ids = ids.chain(markers.map(|marker| marker.version_id()));
        Ok(ids.flatten().map(ToOwned::to_owned).collect())
    }

    /// No version is listed, so none may be read.
    async fn check_gone(&self, key: &ObjectKey) -> Result<()> {
        match self.head(key).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.during(Operation::Delete)),
            Ok(_) => {
                let detail = "the bucket keeps versions and does not list them, so the content would stay: switch its \
                              versioning off, or use another bucket";
                Err(StoreError::new(
                    ErrorKind::Unsupported,
                    Operation::Delete,
                    key,
                    detail,
                ))
            }
        }
    }
}
