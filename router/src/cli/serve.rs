//! `backscroll serve`

use crate::boot;
use crate::config::{Config, ConfigError};
use crate::demo;
use crate::http::listen::ListenAddress;

use super::out;

/// Answer HTTP until SIGTERM or Ctrl-C
///
/// With SQLite the schema is brought up to date by itself. With MySQL a schema that is not up to date is refused: run
/// `backscroll migrate` first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll serve                                  embedded: SQLite files in ./backscroll-data
  backscroll serve --demo                           the same with years of conversations in it, and commands to try
  backscroll serve --config production.toml
  backscroll serve --listen 0.0.0.0:9000")]
pub(super) struct Args {
    /// Fill <data_dir>/demo with a made-up history of several years, and serve that
    #[arg(long)]
    demo: bool,
    /// Address and port to listen on, instead of server.listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<ListenAddress>,
}

pub(super) async fn run(
    load: impl FnOnce() -> Result<Config, ConfigError>,
    args: Args,
) -> anyhow::Result<()> {
    let mut config = load()?;
    if let Some(listen) = args.listen {
        config.server.listen = listen;
    }
    if !args.demo {
        return boot::serve(config, announce).await;
    }
    anyhow::ensure!(
        config.is_embedded(),
        "--demo makes up its own data in SQLite files; take `shards` and `directory.url` out of the configuration"
    );
    demo::serve(config, |text| out::announce(text)).await
}

async fn announce(running: boot::Running<'_>) -> anyhow::Result<()> {
    out::announce(format_args!(
        "Backscroll is listening on http://{}",
        running.address
    ));
    Ok(())
}
