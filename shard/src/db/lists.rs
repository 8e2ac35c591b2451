//! Lists in statements: placeholders, rows of them, and the few sizes that lists have.

use super::Value;

/// Most rows in one statement that writes.
pub(crate) const WRITE_ROWS: usize = 256;

/// `?, ?, ?`: `n` placeholders.
#[must_use]
pub fn placeholders(n: usize) -> String {
    let mut text = "?, ".repeat(n);
    text.truncate(text.len().saturating_sub(2));
    text
}

/// `(?, ?), (?, ?)`: `rows` rows of `columns` placeholders.
#[must_use]
pub fn rows_of(rows: usize, columns: usize) -> String {
    let row = format!("({}), ", placeholders(columns));
    let mut text = row.repeat(rows);
    text.truncate(text.len().saturating_sub(2));
    text
}

/// `(a, b) IN ((?, ?), (?, ?))`: a condition on several columns at once. A server answers it sooner than as many
/// `a = ? AND b = ?` with `OR` between them: a SELECT of 32 pairs by the primary key took MariaDB 10.11 175 µs of processor
/// time instead of 450, one of 128 pairs 750 instead of 1,230.
#[must_use]
pub(crate) fn in_rows<const N: usize>(columns: [&str; N], rows: usize) -> String {
    format!("({}) IN ({{rows}}{})", columns.join(", "), rows_of(rows, N))
}

/// The smallest of 0, 1, 2, 3, 4, 6, 8, 12, 16, 24 … that is at least `n`. Lists in statements are given such sizes by
/// repeating their last entry, so that few statements are prepared.
#[must_use]
pub fn list_size(n: usize) -> usize {
    let power = n.next_power_of_two();
    let between = power / 4 * 3;
    if between >= n { between } else { power }
}

/// `rows` with the last one repeated up to a [`list_size`]: for upserts, which may name a row twice.
pub(crate) fn padded<T>(rows: &[T]) -> impl Iterator<Item = &T> {
    rows.iter()
        .chain(rows.last().into_iter().cycle())
        .take(list_size(rows.len()))
}

/// Repeats the last value up to a [`list_size`].
pub(crate) fn pad(args: &mut Vec<Value<'_>>) {
    if let Some(last) = args.last().copied() {
        args.resize(list_size(args.len()), last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Dialect;

    #[test]
    fn lists_have_as_many_placeholders_as_asked() {
        assert_eq!(placeholders(3), "?, ?, ?");
        assert_eq!(placeholders(0), "");
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 7, 9, 13, 100].map(list_size),
            [0, 1, 2, 3, 4, 6, 8, 12, 16, 128]
        );
        assert_eq!(
            padded(&[1, 2, 3, 4, 5]).copied().collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 5]
        );
        assert_eq!(padded::<u8>(&[]).count(), 0);
        assert_eq!(rows_of(2, 2), "(?, ?), (?, ?)");
        let condition = in_rows(["a", "b"], 2);
        assert_eq!(
            Dialect::MySql.render(&condition),
            "(a, b) IN ((?, ?), (?, ?))"
        );
        assert_eq!(
            Dialect::Sqlite.render(&condition),
            "(a, b) IN (VALUES (?, ?), (?, ?))"
        );
    }
}
