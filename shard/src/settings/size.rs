//! Sizes in the configuration: `"64 KiB"`, `"8 MiB"`, `"100 kB"`.
//!
//! A field with `#[serde(with = "size")]` needs a unit. One whose name says that it counts bytes, such as `queue_bytes`,
//! has `#[serde(with = "size")]` and takes a plain number as well.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, Serializer};

/// The units, those first in which sizes are written.
const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// The bytes that `text` names; none when it names no size, or one that is too large.
fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a size in the largest unit that it is a multiple of.
///
/// # Errors
/// As the serializer says.
pub fn serialize<T, S>(size: &T, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Copy + TryInto<u64>,
    S: Serializer,
{
    let bytes = (*size).try_into().unwrap_or(u64::MAX);
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    let (unit, factor) = UNITS.iter().find(fits).unwrap_or(&("B", 1));
    serializer.collect_str(&format_args!("{} {unit}", bytes / factor))
}

/// Reads a size with its unit, or a number of bytes.
///
/// # Errors
/// When it is neither.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_any(Sizes(PhantomData))
}

struct Sizes<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Sizes<T> {
    fn size<E: Error>(&self, bytes: Option<u64>, given: Unexpected<'_>) -> Result<T, E> {
        let size = bytes.and_then(|bytes| T::try_from(bytes).ok());
        size.ok_or_else(|| E::invalid_value(given, self))
    }
}

impl<T: TryFrom<u64>> Visitor<'_> for Sizes<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size with its unit, as \"64 KiB\" or \"8 MiB\", or a number of bytes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.size(parse(text), Unexpected::Str(text))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        let bytes = u64::try_from(number).ok();
        self.size(bytes, Unexpected::Signed(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.size(Some(number), Unexpected::Unsigned(number))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Settings {
        #[serde(with = "super")]
        max_body: usize,
        #[serde(with = "super")]
        queue_bytes: u32,
    }

    fn read(max_body: impl Serialize, queue_bytes: impl Serialize) -> Result<Settings, String> {
        let settings = json!({ "max_body": max_body, "queue_bytes": queue_bytes });
        serde_json::from_value(settings).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_are_written_as_people_write_them() {
        for (text, bytes, written) in [
            ("64 KiB", 65_536, "64 KiB"),
            ("64KiB", 65_536, "64 KiB"),
            (" 1536 KiB ", 1_572_864, "1536 KiB"),
            ("100 kB", 100_000, "100000 B"),
            ("3 MB", 3_000_000, "3000000 B"),
            ("1024 MiB", 1 << 30, "1 GiB"),
            ("0 B", 0, "0 B"),
        ] {
            let settings = read(text, bytes).unwrap();
            let (max_body, queue_bytes) = (bytes as usize, bytes);
            assert_eq!(
                settings,
                Settings {
                    max_body,
                    queue_bytes
                },
                "{text}"
            );
            let dumped = serde_json::to_value(&settings).unwrap();
            assert_eq!(
                dumped,
                json!({ "max_body": written, "queue_bytes": written })
            );
            assert_eq!(read(written, written).unwrap(), settings);
        }
    }

    #[test]
    fn a_number_is_bytes_and_nonsense_is_refused() {
        assert_eq!(read(65536, 1), read("64 KiB", "1 B"));
        for wrong in [
            "64",
            "64 K",
            "64k",
            "KiB",
            "-1 B",
            "1.5 MiB",
            "1 mib",
            "99999999 TiB",
            "",
        ] {
            let refused = read(wrong, 1).unwrap_err();
            assert!(refused.contains("expected a size"), "{wrong}: {refused}");
        }
        let too_many = read("1 B", "8 GiB").unwrap_err();
        assert!(too_many.ends_with("or a number of bytes"), "{too_many}");
        assert!(read("1 B", -1).is_err());
    }
}
