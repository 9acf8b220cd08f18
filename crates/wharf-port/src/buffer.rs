//! Buffers: lent ones for receiving, pooled ones for sending. All belong to one port's thread.
//!
//! Received bytes lie in a [`RecvBuffer`] that the port lends out of a fixed pool (P2). Bytes to
//! send are written into a [`FrameBuf`] from the [`BufferPool`], frozen into a [`Frame`] that can be
//! shared without copying (a non-atomic reference count), and submitted together as a [`Gather`].
//! A warm pool allocates nothing.

use std::{
    cell::{Cell, RefCell},
    fmt,
    ops::{Deref, Range},
    rc::{Rc, Weak},
};

use crate::memory::{Access, Memory};

/// A received piece of the stream, lent by the port and given back when dropped.
pub struct RecvBuffer {
    pool: Rc<RecvPool>,
    /// Which buffer, and how much of it was filled.
    id_and_len: Halves,
}

impl RecvBuffer {
    /// Lends out buffer `id`, which the backend has taken from the pool and filled with `len` bytes.
    #[inline]
    pub(crate) fn lend(pool: &Rc<RecvPool>, id: u16, len: usize) -> Self {
        debug_assert!(len <= pool.buffer_bytes);
        pool.lent.set(pool.lent.get() + 1);
        pool.blocks.get(id).protect(Access::Read);
        let len = u32::try_from(len).expect("buffers are small");
        Self { pool: Rc::clone(pool), id_and_len: Halves::new(u32::from(id), len) }
    }

    #[inline]
    fn id(&self) -> u16 {
        self.id_and_len.upper() as u16
    }
}

impl Deref for RecvBuffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.pool.blocks.slice(self.id(), self.id_and_len.lower() as usize)
    }
}

impl Drop for RecvBuffer {
    #[inline]
    fn drop(&mut self) {
        self.pool.lent.set(self.pool.lent.get() - 1);
        self.pool.give_back(self.id());
    }
}

impl fmt::Debug for RecvBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvBuffer({} bytes)", self.len())
    }
}

/// The fixed pool that receive buffers are lent from.
pub(crate) struct RecvPool {
    blocks: Blocks,
    buffer_bytes: usize,
    count: u16,
    lent: Cell<usize>,
    free: FreeList,
}

/// Where the free buffers of a [`RecvPool`] wait.
pub(crate) enum FreeList {
    /// In a list of ours, for backends that name a buffer when they receive.
    Stack(RefCell<Vec<u16>>),
    /// In a ring that the kernel takes them from.
    #[cfg(target_os = "linux")]
    Ring(crate::uring::BufRing),
}

/// One piece of memory cut into buffers, or, guarded, a piece for each.
enum Blocks {
    Shared { memory: Memory, each: usize },
    Guarded(Vec<Memory>),
}

/// One buffer's memory, as far as its protection goes.
struct Block<'a>(Option<&'a Memory>);

impl Block<'_> {
    #[inline]
    fn protect(&self, access: Access) {
        if let Some(memory) = self.0 {
            memory.protect(access);
        }
    }
}

impl Blocks {
    #[inline]
    fn get(&self, id: u16) -> Block<'_> {
        match self {
            Blocks::Shared { .. } => Block(None),
            Blocks::Guarded(all) => Block(Some(&all[usize::from(id)])),
        }
    }

    #[inline]
    fn slice(&self, id: u16, len: usize) -> &[u8] {
        match self {
            Blocks::Shared { memory, each } => {
                memory.slice(usize::from(id) * each..usize::from(id) * each + len)
            }
            Blocks::Guarded(all) => all[usize::from(id)].slice(0..len),
        }
    }

    #[inline]
    fn address(&self, id: u16) -> *mut u8 {
        match self {
            Blocks::Shared { memory, each } => {
                let offset = usize::from(id) * each;
                debug_assert!(offset + each <= memory.len());
                // SAFETY: every id that the pool hands out lies inside its memory.
                unsafe { memory.as_ptr().add(offset) }
            }
            Blocks::Guarded(all) => all[usize::from(id)].as_ptr(),
        }
    }
}

impl RecvPool {
    /// A pool of `count` buffers of `buffer_bytes` each. `free` must be an empty list or ring; the
    /// pool fills it.
    pub(crate) fn new(count: u16, buffer_bytes: usize, guarded: bool, free: FreeList) -> Rc<Self> {
        let blocks = if guarded {
            Blocks::Guarded((0..count).map(|_| Memory::new(buffer_bytes, 1, true)).collect())
        } else {
            let memory = Memory::new(usize::from(count) * buffer_bytes, 4096, false);
            Blocks::Shared { memory, each: buffer_bytes }
        };
        let pool = Rc::new(Self { blocks, buffer_bytes, count, lent: Cell::new(0), free });
        (0..count).rev().for_each(|id| pool.give_back(id));
        pool
    }

    /// Takes a free buffer out of the list; `None` if there is none. Not for ring pools.
    pub(crate) fn take(&self) -> Option<u16> {
        match &self.free {
            FreeList::Stack(free) => free.borrow_mut().pop(),
            #[cfg(target_os = "linux")]
            FreeList::Ring(_) => unreachable!("the kernel takes buffers out of a ring"),
        }
    }

    /// Makes buffer `id` free again.
    #[inline]
    pub(crate) fn give_back(&self, id: u16) {
        self.blocks.get(id).protect(Access::Write);
        match &self.free {
            FreeList::Stack(free) => free.borrow_mut().push(id),
            #[cfg(target_os = "linux")]
            FreeList::Ring(ring) => {
                if !ring.keep_aside(id) {
                    ring.provide(self.address(id), self.buffer_bytes, id);
                }
            }
        }
    }

    /// The kernel has taken a buffer out of the ring.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(crate) fn note_taken(&self) {
        if let Some(ring) = self.ring() {
            ring.note_taken();
        }
    }

    /// Puts into the ring what the next turn is likely to take; all there is where receives wait for
    /// buffers (`is_short`).
    #[cfg(target_os = "linux")]
    #[inline]
    pub(crate) fn fill_ring(&self, is_short: bool) {
        let Some(ring) = self.ring() else { return };
        if is_short {
            ring.want_all();
        } else {
            ring.adapt();
        }
        self.provide_missing(ring);
    }

    /// Puts all into the ring, as a receive has found none there; whether there is one now.
    #[cfg(target_os = "linux")]
    #[cold]
    pub(crate) fn lengthen_ring(&self) -> bool {
        let Some(ring) = self.ring() else { return false };
        ring.want_all();
        self.provide_missing(ring);
        !ring.is_empty()
    }

    #[cfg(target_os = "linux")]
    #[inline]
    fn provide_missing(&self, ring: &crate::uring::BufRing) {
        while let Some(id) = ring.missing() {
            ring.provide(self.address(id), self.buffer_bytes, id);
        }
    }

    /// Where buffer `id` lies; valid for `buffer_bytes`.
    #[inline]
    pub(crate) fn address(&self, id: u16) -> *mut u8 {
        self.blocks.address(id)
    }

    #[inline]
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    #[inline]
    pub(crate) fn lent(&self) -> usize {
        self.lent.get()
    }

    /// Buffers that are not lent. In a ring pool some of them may be filled but not yet delivered.
    #[inline]
    pub(crate) fn free(&self) -> usize {
        usize::from(self.count) - self.lent.get()
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn ring(&self) -> Option<&crate::uring::BufRing> {
        match &self.free {
            FreeList::Ring(ring) => Some(ring),
            FreeList::Stack(_) => None,
        }
    }
}

/// A worker's pool of blocks for bytes to send, in size classes. Cloning gives another handle to
/// the same pool.
#[derive(Clone)]
pub struct BufferPool(Rc<PoolInner>);

struct PoolInner {
    classes: [RefCell<Vec<Rc<PooledBlock>>>; CLASS_BYTES.len()],
    in_use: Cell<usize>,
    bytes_in_use: Cell<usize>,
    guarded: bool,
}

struct PooledBlock {
    memory: Memory,
    /// `None`: larger than every class, freed instead of kept.
    class: Option<u8>,
    pool: Weak<PoolInner>,
}

/// A block in use. The last who drops it gives it back to its pool.
#[derive(Clone)]
struct Held(Rc<PooledBlock>);

impl BufferPool {
    /// An empty pool; `guarded` puts every block behind guard pages (slow, for tests).
    #[must_use]
    pub fn new(guarded: bool) -> Self {
        Self(Rc::new(PoolInner {
            classes: Default::default(),
            in_use: Cell::new(0),
            bytes_in_use: Cell::new(0),
            guarded,
        }))
    }

    /// An empty buffer with room for at least `capacity` bytes.
    #[must_use]
    pub fn take(&self, capacity: usize) -> FrameBuf {
        let class = CLASS_BYTES.iter().position(|&bytes| capacity <= bytes);
        let kept = class.and_then(|class| self.0.classes[class].borrow_mut().pop());
        let block = kept.unwrap_or_else(|| {
            let bytes = class.map_or(capacity, |class| CLASS_BYTES[class]);
            Rc::new(PooledBlock {
                memory: Memory::new(bytes, 64, self.0.guarded),
                class: class.map(|class| class as u8),
                pool: Rc::downgrade(&self.0),
            })
        });
        block.memory.protect(Access::Write);
        self.0.in_use.set(self.0.in_use.get() + 1);
        self.0.bytes_in_use.set(self.0.bytes_in_use.get() + block.memory.len());
        FrameBuf { block: Held(block), len: 0 }
    }

    /// Blocks that some frame holds at present.
    #[must_use]
    pub fn blocks_in_use(&self) -> usize {
        self.0.in_use.get()
    }

    /// Bytes of those blocks: a block that several frames share counts once.
    #[inline]
    #[must_use]
    pub fn bytes_in_use(&self) -> usize {
        self.0.bytes_in_use.get()
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool({} blocks in use)", self.blocks_in_use())
    }
}

impl Held {
    #[inline]
    fn memory(&self) -> &Memory {
        &self.0.memory
    }

    fn give_back(&self) {
        let block = &self.0;
        let Some(pool) = block.pool.upgrade() else { return };
        pool.in_use.set(pool.in_use.get() - 1);
        pool.bytes_in_use.set(pool.bytes_in_use.get() - block.memory.len());
        if let Some(class) = block.class.map(usize::from) {
            let mut kept = pool.classes[class].borrow_mut();
            if kept.len() * CLASS_BYTES[class] < KEPT_BYTES_MAX {
                block.memory.protect(Access::Nobody);
                kept.push(Rc::clone(block));
            }
        }
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) == 1 {
            self.give_back();
        }
    }
}

/// A pooled buffer being written. What is written can be [shared](Self::share) while more is written
/// behind it.
pub struct FrameBuf {
    /// Nobody else writes to it, and nobody looks at it behind `len`, which only grows.
    block: Held,
    len: usize,
}

impl FrameBuf {
    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it can hold in all.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.block.memory().len()
    }

    /// The part that is still unwritten. What is in it is left over from earlier use.
    #[inline]
    #[must_use]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let (memory, len) = (self.block.memory(), self.len);
        debug_assert!(len <= memory.len());
        // SAFETY: bytes of the block, initialised, and nobody else's: frames that share it end at `len`
        // or before, and the slice borrows the only buffer that writes to it.
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr().add(len), memory.len() - len) }
    }

    /// Counts `bytes` of the spare part as written.
    ///
    /// # Panics
    /// If the spare part is shorter.
    #[inline]
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.capacity() - self.len, "no more can be written than there is room");
        self.len += bytes;
    }

    /// Lets `write` fill the next `len` bytes, in which is what is left over from earlier use, and
    /// appends as many of them as it says; `None` where there is less room. Of an error nothing is
    /// appended.
    ///
    /// # Panics
    /// If `write` says that it wrote more.
    #[inline]
    pub fn append_with<E>(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Option<Result<usize, E>> {
        let written = match write(self.spare_mut().get_mut(..len)?) {
            Ok(written) => written,
            Err(error) => return Some(Err(error)),
        };
        assert!(written <= len, "no more can be written than there is room");
        self.len += written;
        Some(Ok(written))
    }

    /// Appends as much of `bytes` as fits and returns how much that was.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare_mut();
        let fits = spare.len().min(bytes.len());
        spare[..fits].copy_from_slice(&bytes[..fits]);
        self.len += fits;
        fits
    }

    /// Appends all of `bytes`. Where they do not fit, what is there moves into a larger block of the
    /// pool first: at least twice as large, so that no byte is copied often.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let len = self.len + bytes.len();
        if len > self.capacity() {
            let pool = self.block.0.pool.upgrade().map(BufferPool);
            // Without its pool it is as large as it must be, and freed when it is dropped.
            let pool = pool.unwrap_or_else(|| BufferPool::new(false));
            let mut larger = pool.take(len.max(2 * self.capacity()));
            larger.append(self);
            *self = larger;
        }
        self.append(bytes);
    }

    /// A frame of some of the bytes written so far, which more can be written behind.
    ///
    /// # Panics
    /// If `range` is not inside.
    #[must_use]
    pub fn share(&self, range: Range<usize>) -> Frame {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "only what is written is shared"
        );
        let length = |bytes| u32::try_from(bytes).expect("a frame is shorter than 4 GiB");
        let (start, len) = (length(range.start), length(range.len()));
        let block = (len > 0).then(|| self.block.clone());
        Frame { block, start_and_len: Halves::new(start, len) }
    }

    /// Ends writing: the bytes can now be shared and sent.
    #[inline]
    #[must_use]
    pub fn freeze(self) -> Frame {
        let len = u32::try_from(self.len).expect("a frame is shorter than 4 GiB");
        Frame { block: Some(self.block), start_and_len: Halves::new(0, len) }
    }
}

impl Deref for FrameBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.block.memory().slice(0..self.len)
    }
}

impl fmt::Debug for FrameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameBuf({} of {} bytes)", self.len, self.capacity())
    }
}

/// Pooled bytes that can be shared: cloning copies a reference, not the bytes. Belongs to one
/// worker (`!Send`). The default is a frame of no bytes, which holds no block.
#[derive(Clone, Default)]
pub struct Frame {
    /// `None` in a frame of no bytes.
    block: Option<Held>,
    start_and_len: Halves,
}

impl Frame {
    /// A frame of part of these bytes, sharing them.
    ///
    /// # Panics
    /// If `range` is not inside.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Frame {
        assert!(range.start <= range.end && range.end <= self.len());
        let start = self.start_and_len.upper() + range.start as u32;
        let start_and_len = Halves::new(start, range.len() as u32);
        Frame { block: self.block.clone(), start_and_len }
    }
}

impl Deref for Frame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let Some(block) = &self.block else { return &[] };
        let start = self.start_and_len.upper() as usize;
        block.memory().slice(start..start + self.start_and_len.lower() as usize)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.len())
    }
}

/// Two numbers in one word. A pointer and a word stay in registers while they are moved; a pointer and
/// two smaller numbers are written to the stack one by one and loaded as a whole, which waits until all
/// of them have reached the cache.
#[derive(Clone, Copy, Default)]
struct Halves(u64);

impl Halves {
    #[inline]
    fn new(upper: u32, lower: u32) -> Self {
        Self(u64::from(upper) << 32 | u64::from(lower))
    }

    #[inline]
    fn upper(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    fn lower(self) -> u32 {
        self.0 as u32
    }
}

/// Frames that leave in one send, in order: at most [`Gather::FRAMES_MAX`] of them.
///
/// A pointer, which is moved often on the way of a send: into the operation, into the record of it, out
/// again, into its completion. What was just written part by part is slow to move as a whole.
#[derive(Debug, Default)]
pub struct Gather(Option<Box<Gathered>>);

#[derive(Debug, Default)]
struct Gathered {
    frames: Vec<Frame>,
    bytes: usize,
}

impl Gather {
    /// As many buffers as one send takes. (Linux takes 1,024; more than 64 no longer pays.)
    pub const FRAMES_MAX: usize = 64;

    /// A gather with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a frame behind the others.
    ///
    /// # Panics
    /// If there are [`Self::FRAMES_MAX`] already, or `frame` is empty.
    #[expect(clippy::inline_always, reason = "called with a frame just made it would wait for it")]
    #[inline(always)]
    pub fn push(&mut self, frame: Frame) {
        let gathered = self.0.get_or_insert_default();
        assert!(gathered.frames.len() < Self::FRAMES_MAX, "a gather takes 64 frames");
        let bytes = frame.start_and_len.lower() as usize;
        assert!(bytes > 0, "an empty frame cannot be sent");
        gathered.bytes += bytes;
        gathered.frames.push(frame);
    }

    /// The frames.
    #[inline]
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        self.0.as_ref().map_or(&[], |gathered| &gathered.frames)
    }

    /// Bytes in all frames.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |gathered| gathered.bytes)
    }

    /// Whether there are no frames.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames().is_empty()
    }

    /// Whether no further frame fits.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.frames().len() == Self::FRAMES_MAX
    }

    /// Drops the frames and keeps the room for them.
    #[inline]
    pub fn clear(&mut self) {
        if let Some(gathered) = &mut self.0 {
            gathered.frames.clear();
            gathered.bytes = 0;
        }
    }
}

impl From<Frame> for Gather {
    fn from(frame: Frame) -> Self {
        let mut gather = Self::new();
        gather.push(frame);
        gather
    }
}

/// Sizes of pooled blocks: an answer, a few answers, a page, a large frame, a whole gather. The last three
/// with room for a header, as bodies like to have round lengths.
const CLASS_BYTES: [usize; 5] =
    [256, 1024, 4096 + HEADER_BYTES, 16 * 1024 + HEADER_BYTES, 64 * 1024 + HEADER_BYTES];

/// The longest header that a framing with a length field can have, rounded up.
const HEADER_BYTES: usize = 256;

/// Free memory that a pool keeps per class; what comes back beyond that is freed.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> FreeList {
        FreeList::Stack(RefCell::new(Vec::new()))
    }

    #[test]
    fn a_block_goes_back_to_its_pool_when_its_last_frame_is_dropped() {
        for guarded in [false, true] {
            let pool = BufferPool::new(guarded);
            let mut buf = pool.take(10);
            assert_eq!((buf.capacity(), buf.append(b"hello")), (256, 5));
            let address = buf.as_ptr();
            let frame = buf.freeze();
            let part = frame.slice(1..3);
            drop(frame);
            assert_eq!((&*part, pool.blocks_in_use()), (&b"el"[..], 1));
            drop(part);
            assert_eq!(pool.blocks_in_use(), 0);
            let again = pool.take(256);
            assert_eq!((again.as_ptr(), again.len()), (address, 0));
        }
    }

    #[test]
    fn blocks_larger_than_every_class_are_not_kept() {
        let pool = BufferPool::new(false);
        let buf = pool.take(100_000);
        assert_eq!(buf.capacity(), 100_000);
        drop(buf);
        assert_eq!(pool.blocks_in_use(), 0);
    }

    #[test]
    fn a_frame_outlives_its_pool() {
        let mut buf = BufferPool::new(false).take(3);
        buf.append(b"abc");
        assert_eq!(&*buf.freeze(), b"abc");
    }

    #[test]
    fn a_buffer_grows_with_what_is_added() {
        for guarded in [false, true] {
            let pool = BufferPool::new(guarded);
            let mut buf = pool.take(200);
            let mut expected = Vec::new();
            for (added, capacity) in
                [(200, 256), (56, 256), (1, 1024), (5000, 16_640), (70_000, 75_257)]
            {
                let bytes: Vec<u8> = (0..added).map(|i| ((i * 7) >> 3) as u8).collect();
                buf.extend_from_slice(&bytes);
                expected.extend_from_slice(&bytes);
                assert_eq!((*buf == *expected, buf.capacity()), (true, capacity));
                assert_eq!(pool.blocks_in_use(), 1, "the smaller block went back");
            }
            drop(pool);
            buf.extend_from_slice(&[9; 100_000]);
            assert_eq!((buf.len(), buf[75_256], buf[75_257]), (175_257, expected[75_256], 9));
        }
    }

    /// What is shared stays as it is, whatever is written behind it and wherever that moves.
    #[test]
    fn what_is_written_can_be_shared_before_the_rest() {
        for guarded in [false, true] {
            let pool = BufferPool::new(guarded);
            let mut buf = pool.take(200);
            buf.append(b"abc");
            let (first, nothing) = (buf.share(0..3), buf.share(3..3));
            buf.spare_mut().fill(b'?');
            buf.append(b"defg");
            let second = buf.share(2..7);
            assert_eq!((&*first, &*second, &*nothing), (&b"abc"[..], &b"cdefg"[..], &b""[..]));
            assert_eq!((first.as_ptr(), pool.blocks_in_use()), (buf.as_ptr(), 1));
            buf.extend_from_slice(&[b'x'; 300]);
            assert_eq!((&*second, pool.blocks_in_use()), (&b"cdefg"[..], 2));
            drop((first, second));
            assert_eq!((&buf[..8], pool.blocks_in_use()), (&b"abcdefgx"[..], 1));
            // A block is another's only when nobody holds it any more.
            let kept = buf.share(0..7);
            drop(buf);
            let other = pool.take(1024);
            assert_ne!(other.as_ptr(), kept.as_ptr());
            assert_eq!(&*kept, b"abcdefg");
        }
    }

    #[test]
    #[should_panic(expected = "only what is written")]
    fn what_is_not_written_is_not_shared() {
        let mut buf = BufferPool::new(false).take(8);
        buf.append(b"abc");
        let _ = buf.share(0..4);
    }

    #[test]
    fn a_lent_buffer_comes_back_when_dropped_and_outlives_the_port() {
        for guarded in [false, true] {
            let pool = RecvPool::new(2, 64, guarded, stack());
            let ids = (pool.take().unwrap(), pool.take().unwrap());
            assert_eq!((ids, pool.take()), ((0, 1), None));
            let lent = RecvBuffer::lend(&pool, ids.1, 3);
            assert_eq!((pool.lent(), pool.free(), &*lent), (1, 1, &[0; 3][..]));
            drop(pool);
            assert_eq!(lent.len(), 3);
        }
    }

    #[test]
    #[should_panic(expected = "64 frames")]
    fn a_gather_has_a_limit() {
        let frame = {
            let mut buf = BufferPool::new(false).take(1);
            buf.append(b"x");
            buf.freeze()
        };
        let mut gather = Gather::new();
        (0..=Gather::FRAMES_MAX).for_each(|_| gather.push(frame.clone()));
    }
}
