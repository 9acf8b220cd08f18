//! A console for a test alone, on which it can press Ctrl+C.

use std::io;

use windows_sys::{
    Win32::System::Console::{
        AllocConsole, CTRL_C_EVENT, FreeConsole, GenerateConsoleCtrlEvent, GetStdHandle,
        STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetConsoleCtrlHandler, SetStdHandle,
    },
    core::BOOL,
};

pub(crate) struct OwnConsole(());

impl OwnConsole {
    /// Leaves the console that this process has, for a new one. What it reads and writes stays.
    pub(crate) fn take() -> Self {
        let streams = [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE];
        // SAFETY: there are no preconditions; the handles are the process's for as long as it runs.
        unsafe {
            let handles = streams.map(|stream| GetStdHandle(stream));
            FreeConsole(); // fails where there was none
            check(AllocConsole());
            streams.into_iter().zip(handles).for_each(|(stream, handle)| {
                check(SetStdHandle(stream, handle));
            });
            check(SetConsoleCtrlHandler(Some(ignore), 1));
        }
        Self(())
    }

    /// Presses it for every process on this console but this one.
    pub(crate) fn press_ctrl_c(&self) {
        // SAFETY: there are no preconditions.
        check(unsafe { GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0) });
    }
}

unsafe extern "system" fn ignore(_event: u32) -> BOOL {
    1
}

#[track_caller]
fn check(succeeded: BOOL) {
    assert!(succeeded != 0, "{}", io::Error::last_os_error());
}
