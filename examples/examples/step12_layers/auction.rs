//! Content: an auction of one lot. Whoever offers more than anybody before has it, and all are told.
//! Nothing in here knows of sockets, threads or locks, or of what runs it.

use wharf::{Class, Context, Handle, Job, Router, SendError, SessionId, Topic, packet::Packet};

wharf::packet! {
    pub(crate) struct Bid = 301 { pub(crate) amount: u32 }

    /// 0: the lot is yours; 1: somebody has offered as much.
    pub(crate) struct BidResponse = 302 { pub(crate) result: u16 }

    /// To everybody when it has changed, and to whoever has just come.
    pub(crate) struct Highest = 303 { pub(crate) amount: u32 }
}

/// What a handler remembers: nothing, since what bidders share belongs to the lot's key.
pub(crate) struct Auction;

/// The state of the key. Its jobs alone touch it, one after the other.
#[derive(Default)]
struct Lot {
    highest: u32,
}

pub(crate) fn router() -> Router<Auction, ()> {
    Router::builder().on_open(open).on::<Bid>(bid).build()
}

fn open(_: &mut Auction, cx: &mut Context<'_, ()>) -> wharf::Result {
    cx.subscribe(TOPIC)?;
    let who = cx.id();
    cx.post(KEY, move |job| {
        let (lot, handle) = job.split::<Lot>();
        let body = Highest { amount: lot.highest }.to_vec();
        // Of the class of what is published, or the two could overtake each other.
        ended_if_full(handle, who, handle.send_as(who, LATEST, Highest::ID, &body).map(drop));
    })?;
    Ok(())
}

fn bid(_: &mut Auction, cx: &mut Context<'_, ()>, bid: Bid) -> wharf::Result {
    let who = cx.id();
    cx.post(KEY, move |job| raise(job, who, bid.amount))?;
    Ok(())
}

/// Of two who offer as much, the first has it.
fn raise(job: &mut Job<'_>, who: SessionId, amount: u32) {
    let (lot, handle) = job.split::<Lot>();
    let is_highest = amount > lot.highest;
    answer(handle, who, &BidResponse { result: u16::from(!is_highest) });
    if is_highest {
        lot.highest = amount;
        tell_all(job);
    }
}

/// Only the last is worth knowing: who reads slowly gets that, and not all before it.
fn tell_all(job: &mut Job<'_>) {
    let (lot, handle) = job.split::<Lot>();
    let body = Highest { amount: lot.highest }.to_vec();
    let told = handle.publish(TOPIC, LATEST, Highest::ID, &body);
    if told == Err(SendError::WouldExceed) && job.post(KEY, tell_all).is_err() {
        eprintln!("not everybody knows the highest bid: the server has more to do than it may");
    }
}

fn answer<P: Packet>(handle: &Handle, who: SessionId, packet: &P) {
    ended_if_full(handle, who, handle.send_typed(who, packet));
}

/// Whoever is gone needs no answer; one who cannot be told anything must not wait for it.
fn ended_if_full(handle: &Handle, who: SessionId, sent: Result<(), SendError>) {
    if sent == Err(SendError::WouldExceed) {
        let _ = handle.close(who);
    }
}

const KEY: u64 = u32::from_be_bytes(*b"lot1") as u64;
const TOPIC: Topic = Topic(KEY);
/// One that waits is replaced by the next.
const LATEST: Class = Class::Latest(KEY);
