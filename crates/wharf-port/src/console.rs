//! What Windows has instead of signals: console events.
//!
//! Unlike a signal's, an event's handler runs on a thread that the system makes for it. For Ctrl+C
//! and Ctrl+Break returning means "handled". Where the console is closed, the user logs off or the
//! machine shuts down, the process is ended as soon as the handler returns: whoever wants to finish
//! something must not return, and has some seconds (5 by default) until the system ends it anyway.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
};

use windows_sys::{
    Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT, SetConsoleCtrlHandler},
    core::BOOL,
};

type Handler = Box<dyn Fn() + Send + Sync>;

static HANDLER: OnceLock<Handler> = OnceLock::new();

/// Calls `handler` on Ctrl+C and Ctrl+Break, and when the console is closed, the user logs off or
/// the machine shuts down. After one of the last three the process lives on until it ends by itself
/// or the system's patience does. Once per process.
///
/// # Errors
/// There is a handler already, or the system refuses one.
pub fn on_event(handler: impl Fn() + Send + Sync + 'static) -> io::Result<()> {
    if HANDLER.set(Box::new(handler)).is_err() {
        let message = "console events are handled already";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    // SAFETY: the function may be called at any time on any thread from now on: it touches only
    // what is set for ever, above.
    if unsafe { SetConsoleCtrlHandler(Some(on_control), 1) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

unsafe extern "system" fn on_control(kind: u32) -> BOOL {
    if let Some(handler) = HANDLER.get() {
        // A panic has been told by the hook; it must not leave into the system.
        let _ = catch_unwind(AssertUnwindSafe(handler));
    }
    if is_the_end(kind) {
        loop {
            std::thread::park();
        }
    }
    1
}

/// Whether the process is ended when the handler returns.
fn is_the_end(kind: u32) -> bool {
    !matches!(kind, CTRL_C_EVENT | CTRL_BREAK_EVENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, thread, time::Duration};
    use windows_sys::Win32::System::Console::{
        CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT,
    };

    /// Returning from any of the last three would end the process before anything is drained.
    #[test]
    fn a_handler_returns_only_where_the_process_goes_on() {
        let (tell, told) = mpsc::channel();
        let tell = std::sync::Mutex::new(tell);
        on_event(move || tell.lock().unwrap().send(()).unwrap()).unwrap();
        on_event(|| {}).unwrap_err();
        let events = [CTRL_C_EVENT, CTRL_BREAK_EVENT];
        let ends = [CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT];
        for kind in events.into_iter().chain(ends) {
            let (returned, wait) = mpsc::channel();
            thread::spawn(move || {
                // SAFETY: the system calls it like this.
                returned.send(unsafe { on_control(kind) }).unwrap();
            });
            told.recv_timeout(Duration::from_secs(30)).unwrap();
            if ends.contains(&kind) {
                assert!(wait.recv_timeout(Duration::from_millis(100)).is_err(), "{kind}");
            } else {
                assert_eq!(wait.recv_timeout(Duration::from_secs(30)), Ok(1), "{kind}");
            }
        }
    }
}
