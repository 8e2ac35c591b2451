//! The gate between an upload and a message: size, checksum, type by content, the limits of its kind, and the virus scan.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use backscroll_shard::model::{Media, MediaFacts, MediaKind, MediaVerdict, VariantKeys};
use tokio::sync::Semaphore;

use super::scan::{Scan, Scanned, Scanner};
use super::settings::MediaSettings;
use super::types::{HEAD_BYTES, settle};
use super::upload::Uploads;
use super::{KEY_PREFIX, duration, new_key, new_variant_keys, pixels, strip};
use crate::metrics;
use crate::object_store::{ErrorKind, ObjectKey, ObjectStore, Operation, Result, StoreError};

/// Bytes that are read at once.
const STEP: u64 = 1 << 20;

/// Checks uploads.
#[derive(Debug)]
pub struct Gate {
    objects: Arc<dyn ObjectStore>,
    uploads: Uploads,
    settings: MediaSettings,
    scanner: Scanner,
    turns: Semaphore,
}

/// What came of a look at an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// Not all of it has arrived.
    Missing,
    /// All of it has, and this is to become of it.
    Verdict(MediaVerdict),
    /// All of it has, but it could not be scanned for viruses, for this reason. It can be checked again.
    Unscanned(String),
}

impl Gate {
    /// For uploads on `objects`.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, settings: &MediaSettings) -> Self {
        Self {
            uploads: Uploads::new(Arc::clone(&objects), settings),
            objects,
            settings: settings.clone(),
            scanner: Scanner::new(settings),
            turns: Semaphore::new(settings.checks.max(1)),
        }
    }

    /// Looks at the upload of a pending file. A verdict that it is ready comes with a copy, which is the row's from then on;
    /// if the row does not take it, [`Gate::drop_copy`].
    ///
    /// # Errors
    /// When the object store fails. [`ErrorKind::Throttled`] while too many are checked.
    pub(super) async fn check(&self, media: &Media) -> Result<Checked> {
        let busy = |_| {
            let why = "too many uploads are checked (media.checks)";
            StoreError::new(ErrorKind::Throttled, Operation::Head, media.id, why)
        };
        let _turn = self.turns.try_acquire().map_err(busy)?;
        let checked = self.look(media).await?;
        if let Checked::Verdict(verdict) = &checked {
            let outcome = match verdict {
                MediaVerdict::Ready { .. } => "ready",
                MediaVerdict::Rejected(reason) => reason,
            };
            metrics::MEDIA_CHECKED.with([outcome]).increment(1);
        }
        Ok(checked)
    }

    async fn look(&self, media: &Media) -> Result<Checked> {
        let rejected = |why| Ok(Checked::Verdict(MediaVerdict::Rejected(why)));
        let uploaded = self.uploads.finish(media).await?;
        match self.objects.head(&uploaded).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Checked::Missing),
            Err(error) => return Err(error),
            Ok(meta) if meta.size != media.bytes => return rejected("size_mismatch"),
            Ok(_) => {}
        }
        let copy = new_key(KEY_PREFIX);
        match self.objects.copy(&uploaded, &copy, media.bytes).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Checked::Missing),
            copied => copied?,
        }
        let checked = self.judge(media, &copy).await;
        if !matches!(checked, Ok(Checked::Verdict(MediaVerdict::Ready { .. }))) {
            self.drop_copy(copy.as_str()).await;
        }
        checked
    }

    async fn judge(&self, media: &Media, copy: &ObjectKey) -> Result<Checked> {
        let rejected = |why| Ok(Checked::Verdict(MediaVerdict::Rejected(why)));
        // The upload may have been replaced before it was copied.
        if self.objects.head(copy).await?.size != media.bytes {
            return rejected("size_mismatch");
        }
        let kept = match media.kind {
            MediaKind::Image | MediaKind::Voice => usize::MAX,
            MediaKind::File => HEAD_BYTES,
        };
        let (mut digest, mut content) = (Context::new(&SHA256), Vec::new());
        let mut scan = self.scanner.begin(media.bytes).await;
        let mut at = 0;
        while at < media.bytes {
            let end = media.bytes.min(at + STEP);
            let piece = self.objects.get_range(copy, at..end).await?;
            digest.update(&piece);
            scan.feed(&piece).await;
            let room = kept - content.len().min(kept);
            content.extend_from_slice(&piece[..piece.len().min(room)]);
            at = end;
        }
        let digest = digest.finish();
        if media.sha256.is_some_and(|sha256| sha256 != digest.as_ref()) {
            return rejected("checksum_mismatch");
        }
        let head = &content[..content.len().min(HEAD_BYTES)];
        let Some(content_type) = settle(media.kind, &media.content_type, head) else {
            return rejected("type_mismatch");
        };
        let mut facts = match self.facts(media.kind, content_type, &content) {
            Err(why) => return rejected(why),
            Ok(facts) => facts,
        };
        if let Some(held_back) = self.hold_back(media, scan).await {
            return Ok(held_back);
        }
        let mut kept = (copy.clone(), media.bytes);
        if media.kind == MediaKind::Image {
            let Some(stripped) = strip::strip(content_type, &content) else {
                return rejected("damaged");
            };
            // As it is shown.
            if stripped.orientation > 4 {
                std::mem::swap(&mut facts.width, &mut facts.height);
            }
            if self.settings.strip_metadata && stripped.content != content {
                kept = self.replace(copy, stripped.content).await?;
            }
        }
        let (object_key, bytes) = kept;
        Ok(Checked::Verdict(MediaVerdict::Ready {
            object_key: object_key.to_string(),
            bytes,
            content_type: content_type.to_owned(),
            facts,
            variant_keys: self.variant_keys(media.kind),
        }))
    }

    /// The outcome for a file that the virus scan does not let pass; `None` for one that passes.
    async fn hold_back(&self, media: &Media, scan: Scan) -> Option<Checked> {
        let rejected = |why| Some(Checked::Verdict(MediaVerdict::Rejected(why)));
        let is_required = self.scanner.is_required;
        match scan.finish().await? {
            Ok(Scanned::Clean) => None,
            Ok(Scanned::Infected(virus)) => {
                tracing::info!(media = %media.id, virus, "an upload is rejected for a virus");
                rejected("infected")
            }
            Ok(Scanned::TooLarge) if is_required => rejected("not_scanned"),
            Ok(Scanned::TooLarge) => None,
            Err(error) if is_required => Some(Checked::Unscanned(error.to_string())),
            Err(error) => {
                tracing::warn!(media = %media.id, %error, "an upload is accepted without a scan");
                None
            }
        }
    }

    /// The keys of the smaller forms that are to be made.
    fn variant_keys(&self, kind: MediaKind) -> Option<VariantKeys> {
        let is_made = kind == MediaKind::Image && self.settings.workers > 0;
        is_made.then(new_variant_keys)
    }

    /// Puts other content in place of a copy, under a key of its own.
    async fn replace(&self, copy: &ObjectKey, content: Vec<u8>) -> Result<(ObjectKey, u64)> {
        let (key, bytes) = (new_key(KEY_PREFIX), content.len() as u64);
        self.objects.put(&key, content.into()).await?;
        self.drop_copy(copy.as_str()).await;
        Ok((key, bytes))
    }

    fn facts(
        &self,
        kind: MediaKind,
        content_type: &str,
        content: &[u8],
    ) -> Result<MediaFacts, &'static str> {
        let mut facts = MediaFacts::default();
        match kind {
            MediaKind::Image => {
                let shape = pixels::shape(content_type, content).ok_or("damaged")?;
                if shape.pixels() > self.settings.image_pixels {
                    return Err("too_many_pixels");
                }
                let all = shape.pixels().saturating_mul(shape.frames);
                if shape.frames > 1 && all > self.settings.animation_pixels {
                    return Err("too_many_frames");
                }
                (facts.width, facts.height) = (Some(shape.width), Some(shape.height));
            }
            MediaKind::Voice => {
                let played = duration::milliseconds(content_type, content).ok_or("damaged")?;
                if u128::from(played) > self.settings.voice_duration.0.as_millis() {
                    return Err("too_long");
                }
                facts.duration_ms = Some(played);
            }
            MediaKind::File => {}
        }
        Ok(facts)
    }

    /// Deletes a copy that no row has taken; one that cannot be deleted now is found by `media gc`.
    pub(super) async fn drop_copy(&self, key: &str) {
        let deleted = match ObjectKey::new(key) {
            Ok(key) => self.objects.delete(&key).await,
            Err(_) => Ok(()),
        };
        if let Err(error) = deleted {
            tracing::warn!(%error, "a copy of an upload stays behind until it is collected");
        }
    }
}
