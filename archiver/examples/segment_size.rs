//! Measures the segment format on real messages: size and speed by level and frame size.
//!
//! ```sh
//! zstd -dc messages.jsonl.zst | cargo run --release -p backscroll-archiver --example segment_size
//! ```
//!
//! Reads JSON Lines as `backscroll import` does (`channel`, `user`, `at`, `text` …) from standard input. "Page" is the
//! time to get one page of history out of a frame that was fetched: digest, unpack, parse. The last lines are of the terms of a
//! segment with these messages, which searches use.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, BufRead as _, Write as _};
use std::time::{Duration, Instant};

use backscroll_archiver::object_store::ObjectKey;
use backscroll_archiver::segment::reader::Frame;
use backscroll_archiver::segment::writer::{FinishedFrame, SegmentOptions, SegmentWriter};
use backscroll_archiver::segment::{IndexEntry, SegmentHeader};
use backscroll_archiver::terms::reader::{Directory, Section};
use backscroll_archiver::terms::writer::TermsWriter;
use backscroll_shard::archive::{Generation, SegmentId};
use backscroll_shard::ids::{ConversationId, Rev, Seq, UserKey};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::{HistoryRecord, RawJson, Timestamp};

type Failure = Box<dyn Error>;
type Conversations = BTreeMap<String, Vec<StoredMessage>>;

fn main() -> Result<(), Failure> {
    let conversations = read_messages()?;
    let messages: usize = conversations.values().map(Vec::len).sum();
    let text: usize = conversations
        .values()
        .flatten()
        .map(|message| message.content.len())
        .sum();
    if messages == 0 {
        return Err("no messages on standard input".into());
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{messages} messages, {:.1} B of text each",
        per(text, messages)
    )?;
    writeln!(
        out,
        "level  frame KiB  B/message  write msg/s  read msg/s  page ms  frames"
    )?;
    for (level, frame_kib) in [
        (3, 128),
        (6, 128),
        (9, 128),
        (12, 128),
        (9, 32),
        (9, 64),
        (9, 256),
        (19, 128),
    ] {
        let options = SegmentOptions {
            level,
            frame_bytes: frame_kib << 10,
        };
        let measured = measure(&conversations, options)?;
        writeln!(
            out,
            "{level:>5}  {frame_kib:>9}  {:>9.2}  {:>11.0}  {:>10.0}  {:>7.2}  {:>6}",
            per(measured.bytes, messages),
            rate(messages, measured.writing),
            rate(messages, measured.reading),
            measured.reading.as_secs_f64() * 1000.0 / to_f64(measured.frames),
            measured.frames,
        )?;
    }
    let options = SegmentOptions::default();
    let (segment, terms) = (
        measure(&conversations, options)?,
        measure_terms(&conversations, options)?,
    );
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / to_f64(messages);
    writeln!(
        out,
        "terms: {:.2} B/message, {:.2} us/message beside {:.2} for the segment; {} sections, {} terms",
        per(terms.bytes, messages),
        micros(terms.writing),
        micros(segment.writing),
        terms.sections,
        terms.terms,
    )?;
    Ok(())
}

struct MeasuredTerms {
    bytes: usize,
    sections: usize,
    terms: usize,
    writing: Duration,
}

fn measure_terms(
    conversations: &Conversations,
    options: SegmentOptions,
) -> Result<MeasuredTerms, Failure> {
    let header = SegmentHeader {
        name: ObjectKey::new("measured.jsonl.zst")?,
        generation: Generation(1),
        created_at: Timestamp::now(),
    };
    let id = SegmentId::random();
    let mut segment = SegmentWriter::new(&header, options)?;
    let mut terms = TermsWriter::new(id)?;
    let mut writing = Duration::ZERO;
    for (low, messages) in (0..).zip(conversations.values()) {
        let conversation = ConversationId::new(UserKey(0x9e37_79b9_7f4a_7c15), low);
        for message in messages {
            let frame = segment.push(conversation, message)?;
            let begun = Instant::now();
            terms.add(message);
            if let Some(entry) = frame.as_ref().and_then(|frame| frame.entries.first()) {
                terms.end_frame(entry.frame.offset)?;
            }
            writing += begun.elapsed();
        }
    }
    let last = segment.finish()?;
    let begun = Instant::now();
    if let Some(entry) = last.entries.first() {
        terms.end_frame(entry.frame.offset)?;
    }
    let bytes = terms.finish()?;
    writing += begun.elapsed();
    let directory = Directory::read(id, &bytes[..Directory::size(id, &bytes)?])?;
    let mut count = 0;
    for entry in directory.sections() {
        let range = usize::try_from(entry.range().start)?..usize::try_from(entry.range().end)?;
        count += Section::read(id, entry, &bytes[range])?.terms().count();
    }
    Ok(MeasuredTerms {
        bytes: bytes.len(),
        sections: directory.sections().len(),
        terms: count,
        writing,
    })
}

fn read_messages() -> Result<Conversations, Failure> {
    let mut conversations = Conversations::new();
    for line in io::stdin().lock().lines() {
        let record: HistoryRecord = serde_json::from_str(&line?)?;
        let messages = conversations.entry(record.channel).or_default();
        let seq = Seq(messages.len() as u64 + 1);
        let json = |value: Option<RawJson>| value.map(|value| value.get().to_owned());
        messages.push(StoredMessage {
            seq,
            rev: Rev(seq.0 + 1),
            sender: record.user,
            client_msg_id: None,
            body_digest: None,
            message_type: record.message_type,
            content: record.text,
            reply_to: record.reply_to,
            attachments: json(record.attachments),
            reactions: json(record.reactions),
            metadata: json(record.metadata),
            edit_history: None,
            created_at: Timestamp(record.at),
            edited_at: record.edited_at.map(Timestamp),
            deleted_at: record.deleted_at.map(Timestamp),
            pin: None,
            mentions: None,
        });
    }
    Ok(conversations)
}

struct Measured {
    bytes: usize,
    frames: usize,
    writing: Duration,
    reading: Duration,
}

fn measure(conversations: &Conversations, options: SegmentOptions) -> Result<Measured, Failure> {
    let name = ObjectKey::new("measured.jsonl.zst")?;
    let header = SegmentHeader {
        name: name.clone(),
        generation: Generation(1),
        created_at: Timestamp::now(),
    };
    let begun = Instant::now();
    let (mut bytes, mut entries) = (Vec::new(), Vec::<IndexEntry>::new());
    let mut take = |frame: FinishedFrame| {
        bytes.extend_from_slice(&frame.bytes);
        entries.extend(frame.entries);
    };
    let mut writer = SegmentWriter::new(&header, options)?;
    for (low, messages) in (0..).zip(conversations.values()) {
        let conversation = ConversationId::new(UserKey(0x9e37_79b9_7f4a_7c15), low);
        for message in messages {
            writer
                .push(conversation, message)?
                .into_iter()
                .for_each(&mut take);
        }
    }
    take(writer.finish()?);
    let writing = begun.elapsed();

    let begun = Instant::now();
    let mut read = Vec::new();
    let mut frames = 0;
    for of_one_frame in entries.chunk_by(|a, b| a.frame == b.frame) {
        let location = of_one_frame[0].frame;
        let start = usize::try_from(location.offset)?;
        let frame = Frame::read(
            &name,
            &location,
            &bytes[start..start + location.length as usize],
        )?;
        for entry in of_one_frame {
            let run = frame.run(entry.conversation, entry.first_seq, entry.last_seq);
            read.push(run.map_or(0, <[StoredMessage]>::len));
        }
        frames += 1;
    }
    let reading = begun.elapsed();
    if read.iter().sum::<usize>() != conversations.values().map(Vec::len).sum::<usize>() {
        return Err("not every message was read back".into());
    }
    Ok(Measured {
        bytes: bytes.len(),
        frames,
        writing,
        reading,
    })
}

fn to_f64(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

fn per(number: usize, of: usize) -> f64 {
    to_f64(number) / to_f64(of)
}

fn rate(number: usize, time: Duration) -> f64 {
    to_f64(number) / time.as_secs_f64()
}
