//! The configuration's section `media`. Every bound of INV-BOUND here has its name in it.

use backscroll_shard::model::MediaKind;
use backscroll_shard::settings::check::{Check, Problem};
use backscroll_shard::settings::{Span, size};
use backscroll_shard::store::MediaQuota;
use serde::{Deserialize, Serialize};

use super::scan::ClamdAddress;
use crate::object_store::{COPY_BYTES, Secret, is_address};

/// Largest picture or recording that may be allowed: it is held in memory while it is checked.
const HELD_BYTES: u64 = 256 << 20;

/// What files may be uploaded, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaSettings {
    /// Bytes of a picture, at most 256 MiB.
    #[serde(with = "size")]
    pub image_bytes: u64,
    /// Pixels of a picture, read from its header.
    pub image_pixels: u64,
    /// Pixels of all frames of a moving picture.
    pub animation_pixels: u64,
    /// Take metadata out of pictures, as the place and time that a camera writes; how to turn them, and colours, stay.
    pub strip_metadata: bool,
    /// Bytes of a recording, at most 256 MiB.
    #[serde(with = "size")]
    pub voice_bytes: u64,
    /// How long a recording may play.
    pub voice_duration: Span,
    /// Bytes of any other file, at most 5 GiB.
    #[serde(with = "size")]
    pub file_bytes: u64,
    /// Larger files are uploaded in parts of `object_store.part_size`, and can be resumed.
    #[serde(with = "size")]
    pub parts_above: u64,
    /// After this a file that was not uploaded, was rejected, or is in no message is deleted. At least an hour.
    pub unused_after: Span,
    /// For how long an address to read a file is valid: 10 seconds to 7 days.
    pub address_valid: Span,
    /// Files that one user may have on one shard.
    pub user_files: u64,
    /// Bytes in all of them.
    #[serde(with = "size")]
    pub user_bytes: u64,
    /// Uploads that are checked at once, 1 to 256.
    pub checks: usize,
    /// Processes that make smaller forms of pictures, 0 to 64; with 0 none are made.
    pub workers: usize,
    /// Memory that each of them may take, 64 MiB to 16 GiB.
    #[serde(with = "size")]
    pub worker_memory: u64,
    /// How long one of them may work on a picture, 1 to 30 seconds.
    pub worker_time: Span,
    /// The address of the clamd that scans uploads for viruses, as `tcp://127.0.0.1:3310` or `unix:///run/clamav/clamd.ctl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clamd: Option<ClamdAddress>,
    /// How long a scan may take, the reading of the file included: 1 second to 5 minutes, and less than `server.request_timeout`.
    pub scan_time: Span,
    /// Largest file that is scanned, at most 4 GiB. clamd's `StreamMaxLength`, `MaxFileSize` and `MaxScanSize` must not be smaller:
    /// clamd calls a file clean of which it skips a part for its size.
    #[serde(with = "size")]
    pub scan_bytes: u64,
    /// Accept only files that were scanned: larger ones are rejected, and while clamd does not answer uploads are not completed.
    pub scan_required: bool,
    /// The address of a CDN from which clients read files, as `https://files.example.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdn: Option<String>,
    /// The secret with which addresses at the CDN are signed, at least 32 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdn_secret: Option<Secret>,
    /// Pictures that wait for a worker in this process's memory, 1 to 100,000; others wait in the database.
    pub queue: usize,
}

impl Default for MediaSettings {
    fn default() -> Self {
        Self {
            image_bytes: 5 << 20,
            image_pixels: 50_000_000,
            animation_pixels: 1_000_000_000,
            strip_metadata: true,
            voice_bytes: 5 << 20,
            voice_duration: Span::secs(120),
            file_bytes: 25 << 20,
            parts_above: 16 << 20,
            unused_after: Span::secs(86_400),
            address_valid: Span::secs(300),
            user_files: 100_000,
            user_bytes: 20 << 30,
            checks: 8,
            workers: 2,
            worker_memory: 512 << 20,
            worker_time: Span::secs(10),
            clamd: None,
            scan_time: Span::secs(5),
            scan_bytes: 25 << 20,
            scan_required: true,
            cdn: None,
            cdn_secret: None,
            queue: 256,
        }
    }
}

impl MediaSettings {
    /// What is wrong with these settings; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut check = Check::of("media");
        check.within("image_bytes", self.image_bytes, 1, HELD_BYTES);
        check.within("image_pixels", self.image_pixels, 1, 1 << 40);
        check.within("voice_bytes", self.voice_bytes, 1, HELD_BYTES);
        check.within("file_bytes", self.file_bytes, 1, COPY_BYTES);
        check.within("parts_above", self.parts_above, 1, COPY_BYTES);
        check.within("animation_pixels", self.animation_pixels, 1, 1 << 40);
        check.within("checks", self.checks as u64, 1, 256);
        check.within("workers", self.workers as u64, 0, 64);
        check.within("worker_memory", self.worker_memory, 64 << 20, 16 << 30);
        check.within(
            "worker_time",
            self.worker_time,
            Span::secs(1),
            Span::secs(30),
        );
        check.within("queue", self.queue as u64, 1, 100_000);
        let longest = Span::secs(300);
        check.within("scan_time", self.scan_time, Span::secs(1), longest);
        check.within("scan_bytes", self.scan_bytes, 1, u64::from(u32::MAX));
        self.check_cdn(&mut check);
        let day = Span::secs(86_400);
        check.within("voice_duration", self.voice_duration, Span::secs(1), day);
        let (shortest, longest) = (Span::secs(10), Span::secs(7 * 86_400));
        check.within("address_valid", self.address_valid, shortest, longest);
        let (shortest, longest) = (Span::secs(3600), Span::secs(366 * 86_400));
        check.within("unused_after", self.unused_after, shortest, longest);
        check.finish()
    }

    fn check_cdn(&self, check: &mut Check) {
        if self.cdn.as_ref().is_some_and(|cdn| !is_address(cdn)) {
            check.report("cdn", "is not an address as https://files.example.com");
        }
        let secret = self.cdn_secret.as_ref();
        if secret.is_some_and(|secret| secret.0.len() < 32) {
            check.report("cdn_secret", "is shorter than 32 bytes");
        }
        if self.cdn.is_some() != secret.is_some() {
            check.report("cdn", "and cdn_secret belong together");
        }
    }

    /// Most bytes of a file of this kind.
    #[must_use]
    pub fn most_bytes(&self, kind: MediaKind) -> u64 {
        match kind {
            MediaKind::Image => self.image_bytes,
            MediaKind::Voice => self.voice_bytes,
            MediaKind::File => self.file_bytes,
        }
    }

    /// What one user may have on a shard.
    #[must_use]
    pub fn quota(&self) -> MediaQuota {
        MediaQuota {
            files: self.user_files,
            bytes: self.user_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_wrong_is_named_at_once() {
        assert_eq!(MediaSettings::default().check(), []);
        let wrong = MediaSettings {
            image_bytes: 1 << 40,
            voice_duration: Span::secs(0),
            file_bytes: 6 << 30,
            unused_after: Span::secs(1),
            checks: 0,
            scan_time: Span::secs(0),
            cdn: Some("files.example.com".into()),
            ..MediaSettings::default()
        };
        assert_eq!(wrong.check().len(), 8);
    }
}
