//! What a scenario reports: spreads over rounds, latencies, verdicts, and how they are printed.
//!
//! No figure is a promise: every number printed was measured in the run that prints it, and a goal is either met or not.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The median of several rounds, and how far apart they were.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; of an even number, the mean of the middle two.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// Over `values`; all zero when there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        if n == 0 {
            return Self {
                median: 0.0,
                min: 0.0,
                max: 0.0,
            };
        }
        Self {
            median: f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]),
            min: sorted[0],
            max: sorted[n - 1],
        }
    }
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half were at most this.
    pub p50: f64,
    /// 90 % were at most this.
    pub p90: f64,
    /// 99 % were at most this.
    pub p99: f64,
    /// 99.9 % were at most this.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// Of a histogram of microseconds.
    #[must_use]
    pub fn of(micros: &Histogram<u64>) -> Self {
        Self::scaled(micros, 1e3)
    }

    /// Of a histogram of nanoseconds.
    #[must_use]
    pub fn of_nanoseconds(nanos: &Histogram<u64>) -> Self {
        Self::scaled(nanos, 1e6)
    }

    fn scaled(histogram: &Histogram<u64>, per_millisecond: f64) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / per_millisecond;
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / per_millisecond,
        }
    }

    /// The cells of a table row, in the order of [`Latency::COLUMNS`].
    #[must_use]
    pub fn cells(&self) -> Vec<String> {
        [self.p50, self.p90, self.p99, self.p999, self.max]
            .iter()
            .map(|ms| milliseconds(*ms))
            .collect()
    }

    /// The headings of [`Latency::cells`].
    pub const COLUMNS: [&str; 5] = ["p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"];
}

/// One kind of read that was measured one at a time, in several rounds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reading {
    /// The median of each round, in milliseconds.
    pub p50: Spread,
    /// Of all rounds.
    pub latency: Latency,
}

impl Reading {
    /// The table of such reads, each with its name.
    #[must_use]
    pub fn table<'a>(readings: impl IntoIterator<Item = (&'a str, &'a Self)>) -> Table {
        let mut table =
            Table::with_latencies(["one at a time", "count", "lowest p50", "highest p50"]);
        for (name, reading) in readings {
            let Self { p50, latency } = reading;
            let mut cells = vec![thousands(latency.count as f64)];
            cells.extend([p50.min, p50.max].map(milliseconds));
            cells.extend(latency.cells());
            table.row(name, cells);
        }
        table
    }
}

/// Milliseconds with as many decimals as mean something.
#[must_use]
pub fn milliseconds(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.3}")
    } else {
        format!("{ms:.1}")
    }
}

/// A whole number with thousands apart.
#[must_use]
pub fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A goal, and whether it was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What was asked.
    pub goal: String,
    /// What came out.
    pub measured: String,
    /// Whether that is good enough.
    pub met: bool,
}

impl Verdict {
    /// A verdict.
    #[must_use]
    pub fn new(goal: impl Into<String>, measured: impl Into<String>, met: bool) -> Self {
        Self {
            goal: goal.into(),
            measured: measured.into(),
            met,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<4} {}: {}",
            if self.met { "MET" } else { "MISS" },
            self.goal,
            self.measured
        )
    }
}

/// A table for people: the first column to the left, the others to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new<'a>(headings: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            rows: vec![headings.into_iter().map(str::to_owned).collect()],
        }
    }

    /// A table with these headings, and those of [`Latency::cells`] after them.
    #[must_use]
    pub fn with_latencies<'a>(headings: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(headings.into_iter().chain(Latency::COLUMNS))
    }

    /// Adds a row: its name, then its cells.
    pub fn row(&mut self, name: impl Into<String>, cells: impl IntoIterator<Item = String>) {
        let mut row = vec![name.into()];
        row.extend(cells);
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell_width = |row: &Vec<String>, column: usize| {
            row.get(column).map_or(0, |cell| cell.chars().count())
        };
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows
                    .iter()
                    .map(|row| cell_width(row, column))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let mut line = String::from(" ");
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                line.push_str(&if column == 0 {
                    format!(" {cell:<width$}")
                } else {
                    format!("  {cell:>width$}")
                });
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_rounds() {
        assert_eq!(
            Spread::of(&[3.0, 1.0, 2.0]),
            Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            }
        );
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of(&[]).max, 0.0);
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(milliseconds(0.12345), "0.123");
        assert_eq!(milliseconds(12.345), "12.3");
    }

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(["", "a", "bb"]);
        table.row("first", ["1".into(), "22".into()]);
        table.row("x", ["1000".into()]);
        assert_eq!(
            table.to_string(),
            "            a  bb\n  first     1  22\n  x      1000\n"
        );
    }
}
