//! The `wharf` program; all of it is in the library beside it, so that fuzzers reach its parsers.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    wharf_cli::main()
}
