//! `idle`: what connections cost that do nothing: memory of the server and of the kernel, and processor time.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

use crate::harness::limits::allow_connections;
use crate::harness::machine::Machine;
use crate::harness::memory::{resident, socket_buffers, socket_caches};
use crate::harness::usage::{Meter, Usage};
use crate::out;
use crate::realtime::board::Board;
use crate::realtime::crowd::Plan;
use crate::realtime::fleet::Fleet;
use crate::realtime::sides::{Servers, Side, SideArgs};
use crate::realtime::socket::check_sources;
use crate::report::{Table, Verdict, thousands};
use crate::scenario::{Common, Report, check_number, publish};

/// Resident memory of the server for each connection, in bytes.
const GOAL_BYTES: f64 = 16_384.0;
/// Processor time of the server, in percent of one core.
const GOAL_CORE_PERCENT: f64 = 10.0;
/// How long the server is left alone before its memory is read.
const REST: Duration = Duration::from_secs(5);

/// What connections cost that do nothing: memory and processor time of the server
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sides: SideArgs,
    /// How many clients connect
    #[arg(long, default_value_t = 50_000)]
    connections: usize,
    /// For how long processor time is measured, in seconds; more than two heartbeats
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Every client also has a conversation of two open
    #[arg(long)]
    joined: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Idle {
    side: Side,
    /// Of the server's processes, in bytes: before, with all connections, and after they had gone.
    resident_before: u64,
    resident_connected: u64,
    resident_after: u64,
    /// Of the machine, both ends of each connection, in bytes for each connection.
    kernel_caches_each: Option<f64>,
    kernel_buffers_each: f64,
    /// Share of one core, in percent.
    server_core_percent: f64,
    resident_each: f64,
    usage: Usage,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct IdleReport {
    scenario: &'static str,
    machine: Machine,
    wanted: usize,
    connections: usize,
    joined: bool,
    seconds: u64,
    sides: Vec<Idle>,
    verdicts: Vec<Verdict>,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    args.sides.check()?;
    check_number("--connections", args.connections, 100, 1_000_000)?;
    check_number("--seconds", args.seconds as usize, 1, 3600)?;
    check_sources(args.connections)?;
    // Both this process and each server have all connections; an even number, for conversations of two.
    let connections = allow_connections(args.connections)? & !1;
    let report = args
        .sides
        .with_servers(common, async |servers| {
            measure(servers, args, connections).await
        })
        .await?;
    publish(&report, common.json)
}

async fn measure(servers: &mut Servers<'_>, args: &Args, connections: usize) -> Result<IdleReport> {
    let machine = Machine::describe(&mut servers.databases.connect_to_server().await?).await?;
    let mut sides = Vec::new();
    for n in 0..servers.sides().len() {
        let side = servers.sides()[n];
        sides.push(idle(servers, side, args, connections).await?);
        // The next side, or the other door, shall not find the memory of this one.
        servers.restart(side).await?;
    }
    let ours = sides.iter().filter(|idle| idle.side.is_backscroll());
    let verdicts = ours
        .flat_map(|idle| {
            let name = idle.side.name();
            [
                Verdict::new(
                    format!(
                        "{name}: resident memory below {} bytes for each connection",
                        thousands(GOAL_BYTES)
                    ),
                    format!("{} bytes", thousands(idle.resident_each)),
                    idle.resident_each < GOAL_BYTES,
                ),
                Verdict::new(
                    format!("{name}: below {GOAL_CORE_PERCENT} % of a core"),
                    format!("{:.2} %", idle.server_core_percent),
                    idle.server_core_percent < GOAL_CORE_PERCENT,
                ),
            ]
        })
        .collect();
    Ok(IdleReport {
        scenario: "idle",
        machine,
        wanted: args.connections,
        connections,
        joined: args.joined,
        seconds: args.seconds,
        sides,
        verdicts,
    })
}

async fn idle(servers: &Servers<'_>, side: Side, args: &Args, connections: usize) -> Result<Idle> {
    let plan = if args.joined {
        Plan::pairs(connections / 2)
    } else {
        Plan::strangers(connections)
    };
    out::progress(format_args!("{}: {connections} users", side.name()));
    let crowd = servers.settle(side, &plan).await?;
    let board = Board::new(plan.listeners())?;
    let seats = plan.seats(&crowd);
    let target = servers.target(side)?;
    // A few connections first: what the server makes once is not a connection's.
    let few = seats.len().min(100);
    Fleet::open(&target, &board, &seats[..few])
        .await?
        .close()
        .await?;
    sleep(REST).await;
    let processes = servers.processes(side)?;
    let before = (resident(&processes)?, socket_caches(), socket_buffers()?);
    let mut fleet = Fleet::open(&target, &board, &seats).await?;
    sleep(REST).await;
    let connected = (resident(&processes)?, socket_caches(), socket_buffers()?);
    let meter = Meter::start(&servers.watched(side)?)?;
    sleep(Duration::from_secs(args.seconds)).await;
    let usage = meter.stop()?;
    fleet.check()?;
    let resident_connected = connected.0.max(resident(&processes)?);
    fleet.close().await?;
    sleep(REST).await;
    let each = |bytes: u64| bytes as f64 / connections as f64;
    let names: Vec<&str> = processes.iter().map(|process| process.name).collect();
    let server = usage.processes.iter();
    let server = server.filter(|(name, _)| names.contains(name));
    let server_seconds: f64 = server.map(|(_, seconds)| seconds).sum();
    Ok(Idle {
        side,
        resident_before: before.0,
        resident_connected,
        resident_after: resident(&processes)?,
        kernel_caches_each: before
            .1
            .zip(connected.1)
            .map(|(before, connected)| each(connected.saturating_sub(before))),
        kernel_buffers_each: each(connected.2.saturating_sub(before.2)),
        server_core_percent: server_seconds / usage.elapsed * 100.0,
        resident_each: each(resident_connected.saturating_sub(before.0)),
        usage,
    })
}

impl Report for IdleReport {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    fn others_share(&self) -> f64 {
        let mut total = Usage::default();
        for side in &self.sides {
            total.elapsed += side.usage.elapsed;
            total.others += side.usage.others;
        }
        total.others_share(self.machine.cores)
    }

    fn print(&self) {
        let open = if self.joined {
            "a conversation open each"
        } else {
            "nothing open"
        };
        out::line(format_args!(
            "load:    {} connections with {open}, idle for {} s{}\n",
            thousands(self.connections as f64),
            self.seconds,
            if self.connections < self.wanted {
                format!(
                    "; {} were asked for, but a process may not have as many here",
                    thousands(self.wanted as f64)
                )
            } else {
                String::new()
            }
        ));
        let headings = [
            "",
            "bytes each",
            "MiB before",
            "MiB connected",
            "MiB after",
            "kernel bytes each",
            "waiting bytes each",
            "% of a core",
        ];
        let mut table = Table::new(headings);
        let mib = |bytes: u64| thousands(bytes as f64 / f64::from(1 << 20));
        for side in &self.sides {
            let caches = side.kernel_caches_each;
            table.row(
                side.side.name(),
                [
                    thousands(side.resident_each),
                    mib(side.resident_before),
                    mib(side.resident_connected),
                    mib(side.resident_after),
                    caches.map_or("-".to_owned(), thousands),
                    thousands(side.kernel_buffers_each),
                    format!("{:.2}", side.server_core_percent),
                ],
            );
        }
        out::line(&table);
        out::line(
            "bytes each: resident memory of the server with all connections, less that before, for each connection;",
        );
        out::line(
            "kernel bytes: its caches for sockets, files and polling (/proc/slabinfo), both ends of each connection;",
        );
        out::line(
            "waiting bytes: what waits in sockets (/proc/net/sockstat); % of a core: processor time of the server's processes",
        );
    }
}
