//! What is wrong with settings whose values have their types. Everything wrong is reported, not the first.

use std::fmt::{self, Display};

/// Something wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dotted key, as in `pool.max_connections`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// The problems, each as a line of text.
#[must_use]
pub fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Collects what is wrong with the settings of a section.
#[derive(Debug)]
pub struct Check {
    section: &'static str,
    problems: Vec<Problem>,
}

impl Check {
    /// Of the section with this name. Keys are given without it.
    #[must_use]
    pub fn of(section: &'static str) -> Self {
        Self {
            section,
            problems: Vec::new(),
        }
    }

    /// Of several sections. Keys are given whole.
    #[must_use]
    pub fn of_all() -> Self {
        Self::of("")
    }

    /// Reports that something is wrong with `key`.
    pub fn report(&mut self, key: impl Display, what: impl Into<String>) {
        let key = match self.section {
            "" => key.to_string(),
            section => format!("{section}.{key}"),
        };
        let what = what.into();
        self.problems.push(Problem { key, what });
    }

    /// Reports `what` unless `is_right`.
    pub fn require(&mut self, key: impl Display, is_right: bool, what: impl Into<String>) {
        if !is_right {
            self.report(key, what);
        }
    }

    /// Reports a value outside these bounds, both of which are allowed.
    pub fn within<T: PartialOrd + Display + Copy>(
        &mut self,
        key: impl Display,
        value: T,
        least: T,
        most: T,
    ) {
        if value < least || value > most {
            self.report(key, format!("{value} is not between {least} and {most}"));
        }
    }

    /// What was reported, in order.
    #[must_use]
    pub fn finish(self) -> Vec<Problem> {
        self.problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Span;

    #[test]
    fn problems_name_their_keys() {
        let mut check = Check::of("pool");
        check.within("max_connections", 0, 1, 9);
        check.within("max_connections", 9, 1, 9);
        check.within(
            "lock_timeout",
            Span::millis(5),
            Span::secs(1),
            Span::secs(2),
        );
        check.require("url", false, "is empty");
        check.require("url", true, "is empty");
        assert_eq!(
            lines(&check.finish()),
            [
                "pool.max_connections: 0 is not between 1 and 9",
                "pool.lock_timeout: 5ms is not between 1s and 2s",
                "pool.url: is empty"
            ]
        );
        let mut check = Check::of_all();
        check.report("shards", "is empty");
        assert_eq!(lines(&check.finish()), ["shards: is empty"]);
    }
}
