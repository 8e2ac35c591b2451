//! The beginning of a WhatsApp line: the date and time as the phone writes them, in the order that its language has.

use clap::ValueEnum;
use jiff::civil::DateTime;

/// In which order a date has its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli::import) enum DateOrder {
    /// 31.12.20
    Dmy,
    /// 12/31/20
    Mdy,
    /// 2020-12-31
    Ymd,
}

/// A date and time whose order is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    parts: [i16; 3],
    is_year_first: bool,
    time: (i8, i8, i8),
}

/// The line's time and the rest of it; none when the line goes on with the message before.
pub(super) fn split(line: &str) -> Option<(Written, &str)> {
    let bracketed = line.strip_prefix('[');
    let (when, rest) = match bracketed {
        Some(line) => line.split_once(']')?,
        None => line.split_once(" - ")?,
    };
    if when.len() > 40 {
        return None;
    }
    let when: String = when
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .collect();
    let (date, time) = when.split_once([',', ' '])?;
    Some((
        Written::of(date, time.trim_start_matches([',', ' ']))?,
        rest.strip_prefix(' ').unwrap_or(rest),
    ))
}

impl Written {
    fn of(date: &str, time: &str) -> Option<Self> {
        let separator = date.chars().find(|c| !c.is_ascii_digit())?;
        if !matches!(separator, '.' | '/' | '-') {
            return None;
        }
        let texts: Vec<&str> = date.trim_end_matches('.').split(separator).collect();
        let [first, second, third] = texts.as_slice() else {
            return None;
        };
        let number = |text: &str| {
            (text.len() <= 4)
                .then(|| text.parse::<i16>().ok())
                .flatten()
        };
        let parts = [number(first)?, number(second)?, number(third)?];
        Some(Self {
            parts,
            is_year_first: first.len() == 4,
            time: clock(time)?,
        })
    }

    /// Which orders its numbers allow.
    fn allows(&self, order: DateOrder) -> bool {
        self.at(order).is_some()
    }

    fn at(&self, order: DateOrder) -> Option<DateTime> {
        let [a, b, c] = self.parts;
        let (year, month, day) = match order {
            DateOrder::Ymd => (a, b, c),
            DateOrder::Mdy => (c, a, b),
            DateOrder::Dmy => (c, b, a),
        };
        if self.is_year_first != (order == DateOrder::Ymd) && (self.is_year_first || a > 99) {
            return None;
        }
        let year = if year < 100 { 2000 + year } else { year };
        let (month, day) = (i8::try_from(month).ok()?, i8::try_from(day).ok()?);
        let (hour, minute, second) = self.time;
        DateTime::new(year, month, day, hour, minute, second, 0).ok()
    }

    /// The time in a given order.
    ///
    /// # Errors
    /// When there is no such day.
    pub(super) fn read(&self, order: DateOrder) -> Result<DateTime, String> {
        let [a, b, c] = self.parts;
        let fault = || format!("there is no day {a} {b} {c} in the order {order:?}");
        self.at(order).ok_or_else(fault)
    }
}

/// `9:15 PM`, `21:15:03`, `9.15 p.m.`
fn clock(text: &str) -> Option<(i8, i8, i8)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, ':' | '.'));
    let (digits, half) = text.split_at(end.unwrap_or(text.len()));
    let mut parts = digits
        .trim_end_matches('.')
        .split([':', '.'])
        .map(|part| part.parse::<i8>().ok());
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    let half: String = half.chars().filter(char::is_ascii_alphabetic).collect();
    let hour = match (half.to_ascii_lowercase().as_str(), hour) {
        ("", hour) => hour,
        ("am", 12) => 0,
        ("pm", 12) => 12,
        ("am", hour) => hour,
        ("pm", hour) => hour.checked_add(12)?,
        _ => return None,
    };
    let is_time = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second);
    (is_time && parts.next().is_none()).then_some((hour, minute, second))
}

/// The order that all of these dates are in.
///
/// # Errors
/// When they allow more than one, or none.
pub(super) fn order(all: impl Iterator<Item = Written>) -> Result<DateOrder, String> {
    let mut left = vec![DateOrder::Dmy, DateOrder::Mdy];
    for written in all {
        if written.is_year_first {
            left = vec![DateOrder::Ymd];
        }
        left.retain(|order| written.allows(*order));
    }
    match left.as_slice() {
        [one] => Ok(*one),
        [] => Err("its dates are in no one order of day, month and year".into()),
        _ => Err("every date could have the day or the month first; say which: --date-order dmy or --date-order mdy".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_phones_write_them() {
        for (line, order, time) in [
            (
                "12/31/20, 9:15 PM - A: x",
                DateOrder::Mdy,
                "2020-12-31T21:15:00",
            ),
            (
                "12/31/20, 12:05\u{202f}AM - A: x",
                DateOrder::Mdy,
                "2020-12-31T00:05:00",
            ),
            (
                "[31.12.20, 21:15:03] A: x",
                DateOrder::Dmy,
                "2020-12-31T21:15:03",
            ),
            (
                "[2020-12-31, 9:15:03\u{a0}p.m.] A: x",
                DateOrder::Ymd,
                "2020-12-31T21:15:03",
            ),
            (
                "31/12/2020 21:15 - A: x",
                DateOrder::Dmy,
                "2020-12-31T21:15:00",
            ),
            (
                "31-12-2020 21.15 - A: x",
                DateOrder::Dmy,
                "2020-12-31T21:15:00",
            ),
        ] {
            let (written, rest) = split(line).unwrap();
            assert_eq!(
                (written.read(order).unwrap().to_string().as_str(), rest),
                (time, "A: x")
            );
            assert_eq!(super::order([written].into_iter()), Ok(order), "{line}");
        }
        for line in [
            "hello",
            "a - b",
            "1/2/3 - x",
            "[note] x",
            "99:99 - x",
            "1/1/20, 25:00 - x",
            "",
        ] {
            assert_eq!(split(line), None, "{line}");
        }
    }

    #[test]
    fn an_order_is_known_or_asked_for() {
        let of = |lines: &[&str]| order(lines.iter().map(|line| split(line).unwrap().0));
        assert!(
            of(&["1/2/20, 9:15 - x", "3/3/20, 9:15 - x"])
                .unwrap_err()
                .contains("--date-order")
        );
        assert_eq!(
            of(&["1/2/20, 9:15 - x", "13/3/20, 9:15 - x"]),
            Ok(DateOrder::Dmy)
        );
        assert!(
            of(&["1/13/20, 9:15 - x", "13/3/20, 9:15 - x"])
                .unwrap_err()
                .contains("no one order")
        );
    }
}
