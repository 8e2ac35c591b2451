//! JSON that is stored and answered as it came.

use std::fmt;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// JSON kept as text: checked once when it comes in, never parsed on the way out.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// Takes text that was JSON when it was stored.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// JSON that stands in the program's text.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a literal")]
    pub(crate) fn literal(text: &'static str) -> Self {
        Self::parse(text.to_owned()).expect("JSON")
    }

    /// The JSON text without white space between its tokens, and so without line ends.
    #[must_use]
    pub fn compact(&self) -> String {
        let (mut compact, mut in_string, mut escaped) = (String::new(), false, false);
        compact.reserve(self.get().len());
        for c in self.get().chars() {
            if !in_string && matches!(c, ' ' | '\n' | '\r' | '\t') {
                continue;
            }
            in_string ^= c == '"' && !escaped;
            escaped = in_string && c == '\\' && !escaped;
            compact.push(c);
        }
        compact
    }

    /// How many objects and lists its innermost value is in, itself counted.
    #[must_use]
    pub fn nesting(&self) -> usize {
        let (mut now, mut most, mut in_string, mut escaped) = (0_usize, 0, false, false);
        for c in self.get().chars() {
            in_string ^= c == '"' && !escaped;
            escaped = in_string && c == '\\' && !escaped;
            match c {
                '{' | '[' if !in_string => now += 1,
                '}' | ']' if !in_string => now -= 1,
                _ => {}
            }
            most = most.max(now);
        }
        most
    }

    /// Whether an escape stands for half a character, a surrogate without the other one: no UTF-8 has that, and strict readers
    /// refuse the whole text.
    #[must_use]
    pub fn has_lone_surrogate(&self) -> bool {
        let mut escapes = self.get().split('\\').skip(1).peekable();
        while let Some(escape) = escapes.next() {
            if escape.is_empty() {
                escapes.next(); // a backslash that is escaped, and what follows it
                continue;
            }
            match unit(escape) {
                Some(0xD800..=0xDBFF) => {
                    let second = escapes.next_if(|next| escape.len() == 5 && unit(next).is_some());
                    if !matches!(second.and_then(unit), Some(0xDC00..=0xDFFF)) {
                        return true;
                    }
                }
                Some(0xDC00..=0xDFFF) => return true,
                _ => {}
            }
        }
        false
    }

    /// The JSON text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// `value` as JSON.
    ///
    /// # Panics
    /// Never for the types in this crate, whose maps have string keys.
    #[must_use]
    pub fn of(value: &impl Serialize) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "serialising plain data with string keys cannot fail"
        )]
        Self(serde_json::value::to_raw_value(value).expect("plain data"))
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

/// Any JSON object: only whether it is one is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnyObject;

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = AnyObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyObject, A::Error> {
                while map.next_entry::<String, IgnoredAny>()?.is_some() {}
                Ok(AnyObject)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Reads a JSON object as `T`. Serde by itself would also take a list of the fields' values for one.
///
/// # Errors
/// When it is no object, or not one of this form.
pub fn from_object<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    match text.trim_ascii_start().starts_with(['{']) {
        true => serde_json::from_str(text),
        false => Err(serde::de::Error::custom("it must be a JSON object")),
    }
}

/// The UTF-16 unit of an escape, whose text begins with `u` and four hexadecimal digits.
fn unit(escape: &str) -> Option<u16> {
    let digits = escape.strip_prefix('u')?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_character_is_found() {
        for (given, is_lone) in [
            (r#"{"a":"\ud83d\ude00 \u00e9 \n"}"#, false),
            (r#"{"a":"\ud83d"}"#, true),
            (r#"{"a":"\ude00"}"#, true),
            (r#"{"a":"\ud83dx\ude00"}"#, true),
            (r#"{"a":"\ud83d\ud83d\ude00"}"#, true),
            (r#"{"a":"\ud83d\n"}"#, true),
            (r#"{"a":"\\ud83d"}"#, false),
            (r#"{"a":"\\\ud83d"}"#, true),
            (r#"{"\uDBFF\uDFFF":1}"#, false),
            (r#"{"\uDFFF":1}"#, true),
        ] {
            let json = RawJson::parse(given.to_owned()).unwrap();
            assert_eq!(json.has_lone_surrogate(), is_lone, "{given}");
        }
    }

    #[test]
    fn nesting_is_counted_outside_of_strings() {
        for (given, nesting) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a[[":"]\"[{"}"#, 1),
            (r#"{"a":[{"b":1}],"c":[[[]]]}"#, 4),
        ] {
            assert_eq!(
                RawJson::parse(given.to_owned()).unwrap().nesting(),
                nesting,
                "{given}"
            );
        }
    }

    #[test]
    fn compact_json_is_the_same_json_on_one_line() {
        for (given, compact) in [
            (
                "{ \"a\" :\n[ 1 , 2.50,\t-0.0e1 ]\r\n}",
                "{\"a\":[1,2.50,-0.0e1]}",
            ),
            (
                r#"{"a b":" \\\" \\\\ ","c": "\\" , "d":null}"#,
                r#"{"a b":" \\\" \\\\ ","c":"\\","d":null}"#,
            ),
            (r#"["é \u0020"]"#, r#"["é \u0020"]"#),
        ] {
            let json = RawJson::parse(given.to_owned()).unwrap();
            assert_eq!(json.compact(), compact);
        }
    }

    #[test]
    fn a_list_is_no_object() {
        #[derive(Debug, Deserialize)]
        struct Point {
            x: u32,
        }
        assert_eq!(from_object::<Point>(r#" {"x":1}"#).unwrap().x, 1);
        assert!(from_object::<Point>("[1]").is_err());
        assert!(serde_json::from_str::<AnyObject>("[]").is_err());
        assert!(serde_json::from_str::<Vec<AnyObject>>(r#"[{"a":[1]},{}]"#).is_ok());
    }
}
