//! The page of metrics, in OpenMetrics' text, which Prometheus reads.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use wharf::port::EngineInfo;
use wharf::{CloseReason, Handle, HandlerTimes, Stats, TurnTimes};

/// What a server has counted until now.
///
/// # Errors
/// A sentence for whoever asks: a worker has more to do than it may.
pub(super) fn of(served: &Handle) -> Result<String, String> {
    let stats = served.stats().map_err(|error| format!("{error}\n"))?;
    let page = Page {
        stats,
        handlers: served.handler_times(),
        engine: served.engines()[0].clone(),
        workers: served.engines().len(),
    };
    let mut registry = Registry::with_prefix("wharf");
    registry.register_collector(Box::new(page));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("a string takes everything");
    Ok(text)
}

#[derive(Debug)]
struct Page {
    stats: Stats,
    handlers: Vec<HandlerTimes>,
    engine: EngineInfo,
    workers: usize,
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(&mut encoder);
        // Every field by name: one that is added and not shown here does not compile.
        let Stats {
            sessions,
            send_memory_bytes,
            memory_aborts,
            drain_aborted,
            accepted,
            refused,
            refused_sessions_per_address,
            refused_accepts_per_address,
            refused_descriptors,
            accept_errors,
            connected,
            connect_failures,
            slow_calls,
            frames_received,
            bytes_received,
            rate_delays,
            frames_sent,
            bytes_sent,
            sends,
            buffers_sent,
            bytes_lost,
            soft_marks_crossed,
            hard_marks_reached,
            dropped_newest,
            dropped_oldest,
            dropped_latest,
            replaced_latest,
            sends_too_late,
            jobs,
            job_panics,
            events_dropped,
            offload_panics,
            system_calls,
            buffer_shortages,
            queue_bytes,
            operations_in_flight,
            buffers_lent,
            blocks_in_use,
            receives_parked,
            timers,
            turn_times,
            closed,
        } = self.stats;
        let engine =
            [("engine", self.engine.engine.to_string()), ("detail", self.engine.detail.clone())];
        out.info("build", "The program", &[("version", env!("CARGO_PKG_VERSION"))])?;
        out.info("engine", "The completion engine", &engine)?;
        out.gauge("workers", "Worker threads", self.workers)?;
        out.gauge("sessions", "Sessions that are open or closing", sessions)?;
        out.counter("accepted", "Connections accepted", accepted)?;
        let refused = [
            ("sessions", refused),
            ("sessions_per_address", refused_sessions_per_address),
            ("accepts_per_address", refused_accepts_per_address),
            ("descriptors", refused_descriptors),
        ];
        let help = "Connections closed as they were accepted, by the limit that was reached";
        out.counters("refused", help, "limit", &refused)?;
        out.counter("accept_errors", "Times that accepting failed", accept_errors)?;
        out.counter("connected", "Connections made", connected)?;
        out.counter("connect_failures", "Connections that could not be made", connect_failures)?;
        out.closed(&closed)?;
        out.counter("slow_calls", "Calls of handlers that took too long", slow_calls)?;
        out.counter("frames_received", "Frames handed to handlers", frames_received)?;
        out.counter("bytes_received", "Bytes received", bytes_received)?;
        out.counter("rate_delays", "Times that a session had to wait for its rate", rate_delays)?;
        out.counter("frames_sent", "Frames queued for peers", frames_sent)?;
        out.counter("bytes_sent", "Bytes handed to the system for peers", bytes_sent)?;
        out.counter("sends", "Sends completed: frames_sent over this leave together", sends)?;
        out.counter("buffers_sent", "Pieces that sends were gathered from", buffers_sent)?;
        out.counter("bytes_lost", "Bytes queued for sessions that were aborted", bytes_lost)?;
        out.counter("drain_aborted", "Sessions cut off at the deadline of a drain", drain_aborted)?;
        out.counter(
            "memory_aborts",
            "Sessions cut off for the memory of what waits to be sent",
            memory_aborts,
        )?;
        out.gauge("send_memory_bytes", "Memory of all that waits to be sent", send_memory_bytes)?;
        out.gauge("queue_bytes", "Bytes queued for peers", queue_bytes)?;
        out.counter(
            "soft_marks_crossed",
            "Times that a send queue went above its soft mark",
            soft_marks_crossed,
        )?;
        out.counter(
            "hard_marks_reached",
            "Frames that a send queue had no room for",
            hard_marks_reached,
        )?;
        let drops = [
            ("newest", dropped_newest),
            ("oldest", dropped_oldest),
            ("latest", dropped_latest),
            ("latest_replaced", replaced_latest),
        ];
        out.counters("frames_dropped", "Frames dropped, by their class", "class", &drops)?;
        out.counter(
            "sends_too_late",
            "Frames from other threads for sessions that were over",
            sends_too_late,
        )?;
        out.counter("jobs", "Keyed jobs run", jobs)?;
        out.counter("job_panics", "Keyed jobs that panicked", job_panics)?;
        out.counter(
            "events_dropped",
            "Results and calls for sessions that were over",
            events_dropped,
        )?;
        out.counter("offload_panics", "Offloaded work that panicked", offload_panics)?;
        out.counter("system_calls", "System calls of the completion ports", system_calls)?;
        out.counter(
            "buffer_shortages",
            "Times that a receive had to wait for a buffer",
            buffer_shortages,
        )?;
        out.gauge(
            "operations_in_flight",
            "Operations that the ports have not completed",
            operations_in_flight,
        )?;
        out.gauge("buffers_lent", "Receive buffers lent and not given back", buffers_lent)?;
        out.gauge("blocks_in_use", "Pooled blocks in use", blocks_in_use)?;
        out.gauge("receives_parked", "Receives that wait for a buffer", receives_parked)?;
        out.gauge("timers", "Timers set", timers)?;
        out.turns(&turn_times)?;
        out.handlers(&self.handlers)
    }
}

/// Writes metrics, one after the other.
struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        gauge.encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn info(&mut self, name: &str, help: &str, labels: &impl EncodeLabelSet) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(labels)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[(&str, u64)],
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.iter().try_for_each(|(value, count)| {
            let labels = [(label, *value)];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)
        })
    }

    fn closed(&mut self, counts: &[u64; CloseReason::ALL.len()]) -> fmt::Result {
        let names = CloseReason::ALL.map(CloseReason::name);
        let values: Vec<(&str, u64)> = names.into_iter().zip(*counts).collect();
        self.counters("closed", "Sessions closed, by reason", "reason", &values)
    }

    fn turns(&mut self, times: &TurnTimes) -> fmt::Result {
        let help = "What a worker's turns took";
        histogram(
            self.0.encode_descriptor("turn_seconds", help, None, MetricType::Histogram)?,
            times,
        )
    }

    /// Of each listener the packets that its handler registers, and all others as one.
    fn handlers(&mut self, handlers: &[HandlerTimes]) -> fmt::Result {
        let help = "What handling a frame took, by packet id; one frame in 61 is measured";
        let mut family =
            self.0.encode_descriptor("handler_seconds", help, None, MetricType::Histogram)?;
        for handler in handlers {
            let listener = handler.listener.map_or("none".to_owned(), |at| at.to_string());
            let registered = handler.packets.iter();
            let registered =
                registered.map(|packet| (packet.id.to_string(), packet.name, &packet.times));
            for (packet, name, times) in
                registered.chain([("other".to_owned(), "", &handler.other)])
            {
                let labels = [("listener", listener.as_str()), ("packet", &packet), ("name", name)];
                histogram(family.encode_family(&labels)?, times)?;
            }
        }
        Ok(())
    }
}

fn histogram(mut out: MetricEncoder<'_>, times: &TurnTimes) -> fmt::Result {
    let bounds = TurnTimes::BOUNDS.iter().map(std::time::Duration::as_secs_f64);
    let bounds = bounds.chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(times.counts).collect();
    let (sum, count) = (times.total_ns as f64 / 1e9, times.counts.iter().sum());
    out.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}
