//! Systems that refuse io_uring: what a container's seccomp profile does.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use wharf_port::{Config, Engine, EngineChoice};

use crate::rig::{config, in_child, in_child_that_leaks};

#[test]
fn a_seccomp_filter_that_says_eperm_is_named_and_fallen_back_from() {
    in_child("refused::a_seccomp_filter_that_says_eperm_is_named_and_fallen_back_from", || {
        refuse(libc::SYS_io_uring_setup, libc::EPERM);
        check(std::io::ErrorKind::PermissionDenied, "seccomp profile", "os error 1");
    });
}

#[test]
fn a_seccomp_filter_that_says_enosys_is_named_and_fallen_back_from() {
    in_child("refused::a_seccomp_filter_that_says_enosys_is_named_and_fallen_back_from", || {
        refuse(libc::SYS_io_uring_setup, libc::ENOSYS);
        check(std::io::ErrorKind::Unsupported, "without io_uring", "os error 38");
    });
}

#[test]
fn a_ring_that_can_be_made_but_not_entered_is_not_taken() {
    // What was submitted to the ring can never be waited for.
    in_child_that_leaks("refused::a_ring_that_can_be_made_but_not_entered_is_not_taken", || {
        refuse(libc::SYS_io_uring_enter, libc::EPERM);
        check(std::io::ErrorKind::PermissionDenied, "the probe failed", "os error 1");
    });
}

/// Makes a system call fail with `code` in this thread, for good.
fn refuse(system_call: libc::c_long, code: i32) {
    let filter = SeccompFilter::new(
        BTreeMap::from([(system_call, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(code as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

fn check(kind: std::io::ErrorKind, words: &str, code: &str) {
    let error = wharf_port::open(&config()).err().expect("a named engine never falls back");
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(words) && text.contains(code), "{text}");
    let port = wharf_port::open(&Config { engine: EngineChoice::Auto, ..config() }).unwrap();
    assert_eq!(port.engine().engine, Engine::Poll);
    let reason = port.engine().fell_back.as_deref().unwrap();
    assert!(reason.starts_with("uring: ") && reason.contains(words), "{reason}");
}

#[test]
fn buffers_of_no_bytes_are_an_error() {
    for config in [
        Config { receive_buffer_bytes: 0, ..crate::rig::config() },
        Config { receive_buffers: 0, ..crate::rig::config() },
    ] {
        let error = wharf_port::open(&config).map(drop).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
    }
}
