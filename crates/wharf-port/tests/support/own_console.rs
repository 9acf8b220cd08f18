//! A console for a test alone, on which it can press Ctrl+C; and what the system does with the other
//! events of a console.

use std::{
    ffi::c_void,
    io, mem,
    os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle},
    process::Child,
    ptr,
};

use windows_sys::{
    Win32::{
        Foundation::FARPROC,
        System::{
            Console::{
                AllocConsole, CTRL_C_EVENT, FreeConsole, GenerateConsoleCtrlEvent, GetStdHandle,
                STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetConsoleCtrlHandler,
                SetStdHandle,
            },
            LibraryLoader::{GetModuleHandleW, GetProcAddress},
            Threading::{CreateRemoteThread, LPTHREAD_START_ROUTINE},
        },
    },
    core::BOOL,
    s, w,
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

/// Tells a program of an event as the system does: on a thread made in it, which runs its handlers.
/// Programs can send only two of the events, and Wine only one.
pub(crate) fn deliver(event: u32, program: &Child) {
    // SAFETY: the library is a part of every process, at the same place in each, and so is what runs
    // the handlers. That is a thread's function, whose argument is the event.
    let thread = unsafe {
        let routine = GetProcAddress(GetModuleHandleW(w!("kernelbase.dll")), s!("CtrlRoutine"));
        assert!(routine.is_some(), "{}", io::Error::last_os_error());
        let routine = mem::transmute::<FARPROC, LPTHREAD_START_ROUTINE>(routine);
        let event = ptr::without_provenance::<c_void>(event as usize);
        let process = program.as_raw_handle();
        CreateRemoteThread(process, ptr::null(), 0, routine, event, 0, ptr::null_mut())
    };
    assert!(!thread.is_null(), "{}", io::Error::last_os_error());
    // SAFETY: it has just been made, and nothing else has it.
    drop(unsafe { OwnedHandle::from_raw_handle(thread) });
}

unsafe extern "system" fn ignore(_event: u32) -> BOOL {
    1
}

#[track_caller]
fn check(succeeded: BOOL) {
    assert!(succeeded != 0, "{}", io::Error::last_os_error());
}
