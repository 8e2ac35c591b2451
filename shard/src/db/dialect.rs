//! Which SQL is spoken, and a statement in it.
//!
//! The words that a statement may contain are listed at the head of [`crate::db`].

use crate::error::{Error, Result};
use crate::settings::DatabaseUrl;
#[cfg(feature = "steps")]
use crate::steps;

/// Which SQL is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// MySQL and MariaDB.
    MySql,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    /// The dialect that `url` asks for.
    ///
    /// # Errors
    /// When it is neither `mysql://`, `mariadb://` nor `sqlite://`.
    pub fn of(url: &DatabaseUrl) -> Result<Self> {
        match url.0.split_once("://").map(|(scheme, _)| scheme) {
            Some("mysql" | "mariadb") => Ok(Self::MySql),
            Some("sqlite") => Ok(Self::Sqlite),
            _ => Err(Error::invalid(
                "database url",
                format!("`{}` is neither mysql:// nor sqlite://", url.redacted()),
            )),
        }
    }

    /// `template` in this dialect.
    #[must_use]
    pub fn render(self, template: &str) -> String {
        let mut text = String::with_capacity(template.len() + 32);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let Some((word, after)) = after.split_once('}') else {
                break;
            };
            rest = after;
            let (word, argument) = word.split_once(' ').unwrap_or((word, ""));
            match (word, self) {
                ("for_update", Self::MySql) => text.push_str("FOR UPDATE"),
                ("for_share", Self::MySql) => text.push_str("LOCK IN SHARE MODE"),
                ("on_duplicate", Self::MySql) => text.push_str("ON DUPLICATE KEY UPDATE"),
                ("on_duplicate", Self::Sqlite) => {
                    text.extend(["ON CONFLICT (", argument, ") DO UPDATE SET"]);
                }
                ("new", Self::MySql) => text.extend(["VALUES(", argument, ")"]),
                ("new", Self::Sqlite) => text.extend(["excluded.", argument]),
                ("greatest", Self::MySql) => text.push_str("GREATEST"),
                ("greatest", Self::Sqlite) => text.push_str("MAX"),
                ("rows", Self::Sqlite) => text.push_str("VALUES "),
                ("by", Self::MySql) => text.extend(["FORCE INDEX (", argument, ")"]),
                ("signed", Self::MySql) => text.push_str("SIGNED"),
                ("signed", Self::Sqlite) => text.push_str("INTEGER"),
                // Every session is in UTC, so that no hour of its clock is there twice.
                ("now", Self::MySql) => {
                    text.push_str("CAST(ROUND(UNIX_TIMESTAMP(NOW(3)) * 1000) AS SIGNED)");
                }
                #[cfg(feature = "steps")]
                ("now", Self::Sqlite) if let Some(now) = steps::now() => {
                    text.push_str(&now.to_string());
                }
                ("now", Self::Sqlite) => {
                    text.push_str("CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER)");
                }
                ("this_server", Self::MySql) => text.push_str("CONCAT(@@hostname, ':', @@port)"),
                ("this_server", Self::Sqlite) => text.push_str("''"),
                ("part", Self::Sqlite) => text.push_str("SELECT * FROM "),
                ("for_update" | "for_share" | "by", Self::Sqlite)
                | ("rows" | "part", Self::MySql) => {}
                _ => debug_assert!(false, "unknown word {word} in a statement"),
            }
        }
        text.push_str(rest);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_written_once() {
        let statement =
            "INSERT INTO t (a, b) VALUES (?, ?) {on_duplicate a} b = {greatest}(b, {new b})";
        assert_eq!(
            Dialect::MySql.render(statement),
            "INSERT INTO t (a, b) VALUES (?, ?) ON DUPLICATE KEY UPDATE b = GREATEST(b, VALUES(b))"
        );
        assert_eq!(
            Dialect::Sqlite.render(statement),
            "INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT (a) DO UPDATE SET b = MAX(b, excluded.b)"
        );
        assert_eq!(Dialect::Sqlite.render("SELECT 1 {for_update}"), "SELECT 1 ");
    }
}
