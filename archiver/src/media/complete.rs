//! Objects and rows of an upload, in their order: begun ([`Uploads::begin_file`]) and completed ([`Gate::complete`]).
//!
//! | after a crash between | is left | which |
//! |---|---|---|
//! | an upload in parts and its row | an upload that no row names | a collection gives up |
//! | the row and the bytes | a pending file | expires |
//! | the copy and the verdict | a copy that no row names | a collection deletes; the next `complete` makes another |
//! | the verdict and the end | the upload's object | a collection deletes |
//!
//! A row names an object only once that is there, so that no crash leaves a file that cannot be read.

use backscroll_shard::model::{Caller, Media, MediaKind, MediaVerdict};
use backscroll_shard::store::{MediaQuota, Store};

use super::gate::{Checked, Gate};
use super::upload::Uploads;
use crate::metrics;
use crate::object_store::StoreError;

/// Why an upload was neither begun nor completed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Because of its row.
    #[error(transparent)]
    Row(#[from] backscroll_shard::error::Error),
    /// Because of its objects.
    #[error(transparent)]
    Objects(#[from] StoreError),
}

/// The outcome of completing an upload.
#[derive(Debug)]
pub enum Completed {
    /// The file has its verdict.
    Done {
        /// The file as it is now.
        media: Box<Media>,
        /// Whether this call gave the verdict.
        is_first: bool,
    },
    /// Not all of it has arrived, or another call has completed it meanwhile.
    Missing,
    /// The virus scan was not possible, for this reason.
    Unscanned(String),
}

impl Uploads {
    /// Begins the upload of a file that is declared, and puts the file down as pending; gives it with its upload.
    ///
    /// # Errors
    /// As [`Store::begin_media`], and when the object store does not begin an upload in parts.
    pub async fn begin_file(
        &self,
        store: &Store,
        caller: &Caller,
        (mut media, quota): (Media, MediaQuota),
    ) -> Result<Media, UploadError> {
        let begun = self.begin(media.bytes, &media.content_type).await?;
        media.upload_key.clone_from(&begun.key);
        media.upload_id.clone_from(&begun.id);
        if let Err(error) = store.begin_media(caller, &media, quota).await {
            if let Err(error) = self.abandon(&begun).await {
                tracing::warn!(%error, "an unfinished upload stays behind until it is collected");
            }
            return Err(error.into());
        }
        Ok(media)
    }
}

impl Gate {
    /// Checks the upload of a pending file of the caller's, and gives the file its verdict.
    ///
    /// # Errors
    /// As [`Gate::check`] and [`Store::finish_media`].
    pub async fn complete(
        &self,
        store: &Store,
        caller: &Caller,
        media: &Media,
    ) -> Result<Completed, UploadError> {
        let verdict = match self.check(media).await? {
            Checked::Verdict(verdict) => verdict,
            Checked::Missing => return Ok(Completed::Missing),
            Checked::Unscanned(why) => return Ok(Completed::Unscanned(why)),
        };
        let finished = store.finish_media(caller, media, &verdict).await;
        let is_first = matches!(&finished, Ok((_, true)));
        if let MediaVerdict::Ready { object_key, .. } = &verdict {
            match &finished {
                // It may have been committed: the copy is kept, and collected if no row names it.
                Err(error) if error.is_retryable() => {}
                Ok((media, true)) => {
                    let kind = kind_name(media.kind);
                    metrics::MEDIA_BYTES.with([kind]).increment(media.bytes);
                }
                _ => self.drop_copy(object_key).await,
            }
        }
        let (media, _) = finished?;
        if is_first {
            self.drop_copy(&media.upload_key).await;
        }
        let media = Box::new(media);
        Ok(Completed::Done { media, is_first })
    }
}

fn kind_name(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Image => "image",
        MediaKind::Voice => "voice",
        MediaKind::File => "file",
    }
}
