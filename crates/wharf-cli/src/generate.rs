//! Text for standard output: completions, the manual page, configuration.

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap_complete::Shell;

use crate::cli;

/// Prints completions for a shell.
pub(crate) fn completions(shell: Shell) -> Result<ExitCode> {
    let mut page = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "wharf", &mut page);
    write(&page)
}

/// Prints the manual page, in roff: `wharf man | man -l -`.
pub(crate) fn man() -> Result<ExitCode> {
    let mut page = Vec::new();
    clap_mangen::Man::new(cli::command()).render(&mut page)?;
    write(&page)
}

/// Prints a text as it is.
pub(crate) fn print(text: &str) -> Result<ExitCode> {
    write(text.as_bytes())
}

fn write(bytes: &[u8]) -> Result<ExitCode> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        // `wharf man | head` has read what it wanted.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS).context("writing to standard output"),
    }
}
