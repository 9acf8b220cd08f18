//! What it means when a system does not let us have a ring, in words.

use std::{error::Error, ffi::CStr, fmt, fs, io, mem::MaybeUninit};

/// Says why io_uring_setup(2) failed and what could be done.
pub(super) fn setup(error: io::Error) -> io::Error {
    let text = match error.raw_os_error() {
        Some(libc::EPERM) => forbidden(),
        Some(libc::ENOSYS) => {
            "this kernel was built without io_uring, or a seccomp profile hides it".to_owned()
        }
        Some(libc::EINVAL) => {
            format!("io_uring needs Linux 6.1 or later, this is {}", kernel_version())
        }
        Some(libc::ENOMEM) => "there is not enough memory that may be locked for io_uring: raise \
                               RLIMIT_MEMLOCK (ulimit -l)"
            .to_owned(),
        _ => "io_uring cannot be set up".to_owned(),
    };
    with_text(error, text)
}

/// The same error with `text` before it; the system's code stays visible in the text and as
/// [`source`](Error::source).
pub(super) fn with_text(error: io::Error, text: String) -> io::Error {
    io::Error::new(error.kind(), Explained { text, error })
}

fn forbidden() -> String {
    match fs::read_to_string("/proc/sys/kernel/io_uring_disabled").as_deref().map(str::trim) {
        Ok(level @ ("1" | "2")) => {
            format!("io_uring is switched off here: sysctl kernel.io_uring_disabled is {level}")
        }
        _ => "io_uring is forbidden here, probably by a container's seccomp profile (Docker's and \
              containerd's own profiles do)"
            .to_owned(),
    }
}

/// The running kernel's version, as `6.18`.
pub(super) fn kernel_version() -> String {
    let mut names = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: uname(2) fills the whole structure, with strings that end in a zero, or fails.
    let release = unsafe {
        if libc::uname(names.as_mut_ptr()) != 0 {
            return "an unknown version".to_owned();
        }
        CStr::from_ptr(names.assume_init_ref().release.as_ptr())
    };
    let release = release.to_string_lossy();
    release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

#[derive(Debug)]
struct Explained {
    text: String,
    error: io::Error,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.text, self.error)
    }
}

impl Error for Explained {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explained_error_keeps_its_kind_and_the_systems_code() {
        for (code, word) in [
            (libc::EPERM, "io_uring"),
            (libc::ENOSYS, "without io_uring"),
            (libc::EINVAL, "6.1 or later, this is "),
            (libc::ENOMEM, "RLIMIT_MEMLOCK"),
            (libc::EIO, "cannot be set up"),
        ] {
            let plain = io::Error::from_raw_os_error(code);
            let explained = setup(io::Error::from_raw_os_error(code));
            assert_eq!(explained.kind(), plain.kind());
            let text = explained.to_string();
            assert!(text.contains(word) && text.contains(&plain.to_string()), "{text}");
            let source = explained.get_ref().and_then(|inner| inner.source()).unwrap();
            let source = source.downcast_ref::<io::Error>().unwrap();
            assert_eq!(source.raw_os_error(), Some(code));
        }
    }

    #[test]
    fn the_kernel_has_a_version_of_two_numbers() {
        let version = kernel_version();
        let numbers: Vec<_> = version.split('.').map(str::parse::<u32>).collect();
        assert!(numbers.len() == 2 && numbers.iter().all(Result::is_ok), "{version}");
    }
}
