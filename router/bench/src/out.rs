//! Everything the program prints: results to standard output, progress to standard error.

use std::fmt;
use std::io::Write;

/// Writes a line of the result. A reader that went away is no error of ours.
pub fn line(text: impl fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Tells what is going on.
pub fn progress(text: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
