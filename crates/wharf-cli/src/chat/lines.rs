//! The chat line by line: for a pipe, and for scripts one line of JSON per packet.

use std::io::{self, Write as _};

use super::client::{Status, View};
use super::packets::{Seen, printable};

/// Prints.
pub(super) struct Lines {
    pub(super) json: bool,
}

impl View for Lines {
    fn seen(&mut self, seen: &Seen, status: &Status) {
        let line =
            if self.json { Some(seen.json().to_string()) } else { seen.text(&status.present) };
        if let Some(line) = line {
            print(&line);
        }
    }

    fn note(&mut self, kind: &str, text: &str) {
        if self.json {
            print(&serde_json::json!({ "note": kind, "text": text }).to_string());
        } else {
            print(&format!("* {}", printable(text)));
        }
    }
}

fn print(line: &str) {
    let mut output = io::stdout().lock();
    // Where nobody reads it, the chat goes on.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
