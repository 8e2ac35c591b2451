//! What commands print. The one place that writes to standard output.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::telemetry;

/// How long a service waits for its announcement to be written.
const ANNOUNCEMENT: Duration = Duration::from_secs(1);

/// Nobody reads standard output any more, as after `| head`: the command ends quietly.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output has gone away")]
pub(super) struct ReaderGone;

/// Standard output, which says [`ReaderGone`] when it is closed.
pub(super) struct Stdout(io::Stdout);

/// Standard output.
pub(super) fn stdout() -> Stdout {
    Stdout(io::stdout())
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(tell_apart)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(tell_apart)
    }
}

/// A closed output is told apart from every other pipe that breaks.
fn tell_apart(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(error.kind(), ReaderGone),
        _ => error,
    }
}

/// A line on standard output, or several.
pub(super) fn line(text: impl Display) -> io::Result<()> {
    writeln!(stdout(), "{}", harmless(&text.to_string()))
}

/// `text` without what could command a terminal or show it in another order, each such character escaped: titles, users
/// and errors come from outside. Line ends stay, as lines of several lines have them.
fn harmless(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\n' && c != '\t' && is_command(c))
}

/// `text` from outside as a part of one line.
pub(super) fn inline(text: &str) -> Cow<'_, str> {
    escape(text, is_command)
}

fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn escape(text: &str, unfit: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&unfit) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match unfit(c) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    escaped.into()
}

/// A line on standard output for people who start a service by hand. The service does not depend on it: a reader that is
/// gone, or stands still, keeps it from nothing.
pub(super) fn announce(text: impl Display) {
    let text = text.to_string();
    let (done, written) = mpsc::sync_channel::<()>(1);
    let printing = thread::Builder::new().spawn(move || {
        let _done = done;
        let _ = line(text);
    });
    if printing.is_ok() {
        let _ = written.recv_timeout(ANNOUNCEMENT); // ends with the thread
    }
}

/// A line on standard error. There is nobody to tell when that fails.
pub(super) fn note(text: impl Display) {
    telemetry::note(harmless(&text.to_string()));
}

/// `value` as JSON on standard output.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut stdout = stdout();
    serde_json::to_writer_pretty(&mut stdout, value).map_err(io::Error::from)?;
    writeln!(stdout)?;
    Ok(())
}

/// A table on standard output, its columns as wide as they need to be.
pub(super) fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> io::Result<()> {
    let width = |column: usize| {
        rows.iter()
            .map(|row| inline(&row[column]).chars().count())
            .chain([header[column].len()])
            .max()
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let print = |cells: [&str; COLUMNS]| {
        let cells = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{:width$}", inline(cell)));
        line(cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    print(header)?;
    rows.iter()
        .try_for_each(|row| print(std::array::from_fn(|column| row[column].as_str())))
}

/// `12345678` as `12,345,678`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `73 s`, `12 min`, `3.5 h`.
pub(super) fn span(seconds: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let hours = seconds as f64 / 3600.0;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{hours:.1} h"),
    }
}

/// `512 B`, `3.4 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let of = |unit: u64| bytes as f64 / unit as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", of(1 << 10)),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", of(1 << 20)),
        _ => format!("{:.1} GiB", of(1 << 30)),
    }
}

/// `1 message`, `2,000 messages`.
pub(super) fn counted(number: u64, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", grouped(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(counted(1, "message"), "1 message");
        assert_eq!(counted(0, "message"), "0 messages");
        assert_eq!(counted(2000, "message"), "2,000 messages");
    }

    #[test]
    fn what_comes_from_outside_commands_no_terminal() {
        assert_eq!(inline("caf\u{e9} 日本 👍"), "caf\u{e9} 日本 👍");
        assert_eq!(
            inline("a\nb\u{1b}[2J\u{202e}c"),
            "a\\nb\\u{1b}[2J\\u{202e}c"
        );
        assert_eq!(
            harmless("two\nlines\u{7}\u{9b}31m"),
            "two\nlines\\u{7}\\u{9b}31m"
        );
    }

    #[test]
    fn spans_and_sizes_have_the_unit_that_fits() {
        assert_eq!([span(0), span(119), span(120)], ["0 s", "119 s", "2 min"]);
        assert_eq!([span(7199), span(9000)], ["119 min", "2.5 h"]);
        assert_eq!([bytes(1023), bytes(1536)], ["1023 B", "1.5 KiB"]);
        assert_eq!(bytes(5 << 20), "5.0 MiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (303_896, "303,896"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
