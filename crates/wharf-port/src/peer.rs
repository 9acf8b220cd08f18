//! Whose process answers at a local channel, a Unix socket or a named pipe: for programs that must know
//! before they say there what only one user may hear. The name of a channel does not tell, since
//! somebody else may have been first with it.
//!
//! Users are told apart by the text of their number: a user id in decimal, on Windows a SID.

#[cfg(unix)]
pub use unix::{this_user, user_of};
#[cfg(windows)]
pub use windows::{this_user, user_of};

#[cfg(unix)]
mod unix {
    use std::{
        io,
        os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    };

    /// The user that this process acts for.
    ///
    /// # Errors
    /// None on this system.
    pub fn this_user() -> io::Result<String> {
        // SAFETY: there are no preconditions.
        Ok(unsafe { libc::geteuid() }.to_string())
    }

    /// The user whose process listens where this Unix socket is connected to: who it was when it began
    /// to listen.
    ///
    /// # Errors
    /// The system does not know: this is no connected Unix socket.
    pub fn user_of(socket: impl AsFd) -> io::Result<String> {
        Ok(peer(socket.as_fd())?.to_string())
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn peer(socket: BorrowedFd<'_>) -> io::Result<libc::uid_t> {
        let mut found = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: 0 };
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the descriptor is open for as long as it is borrowed, and the system writes at most
        // `length` bytes into `found`.
        let result = unsafe {
            let found = (&raw mut found).cast();
            let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
            libc::getsockopt(socket.as_raw_fd(), level, name, found, &raw mut length)
        };
        if result == 0 { Ok(found.uid) } else { Err(io::Error::last_os_error()) }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn peer(socket: BorrowedFd<'_>) -> io::Result<libc::uid_t> {
        let (mut user, mut group) = (libc::uid_t::MAX, 0);
        // SAFETY: the descriptor is open for as long as it is borrowed; both pointers are to locals.
        let result = unsafe { libc::getpeereid(socket.as_raw_fd(), &raw mut user, &raw mut group) };
        if result == 0 { Ok(user) } else { Err(io::Error::last_os_error()) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::os::unix::net::UnixStream;

        #[test]
        fn a_socket_of_this_process_is_this_users() {
            let (one, other) = UnixStream::pair().unwrap();
            let this = this_user().unwrap();
            assert_eq!((user_of(&one).unwrap(), user_of(&other).unwrap()), (this.clone(), this));
        }

        #[test]
        fn what_is_no_socket_is_nobodys() {
            user_of(std::fs::File::open("/dev/null").unwrap()).unwrap_err();
        }
    }
}

#[cfg(windows)]
mod windows {
    use std::{
        ffi::c_void,
        io,
        os::windows::io::{AsHandle, AsRawHandle as _, FromRawHandle as _, OwnedHandle},
        ptr,
    };

    use windows_sys::Win32::{
        Foundation::{ERROR_INVALID_OWNER, ERROR_SUCCESS, LocalFree, WIN32_ERROR},
        Security::{
            Authorization::{ConvertSidToStringSidW, GetSecurityInfo, SE_KERNEL_OBJECT},
            GetTokenInformation, OWNER_SECURITY_INFORMATION, PSID, TOKEN_QUERY, TOKEN_USER,
            TokenUser,
        },
        System::Threading::{GetCurrentProcess, OpenProcessToken},
    };

    /// The user that this process acts for.
    ///
    /// # Errors
    /// The system does not say.
    pub fn this_user() -> io::Result<String> {
        let mut token = ptr::null_mut();
        // SAFETY: the handle of this process needs no closing; that of the token is written to a local.
        if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) } == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it has just been opened, and nothing else has it.
        let token = unsafe { OwnedHandle::from_raw_handle(token) };
        // A TOKEN_USER, and behind it the SID that it points to: at most 68 bytes
        // (SECURITY_MAX_SID_SIZE). As u64 it is aligned for both.
        let mut room = [0_u64; 16];
        let mut length = 0;
        // SAFETY: the token is open, and the system writes at most the given length into `room`.
        let told = unsafe {
            let (token, room_bytes) = (token.as_raw_handle(), size_of_val(&room) as u32);
            let room = room.as_mut_ptr().cast();
            GetTokenInformation(token, TokenUser, room, room_bytes, &raw mut length)
        };
        if told == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the system has written one there.
        let user = unsafe { room.as_ptr().cast::<TOKEN_USER>().read() };
        // SAFETY: its SID is in `room`.
        unsafe { text_of(user.User.Sid) }
    }

    /// The user who owns this pipe, on either end of it. Only an administrator can give a pipe to
    /// somebody else.
    ///
    /// # Errors
    /// The system does not say: the handle is not open for reading, or is of something without an owner.
    pub fn user_of(pipe: impl AsHandle) -> io::Result<String> {
        let (mut owner, mut descriptor) = (ptr::null_mut(), ptr::null_mut());
        let none = ptr::null_mut();
        // SAFETY: the handle is open for as long as it is borrowed; what is asked for is written to
        // locals.
        let failed = unsafe {
            GetSecurityInfo(
                pipe.as_handle().as_raw_handle(),
                SE_KERNEL_OBJECT,
                OWNER_SECURITY_INFORMATION,
                &raw mut owner,
                none,
                ptr::null_mut(),
                ptr::null_mut(),
                &raw mut descriptor,
            )
        };
        if failed != ERROR_SUCCESS {
            return Err(error(failed));
        }
        let _descriptor = Local(descriptor);
        if owner.is_null() {
            return Err(error(ERROR_INVALID_OWNER));
        }
        // SAFETY: the SID is in the descriptor, which is freed later.
        unsafe { text_of(owner) }
    }

    /// # Safety
    /// There is a SID.
    unsafe fn text_of(sid: PSID) -> io::Result<String> {
        let mut text = ptr::null_mut();
        // SAFETY: the SID is the caller's promise; the pointer to the text is written to a local.
        if unsafe { ConvertSidToStringSidW(sid, &raw mut text) } == 0 {
            return Err(io::Error::last_os_error());
        }
        let _text = Local(text.cast());
        let mut length = 0;
        // SAFETY: the text ends with a zero, and is freed later.
        let units = unsafe {
            while *text.add(length) != 0 {
                length += 1;
            }
            std::slice::from_raw_parts(text, length)
        };
        Ok(String::from_utf16_lossy(units))
    }

    fn error(code: WIN32_ERROR) -> io::Error {
        io::Error::from_raw_os_error(code.cast_signed())
    }

    /// What the system has allocated for this process, and wants back.
    struct Local(*mut c_void);

    impl Drop for Local {
        fn drop(&mut self) {
            // SAFETY: nothing else frees it, and nothing borrows from it any more.
            unsafe { LocalFree(self.0) };
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn users_have_numbers() {
            let this = this_user().unwrap();
            assert!(this.starts_with("S-1-5-"), "{this}");
            // An administrator's may be that of all of them. (Wine knows the owner of a pipe that was made
            // with one; the control channel's is.)
            let program = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
            let owner = user_of(&program).unwrap();
            assert!(owner.starts_with("S-1-5-"), "{owner}");
        }
    }
}
