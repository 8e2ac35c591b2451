//! How a client uploads a file: with one signed request, or in parts, which can be resumed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backscroll_shard::model::{Media, Timestamp};

use super::settings::MediaSettings;
use super::{UPLOAD_PREFIX, new_key, stored_key};
use crate::object_store::{
    ErrorKind, ObjectKey, ObjectStore, Part, Result, SignedContent, SignedRequest, Upload,
};

/// For how long a client may begin to send the bytes.
const ADDRESS_VALID: Duration = Duration::from_secs(3600);

/// Most parts whose requests are signed at once; the client asks for the next once it has sent them.
const PARTS_SIGNED: usize = 100;

/// The requests by which a file is uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requests {
    /// One for all.
    Whole(SignedRequest),
    /// One for each part that is missing, the first [`PARTS_SIGNED`] of them.
    Parts {
        /// The size of each part but the last.
        part_bytes: u64,
        /// By the parts' numbers.
        parts: BTreeMap<u32, SignedRequest>,
    },
}

/// Begins uploads, and signs their requests.
#[derive(Clone, Debug)]
pub struct Uploads {
    objects: Arc<dyn ObjectStore>,
    parts_above: u64,
    unused_after: Duration,
}

/// Where an upload goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    /// The key of its object.
    pub(super) key: String,
    /// The store's name for it, in parts.
    pub(super) id: Option<String>,
}

impl Uploads {
    /// On `objects`.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, settings: &MediaSettings) -> Self {
        Self {
            objects,
            parts_above: settings.parts_above,
            unused_after: settings.unused_after.0,
        }
    }

    /// When an upload that begins now is deleted unless it is used.
    #[must_use]
    pub fn expiry(&self, now: Timestamp) -> Timestamp {
        let after = i64::try_from(self.unused_after.as_millis()).unwrap_or(i64::MAX);
        Timestamp(now.0.saturating_add(after))
    }

    /// Begins the upload of a file of so many bytes.
    ///
    /// # Errors
    /// When the store does not begin an upload in parts.
    pub(super) async fn begin(&self, bytes: u64, content_type: &str) -> Result<Begun> {
        let key = new_key(UPLOAD_PREFIX);
        let id = match bytes > self.parts_above {
            false => None,
            true => {
                let begun = self.objects.start_signed_upload(&key, content_type);
                Some(begun.await?.id)
            }
        };
        let key = key.to_string();
        Ok(Begun { key, id })
    }

    /// Gives up an upload that no row names.
    ///
    /// # Errors
    /// When it may still be there.
    pub(super) async fn abandon(&self, begun: &Begun) -> Result<()> {
        let Some(id) = &begun.id else {
            return Ok(());
        };
        let upload = Upload {
            key: stored_key(&begun.key)?,
            id: id.clone(),
        };
        self.objects.abort_upload(&upload).await
    }

    /// What there is of a pending file: the numbers and sizes of its parts. Of one that is uploaded whole, part 1 stands for
    /// all of it.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn present(&self, media: &Media) -> Result<Vec<(u32, u64)>> {
        match upload_of(media)? {
            Some(upload) => {
                let parts = parts(self.objects.as_ref(), &upload).await?;
                Ok(parts.iter().map(|part| (part.number, part.size)).collect())
            }
            None => match self.objects.head(&stored_key(&media.upload_key)?).await {
                Ok(meta) => Ok(vec![(1, meta.size)]),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(error),
            },
        }
    }

    /// The requests for what is missing of a pending file.
    ///
    /// # Errors
    /// When they cannot be signed.
    pub async fn requests(&self, media: &Media, present: &[(u32, u64)]) -> Result<Requests> {
        let Some(upload) = upload_of(media)? else {
            let content = SignedContent {
                bytes: media.bytes,
                content_type: &media.content_type,
            };
            let key = stored_key(&media.upload_key)?;
            let signed = self.objects.sign_put(&key, &content, ADDRESS_VALID).await?;
            return Ok(Requests::Whole(signed));
        };
        let part_bytes = self.objects.part_size() as u64;
        let missing = plan(media.bytes, part_bytes).filter(|part| !present.contains(part));
        let mut parts = BTreeMap::new();
        for (number, bytes) in missing.take(PARTS_SIGNED) {
            let signed = self
                .objects
                .sign_part(&upload, number, bytes, ADDRESS_VALID);
            parts.insert(number, signed.await?);
        }
        Ok(Requests::Parts { part_bytes, parts })
    }

    /// Makes the object of an upload, if all of it has arrived; gives its key.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when some of it has not.
    pub(super) async fn finish(&self, media: &Media) -> Result<ObjectKey> {
        let key = stored_key(&media.upload_key)?;
        let Some(upload) = upload_of(media)? else {
            return Ok(key);
        };
        let parts = parts(self.objects.as_ref(), &upload).await?;
        let there: Vec<(u32, u64)> = parts.iter().map(|part| (part.number, part.size)).collect();
        let part_bytes = self.objects.part_size() as u64;
        if there.iter().copied().eq(plan(media.bytes, part_bytes)) {
            self.objects.complete_upload(&upload, &parts).await?;
        }
        // Otherwise it was completed before, or the object is not there.
        Ok(key)
    }
}

/// The upload of a file that comes in parts.
pub(crate) fn upload_of(media: &Media) -> Result<Option<Upload>> {
    let Some(id) = &media.upload_id else {
        return Ok(None);
    };
    let key = stored_key(&media.upload_key)?;
    let id = id.clone();
    Ok(Some(Upload { key, id }))
}

/// None once the upload was completed.
async fn parts(objects: &dyn ObjectStore, upload: &Upload) -> Result<Vec<Part>> {
    match objects.list_parts(upload).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        parts => parts,
    }
}

/// The numbers and sizes of the parts of `bytes` bytes.
fn plan(bytes: u64, part_bytes: u64) -> impl Iterator<Item = (u32, u64)> {
    let parts = bytes.div_ceil(part_bytes.max(1));
    (1u32..)
        .zip(0..parts)
        .map(move |(number, index)| (number, part_bytes.min(bytes - index * part_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_but_for_the_last() {
        let of = |bytes| plan(bytes, 10).collect::<Vec<_>>();
        assert_eq!(of(10), [(1, 10)]);
        assert_eq!(of(21), [(1, 10), (2, 10), (3, 1)]);
        assert_eq!(of(0), []);
    }
}
