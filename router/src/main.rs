//! The `backscroll` command.

fn main() -> std::process::ExitCode {
    backscroll::cli::main()
}
