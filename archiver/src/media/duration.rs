//! How long a recording plays: counted from the blocks of its stream. What headers say is not believed, because a browser's
//! recorder leaves it out, and anybody can write anything there.

mod mp4;
mod mpeg;
mod ogg;
mod opus;
mod webm;

use super::bytes::Reader;

/// Milliseconds; `None` when the file is damaged, is not sound alone, or is in a form that is not counted here.
pub(super) fn milliseconds(content_type: &str, content: &[u8]) -> Option<u64> {
    let microseconds = match content_type {
        "audio/ogg" => ogg::microseconds(content),
        "audio/webm" => webm::microseconds(content),
        "audio/mp4" => mp4::microseconds(content),
        "audio/mpeg" => mpeg::microseconds(content),
        "audio/wav" => wav(content),
        _ => None,
    }?;
    Some(microseconds.div_ceil(1000)).filter(|milliseconds| *milliseconds > 0)
}

/// `amount` of something of which there are `rate` in a second.
fn in_microseconds(amount: u64, rate: u64) -> Option<u64> {
    let microseconds = u128::from(amount) * 1_000_000;
    microseconds.checked_div(u128::from(rate))?.try_into().ok()
}

fn wav(content: &[u8]) -> Option<u64> {
    let mut rest = Reader(content.get(12..)?);
    let (mut bytes_a_second, mut data) = (None, 0);
    while !rest.is_empty() {
        let name = rest.take(4)?;
        let length = rest.le(4)?;
        let mut chunk = Reader(rest.take_up_to(length));
        rest.take_up_to(length % 2);
        match name {
            b"fmt " => {
                chunk.take(2)?;
                let (channels, rate) = (chunk.le(2)?, chunk.le(4)?);
                chunk.take(6)?;
                let bits = chunk.le(2)?;
                bytes_a_second = Some(channels * rate * bits / 8);
            }
            b"data" if (chunk.0.len() as u64) < length => return None, // cut off
            b"data" => data += length,
            _ => {}
        }
    }
    in_microseconds(data, bytes_a_second?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet of 20 ms (CELT, one frame), as a recorder writes them.
    const PACKET: [u8; 3] = [31 << 3, 1, 2];

    fn ogg_page(packets: &[&[u8]], granule: u64) -> Vec<u8> {
        let mut page = b"OggS\0\0".to_vec();
        page.extend(granule.to_le_bytes());
        page.extend([0; 12]);
        page.push(u8::try_from(packets.len()).unwrap());
        page.extend(
            packets
                .iter()
                .map(|packet| u8::try_from(packet.len()).unwrap()),
        );
        page.extend(packets.concat());
        page
    }

    fn ogg(pages: usize) -> Vec<u8> {
        let head = b"OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0";
        let mut file = ogg_page(&[head], 0);
        file.extend(ogg_page(&[b"OpusTags\0\0\0\0\0\0\0\0"], 0));
        for _ in 0..pages {
            // The granule position lies.
            file.extend(ogg_page(&[PACKET.as_slice(); 50], 960));
        }
        file
    }

    /// As Chrome writes it: the segment and the clusters without a size, and no duration anywhere.
    fn webm(clusters: u32) -> Vec<u8> {
        let mut file = b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm".to_vec();
        file.extend(b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff");
        file.extend(b"\x16\x54\xae\x6b\x8e\xae\x8c\xd7\x81\x01\x83\x81\x02\x86\x84OPUS");
        for cluster in 0..clusters {
            file.extend(b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff\xe7\x84");
            file.extend((cluster * 1000).to_be_bytes());
            for block in 0u16..50 {
                file.extend(b"\xa3\x87\x81");
                file.extend((block * 20).to_be_bytes());
                file.push(0x80);
                file.extend(PACKET);
            }
        }
        file
    }

    fn wav_of(seconds: u32) -> Vec<u8> {
        let mut file =
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x01\0\0\0\x02\0\x10\0data"
                .to_vec();
        file.extend((16_000 * seconds).to_le_bytes());
        file.resize(file.len() + 16_000 * seconds as usize, 0);
        file
    }

    /// MPEG 1, layer III, 128 kbit/s, 44.1 kHz: 417 bytes for 1,152 samples.
    fn mpeg(frames: usize) -> Vec<u8> {
        let mut frame = vec![0xff, 0xfb, 0x90, 0xc0];
        frame.resize(417, 0);
        let mut file = b"ID3\x04\0\0\0\0\0\x03abc".to_vec();
        file.extend(frame.repeat(frames));
        file
    }

    fn atom(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len() + 8).unwrap();
        [&length.to_be_bytes()[..], name, content].concat()
    }

    fn mp4(handler: &[u8; 4], samples: u32) -> Vec<u8> {
        let mdhd = [
            &[0; 12][..],
            &48_000u32.to_be_bytes(),
            &[0, 0, 0, 1, 0, 0, 0, 0],
        ]
        .concat();
        let hdlr = [&[0; 8][..], handler, &[0; 12]].concat();
        let stts = [0, 1, samples, 1024].map(u32::to_be_bytes).concat();
        let stbl = atom(b"stbl", &atom(b"stts", &stts));
        let mdia = [
            atom(b"mdhd", &mdhd),
            atom(b"hdlr", &hdlr),
            atom(b"minf", &stbl),
        ]
        .concat();
        let moov = atom(b"trak", &atom(b"mdia", &mdia));
        [
            atom(b"ftyp", b"M4A \0\0\0\0"),
            atom(b"moov", &moov),
            atom(b"mdat", b"sound"),
        ]
        .concat()
    }

    fn fragmented(fragments: u32) -> Vec<u8> {
        let mut file = mp4(b"soun", 0);
        let trun = [0x100u32, 3, 48_000, 48_000, 48_000]
            .map(u32::to_be_bytes)
            .concat();
        let traf = [atom(b"tfhd", &[0; 8]), atom(b"trun", &trun)].concat();
        for _ in 0..fragments {
            file.extend(atom(b"moof", &atom(b"traf", &traf)));
            file.extend(atom(b"mdat", b"more"));
        }
        file
    }

    fn examples() -> Vec<(&'static str, Vec<u8>, u64)> {
        vec![
            ("audio/ogg", ogg(3), 3000),
            ("audio/webm", webm(3), 3000),
            ("audio/wav", wav_of(3), 3000),
            ("audio/mpeg", mpeg(100), 2613),
            ("audio/mp4", mp4(b"soun", 141), 3008),
            ("audio/mp4", fragmented(4), 12_000),
        ]
    }

    #[test]
    fn what_plays_is_counted() {
        for (name, content, expected) in examples() {
            assert_eq!(milliseconds(name, &content), Some(expected), "{name}");
        }
        assert_eq!(
            milliseconds("audio/webm", &webm(121)[..]).map(|it| it > 120_000),
            Some(true)
        );
    }

    #[test]
    fn what_has_pictures_or_no_sound_is_no_recording() {
        assert_eq!(milliseconds("audio/mp4", &mp4(b"vide", 100)), None);
        let video = webm(1).to_vec();
        let at = video
            .windows(3)
            .position(|three| three == b"\x83\x81\x02")
            .unwrap();
        let mut video = video;
        video[at + 2] = 1;
        assert_eq!(milliseconds("audio/webm", &video), None);
        for (name, content, _) in examples() {
            assert_eq!(milliseconds(name, &content[..40]), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(place in 0..6usize, end in 0..10_000usize, changes in proptest::collection::vec((0..10_000usize, any::<u8>()), 0..8)) {
            let (name, mut content, _) = examples().swap_remove(place);
            let length = content.len();
            for (at, byte) in changes {
                content[at % length] = byte;
            }
            content.truncate(length.min(end));
            let _ = milliseconds(name, &content);
        }
    }
}
