//! How often something is allowed, as it is written in the configuration.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::settings::Span;

/// So many times in a period, evenly, and so many at once: `"60 per 1m, burst 20"`. Without a burst it is as large as the count.
/// `"off"` is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Span,
    burst: u32,
}

/// The form of a rate.
const FORM: &str =
    "a rate as \"60 per 1m, burst 20\" (1 to 1,000,000 in at most 30 days), or \"off\"";
/// The longest period.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// The largest count and burst.
const MOST: u32 = 1_000_000;

impl Rate {
    /// `count` times in `per`, `burst` of them at once.
    #[must_use]
    pub const fn new(count: u32, per: Span, burst: u32) -> Self {
        Self { count, per, burst }
    }

    /// No bound.
    #[must_use]
    pub const fn off() -> Self {
        Self::new(0, Span::secs(0), 0)
    }

    /// Whether there is no bound.
    #[must_use]
    pub fn is_off(self) -> bool {
        self.count == 0
    }

    /// How long it takes until one more is allowed.
    #[must_use]
    pub fn interval(self) -> Duration {
        self.per.0 / self.count.max(1)
    }

    /// Most at once.
    #[must_use]
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// How long a budget that is used up takes to be whole again.
    #[must_use]
    pub fn window(self) -> Duration {
        self.interval() * self.burst
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(Self::off());
        }
        let (count, rest) = text.split_once(" per ")?;
        let (per, burst) = match rest.split_once(", burst ") {
            Some((per, burst)) => (per, burst),
            None => (rest, count),
        };
        let number = |text: &str| {
            let number = text.trim().parse().ok();
            number.filter(|number| (1..=MOST).contains(number))
        };
        let per = serde_json::from_value::<Span>(per.into()).ok()?;
        let sane = per.0 > Duration::ZERO && per.0 <= LONGEST;
        sane.then_some(Self::new(number(count)?, per, number(burst)?))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_off() {
            return f.write_str("off");
        }
        write!(f, "{} per {}", self.count, self.per)?;
        if self.burst != self.count {
            write!(f, ", burst {}", self.burst)?;
        }
        Ok(())
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

/// Reads a rate's text.
struct Text;

impl de::Visitor<'_> for Text {
    type Value = Rate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORM)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Rate, E> {
        let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
        Rate::parse(text).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_as_people_write_them() {
        let rate = Rate::new(60, Span::secs(60), 20);
        assert_eq!(rate.to_string(), "60 per 1m, burst 20");
        for text in ["60 per 1m, burst 20", "5 per 1h", "off", "1000 per 1 day"] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Rate::parse("60 per 1 minute, burst 20"), Some(rate));
        for text in [
            "",
            "60",
            "60/min",
            "0 per 1m",
            "5 per 0s",
            "5 per 1h, burst 0",
            "5 per 90 days",
        ] {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
    }
}
