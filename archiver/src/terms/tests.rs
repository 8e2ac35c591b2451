//! What is written is what is read, and what a frame has is found there.

use std::collections::BTreeSet;

use backscroll_shard::archive::SegmentId;
use backscroll_shard::ids::{Rev, Seq, UserId};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::{MessageType, Timestamp};
use backscroll_shard::search::terms::Pieces;
use bytes::Bytes;
use proptest::prelude::*;

use super::reader::{Directory, Section};
use super::writer::TermsWriter;
use super::{DIRECTORY_STEP, all_terms_keys, segment_of_terms, terms_key};
use crate::object_store::ObjectKey;
use crate::segment::{object_key, segment_of};

fn segment() -> SegmentId {
    SegmentId::parse(&"5a".repeat(16)).unwrap()
}

fn message(content: &str) -> StoredMessage {
    StoredMessage {
        seq: Seq(1),
        rev: Rev(1),
        sender: UserId::new("alice").unwrap(),
        client_msg_id: None,
        body_digest: None,
        message_type: MessageType::Text,
        content: content.into(),
        reply_to: None,
        attachments: None,
        reactions: None,
        metadata: None,
        edit_history: None,
        created_at: Timestamp(1),
        edited_at: None,
        deleted_at: None,
        pin: None,
        mentions: None,
    }
}

/// The terms of frames with one message each, a hundred bytes apart.
fn written(texts: &[impl AsRef<str>]) -> Bytes {
    let mut writer = TermsWriter::new(segment()).unwrap();
    for (text, place) in texts.iter().zip(1..) {
        writer.add(&message(text.as_ref()));
        writer.end_frame(place * 100).unwrap();
    }
    writer.finish().unwrap()
}

fn directory(bytes: &Bytes) -> Directory {
    let size = Directory::size(segment(), &bytes[..DIRECTORY_STEP]).unwrap();
    Directory::read(segment(), &bytes[..size]).unwrap()
}

fn sections(bytes: &Bytes) -> Vec<Section> {
    let read = |entry: &super::SectionEntry| {
        let range = entry.range();
        let (from, to) = (range.start as usize, range.end as usize);
        Section::read(segment(), entry, &bytes[from..to]).unwrap()
    };
    directory(bytes).sections().iter().map(read).collect()
}

fn frames_with(bytes: &Bytes, q: &str) -> Vec<u64> {
    let pieces = Pieces::of(q);
    let sections = sections(bytes);
    let frames = sections.iter().flat_map(|it| it.frames_with(&pieces));
    frames.map(|offset| offset / 100).collect()
}

#[test]
fn frames_are_found_by_parts_of_words() {
    let bytes = written(&["Grüße aus Köln", "nothing", "KOLN again", "東京タワー", ""]);
    for (q, expected) in [
        ("köln", vec![1, 3]),
        ("oln", vec![1, 3]),
        ("aus koln", vec![1]),
        ("aus again", vec![]),
        ("absent", vec![]),
        ("京タ", vec![4]),
        ("タ", vec![4]),
        ("京都", vec![]),
        ("n", vec![1, 2, 3]),
    ] {
        assert_eq!(frames_with(&bytes, q), expected, "{q}");
    }
}

#[test]
fn deleted_messages_have_no_terms() {
    let mut writer = TermsWriter::new(segment()).unwrap();
    let mut deleted = message("secret");
    deleted.deleted_at = Some(Timestamp(2));
    writer.add(&deleted);
    writer.add(&message("public"));
    writer.end_frame(100).unwrap();
    let sections = sections(&writer.finish().unwrap());
    assert_eq!(sections[0].terms().collect::<Vec<_>>(), ["public"]);
}

#[test]
fn many_frames_are_in_several_sections() {
    let texts: Vec<String> = (1..=150).map(|n| format!("word{n} every")).collect();
    let bytes = written(&texts);
    let directory = directory(&bytes);
    assert_eq!(directory.sections().len(), 3);
    assert_eq!(directory.section_of(100), Some(0));
    assert_eq!(directory.section_of(6400), Some(0));
    assert_eq!(directory.section_of(6500), Some(1));
    assert_eq!(directory.section_of(15_000), Some(2));
    assert_eq!(directory.section_of(15_100), None);
    assert_eq!(frames_with(&bytes, "word149"), [149]);
    assert_eq!(frames_with(&bytes, "ever").len(), 150);
}

#[test]
fn frames_with_too_many_terms_are_always_read() {
    // One word without end, as programs make them.
    let many: String = (0..20_000).map(|n| format!("{n}")).collect();
    let bytes = written(&[many.as_str(), "few"]);
    assert_eq!(frames_with(&bytes, "absent"), [1]);
    assert_eq!(frames_with(&bytes, "few"), [1, 2]);
    let terms: Vec<String> = sections(&bytes)[0].terms().map(str::to_owned).collect();
    assert_eq!(terms, ["few"]);
}

#[test]
fn plain_tools_show_the_terms() {
    let bytes = written(&["Hello", "World"]);
    let plain = zstd::stream::decode_all(bytes.as_ref()).unwrap();
    assert!(plain.starts_with(b"hello\nworld\n"));
    let nothing: [&str; 0] = [];
    assert_eq!(directory(&written(&nothing)).sections(), []);
}

#[test]
fn whatever_is_changed_is_damage() {
    let bytes = written(&["Hello", "World"]);
    let read = |bytes: &Bytes| {
        let size = Directory::size(segment(), bytes)?;
        let directory = Directory::read(segment(), &bytes[..size.min(bytes.len())])?;
        let entry = directory.sections()[0];
        Section::read(segment(), &entry, &bytes[entry.offset as usize..])
    };
    let right = read(&bytes).unwrap();
    for place in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[place] ^= 0x10;
        match read(&changed.into()) {
            Err(_) => {}
            // Behind the directory, and before the next multiple.
            Ok(section) => assert!(
                section == right && (200..DIRECTORY_STEP).contains(&place)
                    || place > 60 && place < DIRECTORY_STEP
            ),
        }
    }
    let other = SegmentId::parse(&"5b".repeat(16)).unwrap();
    assert!(Directory::read(other, &bytes[..DIRECTORY_STEP]).is_err());
}

#[test]
fn keys_are_made_of_those_of_the_segment() {
    let id = segment();
    let key = terms_key(id);
    let digits = "5a".repeat(16);
    assert_eq!(key.as_str(), format!("archive/5a/{digits}.terms1.zst"));
    assert!(all_terms_keys(id).any(|known| known == key));
    assert_eq!(segment_of_terms(&key), Some(id));
    assert_eq!(segment_of(&key), None);
    assert_eq!(segment_of_terms(&object_key(id)), None);
    let later = ObjectKey::new(format!("archive/5a/{digits}.terms99.zst")).unwrap();
    assert_eq!(segment_of_terms(&later), None);
}

proptest! {
    #[test]
    fn what_a_frame_has_is_found_there(texts in prop::collection::vec("[abcé東京 .]{0,20}", 1..70), from in 0..70_usize, at in 0..20_usize, length in 1..6_usize) {
        let bytes = written(&texts);
        let text = &texts[from % texts.len()];
        let part: String = text.chars().skip(at).take(length).collect();
        let found: BTreeSet<u64> = frames_with(&bytes, &part).into_iter().collect();
        prop_assert!(found.contains(&(from as u64 % texts.len() as u64 + 1)), "{:?} in {:?}", part, text);
    }
}
