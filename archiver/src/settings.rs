//! The configuration's section `archive`. Every bound of INV-BOUND here has its name in it.

use std::fmt;
use std::str::FromStr;

use backscroll_shard::archive::LONGEST_LEASE;
use backscroll_shard::model::Timestamp;
use backscroll_shard::settings::check::{Check, Problem};
use backscroll_shard::settings::{Span, size};
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::segment::writer::SegmentOptions;

/// Ages are compared as of 15 March 2026: the month before has 28 days, so an age that is long enough then always is.
const SHORTEST_MONTH_BEHIND: Timestamp = Timestamp(1_773_532_800_000);

/// A span of the calendar: `"6 months"`, `"7 years"`, `"90 days"`.
#[derive(Clone, Copy, Debug)]
pub struct Age(jiff::Span);

impl Age {
    /// `n` months.
    #[must_use]
    pub fn months(n: i32) -> Self {
        Self(jiff::Span::new().months(n))
    }

    /// The moment this long before `now`, by the calendar and clock of `zone`: six months before 31 August is the last day
    /// of February.
    #[must_use]
    pub fn before(&self, now: Timestamp, zone: &TimeZone) -> Timestamp {
        let moment = jiff::Timestamp::from_millisecond(now.0)
            .and_then(|now| now.to_zoned(zone.clone()).checked_sub(self.0));
        moment.map_or(Timestamp(i64::MIN), |moment| {
            Timestamp(moment.timestamp().as_millisecond())
        })
    }

    /// Whether it is never shorter than `span`: a month counts 28 days.
    #[must_use]
    pub fn is_at_least(&self, span: Span) -> bool {
        let now = SHORTEST_MONTH_BEHIND;
        self.before(now, &TimeZone::UTC) <= now.minus(span.0)
    }
}

impl PartialEq for Age {
    fn eq(&self, other: &Self) -> bool {
        self.0.fieldwise() == other.0.fieldwise()
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (i64::from(self.0.get_years()), "year"),
            (i64::from(self.0.get_months()), "month"),
            (i64::from(self.0.get_weeks()), "week"),
            (i64::from(self.0.get_days()), "day"),
        ];
        let mut words = units.into_iter().filter(|(n, _)| *n != 0);
        let (n, unit) = words.next().unwrap_or((0, "day"));
        write!(f, "{n} {unit}{}", if n == 1 { "" } else { "s" })?;
        words.try_for_each(|(n, unit)| write!(f, " {n} {unit}{}", if n == 1 { "" } else { "s" }))
    }
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || {
            format!(
                "`{text}` is not an age; write for example \"6 months\", \"2 years\" or \"90 days\""
            )
        };
        // People write `6months` on a command line.
        let digits = text.trim().bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.trim().split_at(digits);
        let span: jiff::Span = format!("{number} {}", unit.trim_start())
            .parse()
            .or_else(|_| text.parse())
            .map_err(|_| hint())?;
        let calendar = jiff::Span::new()
            .years(span.get_years())
            .months(span.get_months())
            .weeks(span.get_weeks())
            .days(span.get_days());
        if calendar.fieldwise() != span.fieldwise() || !span.is_positive() {
            return Err(hint());
        }
        Ok(Self(span))
    }
}

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Ages)
    }
}

struct Ages;

impl de::Visitor<'_> for Ages {
    type Value = Age;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an age with its unit, as \"6 months\" or \"90 days\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Age, E> {
        text.parse()
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// When messages leave the databases, how they are written, and what may be asked of the archive at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArchiveSettings {
    /// Messages older than this are archived; never below `limits.idempotency`.
    pub after: Age,
    /// The time zone of that calendar and of `schedule`, by its IANA name.
    pub time_zone: String,
    /// When `serve` archives: second, minute, hour, day of month, month, day of week. Empty: never by itself.
    pub schedule: String,
    /// Archived messages older than this are dropped for good. Without it they are kept for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<Age>,
    /// A deleted message is gone from every archived object after at most this long.
    pub erase_within: Span,
    /// How long an object that nothing names is kept before it is deleted. Longer than the oldest backup of a shard that
    /// might be restored.
    pub gc_grace: Span,
    /// zstd's level, 1 (quick) to 19 (small).
    pub level: i32,
    /// Plain bytes of a frame, 4 KiB to 16 MiB: what one cold page reads.
    #[serde(with = "size")]
    pub frame_bytes: usize,
    /// Compressed bytes after which a segment is full, 1 MiB to 1 GiB.
    #[serde(with = "size")]
    pub segment_bytes: u64,
    /// Most messages archived a second; 0 for as many as the databases take.
    pub rate: u32,
    /// Most rows deleted in one transaction, 1 to 10,000.
    pub delete_batch: u32,
    /// Percent of the time that a job works while others use the shard's database, 1 to 100; with nobody else there it never
    /// rests.
    pub busy_share: u32,
    /// Jobs wait while a shard's database runs more statements than this at once (MySQL's `Threads_running`).
    pub max_threads_running: u32,
    /// Jobs wait while one of a shard's replicas is further behind than this.
    pub max_replica_lag: Span,
    /// Jobs wait while reading one row of a shard takes longer than this.
    pub max_latency: Span,
    /// How long a job whose process died keeps others from its range, 3 s to 1 hour.
    pub lease: Span,
    /// Most memory for frames that were read, in bytes.
    #[serde(with = "size")]
    pub cache_bytes: u64,
    /// Most memory for terms of segments that searches have read, in bytes.
    #[serde(with = "size")]
    pub terms_cache_bytes: u64,
    /// Most frames fetched and unpacked at once for readers; who comes then waits.
    pub max_reads: usize,
}

impl Default for ArchiveSettings {
    fn default() -> Self {
        let options = SegmentOptions::default();
        Self {
            after: Age::months(6),
            time_zone: "UTC".into(),
            schedule: "0 15 3 * * *".into(),
            retain: None,
            erase_within: Span::secs(30 * 86_400),
            gc_grace: Span::secs(7 * 86_400),
            level: options.level,
            frame_bytes: options.frame_bytes,
            segment_bytes: 8 << 20,
            rate: 0,
            delete_batch: 500,
            busy_share: 5,
            max_threads_running: 32,
            max_replica_lag: Span::secs(10),
            max_latency: Span::millis(50),
            lease: Span::secs(60),
            cache_bytes: 64 << 20,
            terms_cache_bytes: 32 << 20,
            max_reads: 16,
        }
    }
}

impl ArchiveSettings {
    /// What is wrong with these settings; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut check = Check::of("archive");
        check.require(
            "time_zone",
            TimeZone::get(&self.time_zone).is_ok(),
            "write an IANA name, as \"UTC\" or \"Europe/Berlin\"",
        );
        check.require(
            "schedule",
            self.schedule.is_empty() || cron::Schedule::from_str(&self.schedule).is_ok(),
            "write six fields (second, minute, hour, day of month, month, day of week), as \"0 15 3 * * *\", or nothing",
        );
        check.require("level", (1..=19).contains(&self.level), "1 to 19");
        check.require(
            "frame_bytes",
            (4 << 10..=16 << 20).contains(&self.frame_bytes),
            "4096 to 16777216",
        );
        check.require(
            "segment_bytes",
            (1 << 20..=1 << 30).contains(&self.segment_bytes),
            "1048576 to 1073741824",
        );
        check.require(
            "delete_batch",
            (1..=10_000).contains(&self.delete_batch),
            "1 to 10000",
        );
        check.require(
            "busy_share",
            (1..=100).contains(&self.busy_share),
            "1 to 100, in percent",
        );
        check.require(
            "max_threads_running",
            self.max_threads_running > 0,
            "at least 1",
        );
        check.require(
            "lease",
            (Span::secs(3)..=Span(LONGEST_LEASE)).contains(&self.lease),
            "3 s, which is three renewals, to 1 hour: a lease that ends later is not believed",
        );
        check.require("max_reads", self.max_reads > 0, "at least 1");
        check.require(
            "gc_grace",
            self.gc_grace >= Span::secs(3600),
            "at least an hour, so that no reader is still at the object",
        );
        if let Some(retain) = &self.retain {
            let now = SHORTEST_MONTH_BEHIND;
            check.require(
                "retain",
                retain.before(now, &TimeZone::UTC) < self.after.before(now, &TimeZone::UTC),
                "longer than archive.after",
            );
        }
        check.finish()
    }

    /// The time zone.
    #[must_use]
    pub fn zone(&self) -> TimeZone {
        TimeZone::get(&self.time_zone).unwrap_or(TimeZone::UTC)
    }

    /// How segments are written.
    #[must_use]
    pub fn segment_options(&self) -> SegmentOptions {
        SegmentOptions {
            level: self.level,
            frame_bytes: self.frame_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn months_are_the_calendars() {
        let half_a_year = Age::months(6);
        assert_eq!(
            half_a_year.before(at("2026-08-31T10:00:00Z"), &TimeZone::UTC),
            at("2026-02-28T10:00:00Z")
        );
        // The clock changed in between: the same hour of the day, not the same number of hours.
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(
            half_a_year.before(at("2026-07-15T10:00:00Z"), &berlin),
            at("2026-01-15T11:00:00Z")
        );
    }

    #[test]
    fn ages_are_written_as_people_write_them() {
        let shown = |text: &str| text.parse::<Age>().map(|age| age.to_string());
        assert_eq!(shown("6 months"), Ok("6 months".into()));
        assert_eq!(shown("6months"), Ok("6 months".into()));
        assert_eq!(shown("1 year 6 months"), Ok("1 year 6 months".into()));
        assert_eq!(shown("90 days"), Ok("90 days".into()));
        for bad in [
            "",
            "5s",
            "soon",
            "-6 months",
            "0 days",
            "6",
            "months",
            "6 months 5 minutes",
        ] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_month_may_have_28_days() {
        let age = |text: &str| text.parse::<Age>().unwrap();
        let days = |n: u64| Span::secs(n * 86_400);
        assert!(age("30 days").is_at_least(days(30)) && !age("30 days").is_at_least(days(31)));
        assert!(age("1 month").is_at_least(days(28)) && !age("1 month").is_at_least(days(29)));
        assert!(age("1 year").is_at_least(days(365)));
        assert!(!age("1 year").is_at_least(Span(std::time::Duration::MAX)));
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        assert_eq!(ArchiveSettings::default().check(), []);
        let wrong = ArchiveSettings {
            time_zone: "Atlantis".into(),
            schedule: "nightly".into(),
            retain: Some("100 days".parse().unwrap()),
            level: 0,
            frame_bytes: 1,
            segment_bytes: 1,
            delete_batch: 0,
            busy_share: 0,
            max_threads_running: 0,
            lease: Span::secs(1),
            max_reads: 0,
            gc_grace: Span::secs(1),
            ..ArchiveSettings::default()
        };
        assert_eq!(wrong.check().len(), 12, "{:?}", wrong.check());
    }
}
