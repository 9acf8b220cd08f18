//! What a worker's thread is made from, and its life.

use std::{
    process,
    sync::{Arc, mpsc},
};

use wharf_port::{
    CompletionPort, Config as PortConfig, EngineInfo, Inbox, Parker, Post, SocketOptions,
    UnboundListener, inbox,
};

use super::{COMMANDS_WAITING_MAX, Dispatch, ServiceSource, cannot_listen};
use crate::{
    connector::Connector,
    error::{Error, Result},
    handle::{Command, Handle, ThreadKind},
    handler_times::Clock,
    metrics::Report,
    session::Round,
    worker::{ListenerParts, Worker, WorkerParts},
};

/// All that a worker's thread needs to make its worker.
pub(super) struct Plan {
    pub(super) index: u8,
    pub(super) port: PortConfig,
    pub(super) sources: Vec<ServiceSource>,
    pub(super) dispatch: Dispatch,
    pub(super) connectors: Vec<Connector>,
    pub(super) socket_options: SocketOptions,
    pub(super) timer_tick_ns: u64,
    pub(super) seed: u64,
    pub(super) listening: Vec<(u16, UnboundListener)>,
    pub(super) hand_over: bool,
}

/// What a worker's thread says while the server starts.
pub(super) enum Opened {
    Port(Result<(u8, EngineInfo, Post<Command>)>),
    Listening(Result<()>),
}

impl Plan {
    /// The life of a worker's thread.
    pub(super) fn run(
        self,
        ready: &mpsc::Sender<Opened>,
        started: &mpsc::Receiver<Handle>,
    ) -> Report {
        ThreadKind::Worker.enter();
        let opened = self.open_port();
        let (port, inbox) = match opened {
            Ok((port, post, inbox)) => {
                let _ = ready.send(Opened::Port(Ok((self.index, port.engine().clone(), post))));
                (port, inbox)
            }
            Err(error) => {
                let _ = ready.send(Opened::Port(Err(error)));
                return Report::default();
            }
        };
        // No handle comes if another worker could not start.
        let Ok(handle) = started.recv() else { return Report::default() };
        let links = Arc::clone(&handle.0);
        let (mut worker, listening) = self.make_worker(port, inbox, handle, Box::new(Parker::now));
        let failed = listening.is_err();
        let _ = ready.send(Opened::Listening(listening));
        if failed {
            links.worker_ended();
            return Report::default();
        }
        while !worker.is_finished() {
            match worker.wait() {
                Ok(now) => worker.turn(now),
                Err(error) => {
                    tracing::error!(%error, "a completion port broke");
                    process::abort();
                }
            }
        }
        let report = worker.report();
        links.worker_ended();
        report
    }

    #[expect(clippy::type_complexity, reason = "two ends of one inbox beside the port")]
    fn open_port(&self) -> Result<(Box<dyn CompletionPort>, Post<Command>, Inbox<Command>)> {
        let what = format!("cannot start the {} engine", self.port.engine);
        let port = wharf_port::open(&self.port).map_err(Error::io(what))?;
        let (post, inbox) = inbox(port.waker(), COMMANDS_WAITING_MAX);
        Ok((port, post, inbox))
    }

    pub(super) fn make_worker(
        self,
        port: Box<dyn CompletionPort>,
        inbox: Inbox<Command>,
        handle: Handle,
        clock: Clock,
    ) -> (Worker, Result<()>) {
        let service = |(index, source): (usize, &ServiceSource)| {
            let service = match self.dispatch {
                Dispatch::Inline => (source.make)(()),
                Dispatch::Threads(_) => (source.forward)(index as u16),
            };
            (service, Arc::new(source.limits.clone()))
        };
        let mut worker = Worker::new(
            port,
            WorkerParts {
                index: self.index,
                handle,
                inbox,
                services: self.sources.iter().enumerate().map(service).collect(),
                connectors: self.connectors,
                socket_options: self.socket_options,
                round: Round::of(&self.port),
                timer_tick_ns: self.timer_tick_ns,
                seed: self.seed,
                clock,
            },
        );
        let listening = self.listening.into_iter().try_for_each(|(service, listener)| {
            let address = listener.local_addr();
            worker
                .listen(ListenerParts { listener, service, hand_over: self.hand_over })
                .map_err(|error| cannot_listen(address, error))
        });
        (worker, listening)
    }
}

/// Waits until every worker has opened its port.
pub(super) fn gather_workers(
    opened: &mpsc::Receiver<Opened>,
    workers: usize,
) -> Result<Vec<(u8, EngineInfo, Post<Command>)>> {
    let mut found = Vec::new();
    for message in opened.iter().take(workers) {
        match message {
            Opened::Port(port) => found.push(port?),
            Opened::Listening(_) => unreachable!("no worker listens before it has a handle"),
        }
    }
    found.sort_by_key(|(index, ..)| *index);
    Ok(found)
}
