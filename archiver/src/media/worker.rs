//! The process that decodes pictures: `backscroll media-worker`, started and ended by [`super::processing`].
//!
//! It reads tasks from its standard input and answers each on its standard output, until its input ends. A frame is its length
//! as four bytes, the first of which counts most, then so many bytes; a task is a frame of JSON and one with the picture, an answer
//! one of JSON and one for each form that was made.
//!
//! The process has no configuration and no secrets, only so much memory (`RLIMIT_AS`), and yields to others (`nice`). It ends with
//! the one that started it. A crash leaves nothing: the picture is still in its queue.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use backscroll_shard::model::MediaVariant;
use rustix::process::{Resource, Rlimit, Signal, nice, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};

use super::thumbnails::{self, Failure, Made, Task};

/// Most bytes of a frame of JSON.
pub(super) const JSON_BYTES: u64 = 64 << 10;
/// Most bytes of a frame with a form that was made: far more than the pixels of the largest one.
pub(super) const FORM_BYTES: u64 = 16 << 20;
/// Most bytes of a frame with a picture.
const PICTURE_BYTES: u64 = 256 << 20;
/// How far workers step back for what serves requests.
const NICE: i32 = 10;
/// What is assumed to be mapped already where the system does not say.
const ASSUMED_MAPPED: u64 = 256 << 20;

/// How to start a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Its arguments, the memory that it may take left out: that is the last one.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// The program at `path`, which is this one.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: vec!["media-worker".into()],
        }
    }

    /// The running program, even if its file was replaced.
    #[must_use]
    pub fn own() -> Self {
        Self::at("/proc/self/exe")
    }
}

/// The frame of JSON of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// The placeholder, and the forms whose frames follow.
    Made(String, Vec<MediaVariant>),
    Failed(Failure),
}

/// Works on what comes from `input` until that ends, with at most `memory` bytes more than the process has now.
///
/// # Errors
/// When the limits cannot be set, the input is not as described above, or nobody reads the answers.
pub fn serve(mut input: impl Read, mut output: impl Write, memory: u64) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    nice(NICE)?;
    let most = mapped_bytes().saturating_add(memory);
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    setrlimit(Resource::As, limit)?;
    while let Some(task) = read_frame(&mut input, JSON_BYTES)? {
        let task: Task = serde_json::from_slice(&task)?;
        let content = read_frame(&mut input, PICTURE_BYTES)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let making = AssertUnwindSafe(|| thumbnails::make(&task, &content));
        let made = catch_unwind(making).unwrap_or(Err(Failure::Crashed));
        answer(&mut output, made)?;
    }
    Ok(())
}

fn answer(output: &mut impl Write, made: Result<Made, Failure>) -> io::Result<()> {
    let (reply, forms) = match made {
        Err(failure) => (Reply::Failed(failure), Vec::new()),
        Ok(made) => {
            let (described, forms) = made.variants.into_iter().unzip();
            (Reply::Made(made.placeholder, described), forms)
        }
    };
    write_frame(output, &serde_json::to_vec(&reply)?)?;
    for form in forms {
        write_frame(output, &form)?;
    }
    output.flush()
}

/// The bytes of a frame's length.
pub(super) fn length_of(content: &[u8]) -> io::Result<[u8; 4]> {
    let length = u32::try_from(content.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(length.to_be_bytes())
}

fn write_frame(output: &mut impl Write, content: &[u8]) -> io::Result<()> {
    output.write_all(&length_of(content)?)?;
    output.write_all(content)
}

/// `None` at the end of the input.
fn read_frame(input: &mut impl Read, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length);
    if u64::from(length) > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = vec![0; length as usize];
    input.read_exact(&mut content)?;
    Ok(Some(content))
}

/// The address space that the process takes already.
fn mapped_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kibibytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.map_or(ASSUMED_MAPPED, |kibibytes| kibibytes << 10)
}
