//! `media`: what files cost: the router's memory during a large upload that is interrupted, and sends while pictures are uploaded.

mod client;
mod resume;

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use image::{ImageFormat, RgbImage};
use serde::Serialize;

use crate::harness::databases::{Databases, with_databases};
use crate::harness::machine::Machine;
use crate::harness::router::Router;
use crate::harness::usage::{Meter, Usage};
use crate::load::{Measured, open_loop};
use crate::out;
use crate::population::Size;
use crate::report::{Latency, Spread, Table, Verdict, thousands};
use crate::scenario::{
    Common, Report, check_connections, check_number, check_seconds, numbered, publish, setup,
    watched,
};
use crate::sender::{Sender, World};

use client::{Client, Uploader};
use resume::Resumed;

/// Growth of the router's resident memory during the large upload, in bytes.
const GOAL_BYTES: u64 = 20_000_000;
/// p99 of sends while pictures are uploaded, by that without.
const GOAL_P99: f64 = 1.3;
/// Width and height of the pictures that are uploaded.
const PICTURE: (u32, u32) = (1024, 768);

/// What files cost: memory during a large upload, and sends while pictures are uploaded
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    size: Size,
    /// Size of the large file, in MiB
    #[arg(long, default_value_t = 1024)]
    upload_mib: usize,
    /// How often its upload is interrupted
    #[arg(long, default_value_t = 2)]
    interruptions: usize,
    /// Pictures a second
    #[arg(long, default_value_t = 200)]
    pictures: usize,
    /// Sends a second
    #[arg(long, default_value_t = 500)]
    sends: usize,
    /// Connections that send, and as many that upload
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Phases with pictures, and as many without
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long a phase is, in seconds
    #[arg(long, default_value_t = 20.0)]
    phase_seconds: f64,
}

/// The phases of a kind.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Phases {
    /// p99 of the sends of each phase, in milliseconds.
    p99: Spread,
    sends: Latency,
    sends_refused: u64,
    pictures: Latency,
    pictures_refused: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MediaReport {
    scenario: &'static str,
    machine: Machine,
    pictures_per_second: usize,
    picture_bytes: usize,
    sends_per_second: usize,
    resumed: Resumed,
    without: Phases,
    with: Phases,
    usage: Usage,
    verdicts: Vec<Verdict>,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    args.size.check()?;
    check_number("--upload-mib", args.upload_mib, 17, 5 << 10)?;
    check_number("--interruptions", args.interruptions, 0, 100)?;
    check_number("--pictures", args.pictures, 1, 100_000)?;
    check_number("--sends", args.sends, 1, 100_000)?;
    check_number("--rounds", args.rounds, 1, 1000)?;
    check_connections("--connections", &[args.connections])?;
    check_seconds(&[args.phase_seconds])?;
    let binary = common.binary()?;
    let mut names = vec!["directory".to_owned()];
    names.extend(numbered("shard", 1));
    let report = with_databases(&common.mysql_url, &names, async |databases| {
        let mut setup = setup(binary, databases, 1);
        let settings = [
            ("MEDIA__FILE_BYTES", "5 GiB"),
            // A file is copied and checked within one request.
            ("SERVER__REQUEST_TIMEOUT", "5 minutes"),
        ];
        let settings = settings.map(|(name, value)| (format!("BACKSCROLL_{name}"), value.into()));
        setup.settings.extend(settings);
        let router = Router::start(&setup).await?;
        let report = measure(databases, &router, args).await?;
        router.stop().await?;
        Ok(report)
    })
    .await?;
    publish(&report, common.json)
}

async fn measure(databases: &Databases, router: &Router, args: &Args) -> Result<MediaReport> {
    let machine = Machine::describe(&mut databases.connect_to_server().await?).await?;
    let world = World::create(router, args.size, rand::random()).await?;
    let (watched, duration) = (
        watched(databases, router)?,
        Duration::from_secs_f64(args.phase_seconds),
    );
    let people = &world.population;
    let first = &people.conversations[0];
    let whose = (&people.users[first.members[0]], &*first.id);
    let file = ((args.upload_mib as u64) << 20, args.interruptions);
    let resumed = resume::upload(router, whose, file).await?;

    let mut senders = Sender::open_many(&world, args.connections, &world.conversations()).await?;
    let picture: Arc<[u8]> = picture()?.into();
    let mut uploaders = Vec::new();
    for conversation in people.conversations.iter().cycle().take(args.connections) {
        let client = Client::open(router.address, &people.users[conversation.members[0]]).await?;
        uploaders.push(Uploader::new(client, &conversation.id, &picture));
    }
    let (sends, pictures) = (args.sends as f64, args.pictures as f64);
    out::progress("warm-up");
    open_loop(&mut senders, sends, duration).await?;
    open_loop(&mut uploaders, pictures, duration).await?;
    let meter = Meter::start(&watched)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        out::progress(format_args!("round {round} of {}", args.rounds));
        without.push((open_loop(&mut senders, sends, duration).await?, None));
        let (sent, uploaded) = tokio::try_join!(
            open_loop(&mut senders, sends, duration),
            open_loop(&mut uploaders, pictures, duration)
        )?;
        with.push((sent, Some(uploaded)));
    }
    let usage = meter.stop()?;
    let (without, with) = (Phases::of(&without)?, Phases::of(&with)?);
    let verdicts = verdicts(&resumed, &without, &with);
    Ok(MediaReport {
        scenario: "media",
        machine,
        pictures_per_second: args.pictures,
        picture_bytes: picture.len(),
        sends_per_second: args.sends,
        resumed,
        without,
        with,
        usage,
        verdicts,
    })
}

/// A photograph's worth of detail.
fn picture() -> Result<Vec<u8>> {
    let grain = |x: u32, y: u32| ((x * 7919) ^ (y * 104_729)).wrapping_mul(2_654_435_761) >> 27;
    let picture = RgbImage::from_fn(PICTURE.0, PICTURE.1, |x, y| {
        let level = |across: u32, down: u32| (across / 8 + down / 6 + grain(x, y)) as u8;
        [level(x, y), level(y, x), level(x, 0)].into()
    });
    let mut content = Cursor::new(Vec::new());
    picture.write_to(&mut content, ImageFormat::Jpeg)?;
    Ok(content.into_inner())
}

impl Phases {
    fn of(phases: &[(Measured, Option<Measured>)]) -> Result<Self> {
        let (mut sends, mut pictures) = (Measured::new()?, Measured::new()?);
        for (sent, uploaded) in phases {
            sends.add(sent)?;
            if let Some(uploaded) = uploaded {
                pictures.add(uploaded)?;
            }
        }
        let p99s = phases
            .iter()
            .map(|(sent, _)| Latency::of(&sent.latency).p99);
        Ok(Self {
            p99: Spread::of(&p99s.collect::<Vec<_>>()),
            sends: Latency::of(&sends.latency),
            sends_refused: sends.refused(),
            pictures: Latency::of(&pictures.latency),
            pictures_refused: pictures.refused(),
        })
    }
}

fn verdicts(resumed: &Resumed, without: &Phases, with: &Phases) -> Vec<Verdict> {
    let growth = resumed.growth();
    let p99 = with.p99.median / without.p99.median;
    vec![
        Verdict::new(
            "an interrupted upload goes on where it was",
            format!(
                "{} of {} parts sent, {} interrupted",
                resumed.sent, resumed.parts, resumed.interrupted
            ),
            resumed.sent == resumed.parts,
        ),
        Verdict::new(
            format!(
                "the router's memory grows by less than {} bytes meanwhile",
                thousands(GOAL_BYTES as f64)
            ),
            format!("{} bytes", thousands(growth as f64)),
            growth < GOAL_BYTES,
        ),
        Verdict::new(
            format!(
                "p99 of sends while pictures are uploaded is at most {GOAL_P99} times that without"
            ),
            format!("{p99:.2} times, {} sends refused", with.sends_refused),
            p99 <= GOAL_P99 && with.sends_refused == 0,
        ),
        Verdict::new(
            "every picture that is offered is accepted",
            format!(
                "{} accepted, {} refused",
                thousands(with.pictures.count as f64),
                with.pictures_refused
            ),
            with.pictures_refused == 0,
        ),
    ]
}

impl Report for MediaReport {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    fn others_share(&self) -> f64 {
        self.usage.others_share(self.machine.cores)
    }

    fn print(&self) {
        let mib = |bytes: u64| thousands(bytes as f64 / f64::from(1 << 20));
        let resumed = &self.resumed;
        out::line(format_args!(
            "upload:  {} MiB in {} parts of {} MiB, interrupted {} times: {:.1} s, checked in {:.1} s; router {} MiB, at most {} MiB\n",
            mib(resumed.bytes),
            resumed.parts,
            mib(resumed.part_bytes),
            resumed.interrupted,
            resumed.upload_seconds,
            resumed.complete_seconds,
            mib(resumed.resident_before),
            mib(resumed.resident_most)
        ));
        out::line(format_args!(
            "load:    {} sends/s; with {} pictures/s of {} bytes ({} x {})\n",
            self.sends_per_second,
            self.pictures_per_second,
            thousands(self.picture_bytes as f64),
            PICTURE.0,
            PICTURE.1
        ));
        let mut table = Table::with_latencies(["from the intended start", "count", "refused"]);
        for (what, latency, refused) in [
            (
                "sends without pictures",
                self.without.sends,
                self.without.sends_refused,
            ),
            (
                "sends with pictures",
                self.with.sends,
                self.with.sends_refused,
            ),
            ("pictures", self.with.pictures, self.with.pictures_refused),
        ] {
            let mut cells = vec![thousands(latency.count as f64), refused.to_string()];
            cells.extend(latency.cells());
            table.row(what, cells);
        }
        out::line(&table);
    }
}
