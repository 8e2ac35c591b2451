//! `backscroll media-worker`: decodes pictures for the service that has started it.

use backscroll_archiver::media::worker;

/// Decode pictures for `serve`, which starts this by itself
///
/// Reads pictures from its standard input and answers on its standard output, in frames. It reads no configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll media-worker 536870912 < frames")]
pub(super) struct Args {
    /// Bytes of memory that it may take
    memory: u64,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (input, output) = (std::io::stdin().lock(), std::io::stdout().lock());
    Ok(worker::serve(input, output, args.memory)?)
}
