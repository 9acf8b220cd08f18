//! Windows' calls, each wrapped once.
//!
//! A call that starts an operation is given a pointer to an `OVERLAPPED`, which the system writes to
//! until it has queued a packet for it; [`Packet::post`](super::packet::Packet::post) is the only
//! caller of those.

use std::{
    ffi::{CStr, c_char},
    io,
    os::windows::io::AsRawSocket,
    ptr,
};

use windows_sys::{
    Win32::{
        Foundation::{ERROR_NOT_FOUND, HANDLE},
        Networking::WinSock::{
            IPPROTO_TCP, LPFN_ACCEPTEX, LPFN_CONNECTEX, SIO_GET_EXTENSION_FUNCTION_POINTER,
            SO_EXCLUSIVEADDRUSE, SO_UPDATE_ACCEPT_CONTEXT, SO_UPDATE_CONNECT_CONTEXT,
            SOCKADDR_STORAGE, SOCKET, SOL_SOCKET, WSA_IO_PENDING, WSABUF, WSAEMSGSIZE, WSAENOBUFS,
            WSAEnumProtocolsW, WSAGetLastError, WSAGetOverlappedResult, WSAID_ACCEPTEX,
            WSAID_CONNECTEX, WSAIoctl, WSAPROTOCOL_INFOW, WSARecv, WSASend, XP1_IFS_HANDLES,
            setsockopt,
        },
        Storage::FileSystem::SetFileCompletionNotificationModes,
        System::{
            IO::{CancelIoEx, OVERLAPPED},
            LibraryLoader::{GetModuleHandleA, GetProcAddress},
            WindowsProgramming::{
                FILE_SKIP_COMPLETION_PORT_ON_SUCCESS, FILE_SKIP_SET_EVENT_ON_HANDLE,
            },
        },
    },
    core::GUID,
};

/// The functions that have to be asked for.
#[derive(Clone, Copy)]
pub(super) struct Extensions {
    accept_ex: LPFN_ACCEPTEX,
    connect_ex: LPFN_CONNECTEX,
}

impl Extensions {
    /// Asks the provider of `os`; those of one provider are the same for all its sockets.
    pub(super) fn of(os: &socket2::Socket) -> io::Result<Self> {
        // SAFETY: each GUID names a function of the type that is asked for (mswsock.h).
        unsafe {
            Ok(Self {
                accept_ex: extension(os, &WSAID_ACCEPTEX)?,
                connect_ex: extension(os, &WSAID_CONNECTEX)?,
            })
        }
    }

    /// Starts accepting into `socket`. No data is asked for: with that, a client that connects and
    /// says nothing would hold the accept for ever (W3).
    ///
    /// # Safety
    /// `overlapped` and [`ACCEPT_ADDRESSES_BYTES`] at `addresses` stay until the packet is dequeued.
    pub(super) unsafe fn accept(
        self,
        listener: &socket2::Socket,
        socket: &socket2::Socket,
        addresses: *mut u8,
        overlapped: *mut OVERLAPPED,
    ) -> io::Result<u32> {
        let accept_ex = self.accept_ex.expect("asked for when the port was opened");
        let mut received = 0;
        // SAFETY: the caller's promise; both sockets are open.
        let accepted = unsafe {
            accept_ex(
                socket_of(listener),
                socket_of(socket),
                addresses.cast(),
                0,
                ACCEPT_ADDRESS_BYTES,
                ACCEPT_ADDRESS_BYTES,
                &mut received,
                overlapped,
            )
        };
        started(accepted != 0, received)
    }

    /// Starts connecting a bound socket.
    ///
    /// # Safety
    /// `overlapped` and `address` stay until the packet is dequeued.
    pub(super) unsafe fn connect(
        self,
        os: &socket2::Socket,
        address: &socket2::SockAddr,
        overlapped: *mut OVERLAPPED,
    ) -> io::Result<u32> {
        let connect_ex = self.connect_ex.expect("asked for when the port was opened");
        let mut sent = 0;
        // SAFETY: the caller's promise; the socket is open and the address has the length it says.
        let connected = unsafe {
            connect_ex(
                socket_of(os),
                address.as_ptr().cast(),
                address.len(),
                ptr::null(),
                0,
                &mut sent,
                overlapped,
            )
        };
        started(connected != 0, sent)
    }
}

/// Starts receiving nothing, which is over when there is something to receive (or nothing ever
/// again): an idle connection pins no memory (W9).
///
/// # Safety
/// `overlapped` stays until the packet is dequeued.
pub(super) unsafe fn start_zero_receive(
    os: &socket2::Socket,
    overlapped: *mut OVERLAPPED,
) -> io::Result<u32> {
    let buffer = WSABUF { len: 0, buf: ptr::null_mut() };
    let (mut received, mut flags) = (0, 0);
    // SAFETY: the caller's promise. The array of buffers is read during the call alone (WSARecv's
    // page), and its one buffer is empty.
    let failed =
        unsafe { WSARecv(socket_of(os), &buffer, 1, &mut received, &mut flags, overlapped, None) };
    started(failed == 0, received)
}

/// Starts sending.
///
/// # Safety
/// `overlapped` and the memory that `buffers` name stay until the packet is dequeued.
pub(super) unsafe fn start_send(
    os: &socket2::Socket,
    buffers: &[WSABUF],
    overlapped: *mut OVERLAPPED,
) -> io::Result<u32> {
    let mut sent = 0;
    let count = u32::try_from(buffers.len()).expect("a gather takes 64 frames");
    // SAFETY: the caller's promise.
    let failed =
        unsafe { WSASend(socket_of(os), buffers.as_ptr(), count, &mut sent, 0, overlapped, None) };
    started(failed == 0, sent)
}

/// Receives what is there without waiting; the socket is non-blocking.
///
/// # Safety
/// `room` bytes at `address` are valid, and nobody else looks at them.
pub(super) unsafe fn receive_now(
    os: &socket2::Socket,
    address: *mut u8,
    room: u32,
) -> io::Result<usize> {
    let buffer = WSABUF { len: room, buf: address };
    let (mut received, mut flags) = (0, 0);
    // SAFETY: the caller's promise. Without an `OVERLAPPED` the call is over when it returns.
    let failed = unsafe {
        WSARecv(socket_of(os), &buffer, 1, &mut received, &mut flags, ptr::null_mut(), None)
    };
    started(failed == 0, received).map(|bytes| bytes as usize)
}

/// Whether there is something to receive without waiting; false at the end of the stream.
pub(super) fn peek_now(os: &socket2::Socket) -> io::Result<bool> {
    os.peek(&mut [std::mem::MaybeUninit::uninit()]).map(|bytes| bytes > 0)
}

/// Asks the system to end one operation of the socket, or all of them; their packets say how that
/// went. True if there was something to end.
pub(super) fn cancel(os: &socket2::Socket, overlapped: *const OVERLAPPED) -> io::Result<bool> {
    // SAFETY: the pointer only names an operation; it is not followed.
    if unsafe { CancelIoEx(handle(os), overlapped) } != 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(ERROR_NOT_FOUND as i32) { Ok(false) } else { Err(error) }
}

/// Why the operation of this dequeued packet failed, as Winsock's errors.
///
/// # Safety
/// `overlapped` points to that of an operation on `os` that is over.
pub(super) unsafe fn failure(os: &socket2::Socket, overlapped: *const OVERLAPPED) -> io::Error {
    let (mut bytes, mut flags) = (0, 0);
    // SAFETY: the caller's promise; this does not wait.
    let done =
        unsafe { WSAGetOverlappedResult(socket_of(os), overlapped, &mut bytes, 0, &mut flags) };
    if done == 0 { last_socket_error() } else { io::Error::other("it failed without a reason") }
}

/// Makes an accepted socket a whole one: without this neither shutdown(2) nor getpeername(2) work
/// on it. (Under Wine they do.)
pub(super) fn update_accept_context(
    socket: &socket2::Socket,
    listener: &socket2::Socket,
) -> io::Result<()> {
    let listener = socket_of(listener).to_ne_bytes();
    set_option(socket, SO_UPDATE_ACCEPT_CONTEXT, &listener)
}

/// The same for a socket that `ConnectEx` has connected.
pub(super) fn update_connect_context(socket: &socket2::Socket) -> io::Result<()> {
    set_option(socket, SO_UPDATE_CONNECT_CONTEXT, &[])
}

/// Keeps every other socket from the address that this one is about to be bound to.
pub(crate) fn set_exclusive_address(socket: &socket2::Socket) -> io::Result<()> {
    set_option(socket, SO_EXCLUSIVEADDRUSE, &1_u32.to_ne_bytes())
}

/// No packet for what succeeds at once.
pub(super) fn skip_packets_on_success(os: &socket2::Socket) -> io::Result<()> {
    let modes = FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE;
    // SAFETY: the socket is open.
    let set = unsafe { SetFileCompletionNotificationModes(handle(os), modes as u8) };
    if set == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether packets may be skipped on this machine: TCP sockets of layered providers without true
/// file handles would lose completions (W2).
pub(super) fn all_providers_have_file_handles() -> io::Result<bool> {
    let tcp = [IPPROTO_TCP, 0];
    let mut protocols: Vec<WSAPROTOCOL_INFOW> = Vec::new();
    loop {
        let each = size_of::<WSAPROTOCOL_INFOW>();
        let mut bytes = u32::try_from(protocols.len() * each).expect("a handful");
        // SAFETY: the list of protocols ends with a zero; the system writes at most `bytes` to the
        // vector's memory, and a number to `bytes`.
        let count = unsafe { WSAEnumProtocolsW(tcp.as_ptr(), protocols.as_mut_ptr(), &mut bytes) };
        if let Ok(count) = usize::try_from(count) {
            let all = &protocols[..count];
            return Ok(all.iter().all(|it| it.dwServiceFlags1 & XP1_IFS_HANDLES != 0));
        }
        let error = last_socket_error();
        if error.raw_os_error() != Some(WSAENOBUFS) || bytes as usize <= protocols.len() * each {
            return Err(error);
        }
        protocols.resize((bytes as usize).div_ceil(each), WSAPROTOCOL_INFOW::default());
    }
}

/// # Safety
/// `F` is the type of function that `id` names.
unsafe fn extension<F: Default>(os: &socket2::Socket, id: &GUID) -> io::Result<F> {
    let mut function = F::default();
    let mut bytes = 0;
    // SAFETY: the system reads a GUID and writes a pointer to a function, the size of which is that
    // of `F` by the caller's promise.
    let failed = unsafe {
        WSAIoctl(
            socket_of(os),
            SIO_GET_EXTENSION_FUNCTION_POINTER,
            ptr::from_ref(id).cast(),
            size_of::<GUID>() as u32,
            ptr::from_mut(&mut function).cast(),
            size_of::<F>() as u32,
            &mut bytes,
            ptr::null_mut(),
            None,
        )
    };
    match failed {
        0 if bytes as usize == size_of::<F>() => Ok(function),
        0 => Err(io::Error::from_raw_os_error(WSAEMSGSIZE)),
        _ => Err(last_socket_error()),
    }
}

/// Wine's version where this is Wine, which is not judged by what Windows does.
pub(super) fn wine_version() -> Option<String> {
    // SAFETY: both names end with a zero byte; every process has ntdll loaded for ever. Wine's
    // function takes nothing and returns a string constant.
    unsafe {
        let ntdll = GetModuleHandleA(c"ntdll.dll".as_ptr().cast());
        let address = GetProcAddress(ntdll, c"wine_get_version".as_ptr().cast())?;
        let version: extern "C" fn() -> *const c_char = std::mem::transmute(address);
        Some(CStr::from_ptr(version()).to_string_lossy().into_owned())
    }
}

fn set_option(socket: &socket2::Socket, option: i32, value: &[u8]) -> io::Result<()> {
    #[cfg(test)]
    OPTIONS_SET.with_borrow_mut(|all| all.push((option, value.to_vec())));
    let len = i32::try_from(value.len()).expect("options are small");
    let value = if value.is_empty() { ptr::null() } else { value.as_ptr() };
    // SAFETY: `len` bytes are read from `value`.
    let failed = unsafe { setsockopt(socket_of(socket), SOL_SOCKET, option, value, len) };
    if failed == 0 { Ok(()) } else { Err(last_socket_error()) }
}

/// What a call that starts an operation returns: "pending" is the error [`is_pending`].
#[inline]
fn started(succeeded: bool, bytes: u32) -> io::Result<u32> {
    if succeeded { Ok(bytes) } else { Err(last_socket_error()) }
}

/// Whether this "error" says that the operation has begun.
pub(super) fn is_pending(error: &io::Error) -> bool {
    error.raw_os_error() == Some(WSA_IO_PENDING)
}

fn last_socket_error() -> io::Error {
    // SAFETY: there are no preconditions.
    io::Error::from_raw_os_error(unsafe { WSAGetLastError() })
}

fn socket_of(os: &socket2::Socket) -> SOCKET {
    os.as_raw_socket() as SOCKET
}

/// The socket as the calls that take any handle name it.
pub(super) fn handle(os: &socket2::Socket) -> HANDLE {
    os.as_raw_socket() as usize as HANDLE
}

/// `AcceptEx` wants 16 bytes more than any address takes, for each of two.
const ACCEPT_ADDRESS_BYTES: u32 = size_of::<SOCKADDR_STORAGE>() as u32 + 16;

/// Room for the two addresses that `AcceptEx` writes.
pub(super) const ACCEPT_ADDRESSES_BYTES: usize = 2 * ACCEPT_ADDRESS_BYTES as usize;

#[cfg(test)]
thread_local! {
    /// What this thread has called `setsockopt` with: some calls can be left out under Wine and
    /// nothing is seen of that.
    pub(super) static OPTIONS_SET: std::cell::RefCell<Vec<(i32, Vec<u8>)>> =
        const { std::cell::RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn an_address_that_is_listened_on_is_nobody_elses() {
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listeners =
            crate::socket::listen(any, &crate::socket::ListenOptions::default(), 1).unwrap();
        let other =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        other.set_reuse_address(true).unwrap();
        let error = other.bind(&listeners[0].local_addr().into()).unwrap_err();
        let kinds = [io::ErrorKind::AddrInUse, io::ErrorKind::PermissionDenied];
        assert!(kinds.contains(&error.kind()), "{error}");
    }

    #[test]
    fn the_system_cannot_write_to_a_closed_block() {
        use crate::memory::{Access, Memory};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (&peer).write_all(&[1; 64]).unwrap();
        let stream = socket2::Socket::from(listener.accept().unwrap().0);
        let memory = Memory::new(16, 1, true);
        // SAFETY: the system checks the memory itself; that it refuses is what is tested.
        let receive = || unsafe { receive_now(&stream, memory.as_ptr(), 16) };
        assert_eq!(receive().unwrap(), 16);
        memory.protect(Access::Nobody);
        receive().unwrap_err();
        memory.protect(Access::Write);
        assert_eq!(receive().unwrap(), 16);
    }
}
