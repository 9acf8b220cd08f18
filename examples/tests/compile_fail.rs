//! Mistakes with buffers and connections that servers on completion ports in C++ are known for: each
//! program in `compile_fail/` makes one of them, and the compiler has to refuse it with the message
//! beside it.

#![cfg(target_os = "linux")]

use std::process::Command;

/// Compilers word their messages differently, and these are the ones of this version.
const WORDED_BY: &str = "rustc 1.95.";

#[test]
fn the_compiler_refuses_each_of_the_mistakes() {
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(compiler).arg("--version").output().expect("a compiler is there");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if !version.starts_with(WORDED_BY) {
        eprintln!("left out: compile_fail, whose messages are those of {WORDED_BY}, not {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("compile_fail/*.rs");
}
