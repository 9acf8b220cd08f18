//! Judges what was found on a machine against what the settings want of it.

use serde::Serialize;

use super::machine::Facts;
use super::ports::{Port, State};
use crate::descriptors::RESERVED;
use crate::settings::{Bytes, Engine, Settings, grouped};

/// One finding.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Ok,
    /// Worth knowing; nothing needs to be done.
    Note,
    /// The server runs, with less than was asked for.
    Warn,
    /// The server cannot start as configured.
    Fail,
}

impl Status {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

impl Check {
    pub(crate) fn new(name: impl Into<String>, status: Status, found: String) -> Self {
        Self { name: name.into(), status, found, advice: None }
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// Judges everything that is known; what a system does not have is left out.
pub(crate) fn assess(facts: &Facts, settings: &Settings) -> Vec<Check> {
    let mut checks = engines(facts, settings);
    let is_linux = facts.operating_system == "linux";
    checks.extend(if is_linux { kernel(facts) } else { None });
    checks.extend(io_uring_switch(facts));
    checks.extend(seccomp(facts));
    checks.extend(descriptors(facts, settings));
    checks.extend(memlock(facts));
    checks.extend(backlog(facts, settings));
    checks.extend(facts.ports.iter().map(port));
    checks
}

fn engines(facts: &Facts, settings: &Settings) -> Vec<Check> {
    let wanted = settings.server.engine;
    let has_any = facts.engines.iter().any(|(_, outcome)| outcome.is_ok());
    let judge = |(name, outcome): &(String, Result<String, String>)| {
        let label = format!("engine {name}");
        let is_wanted = wanted.to_string() == *name;
        match outcome {
            Ok(detail) => Check::new(label, Status::Ok, detail.clone()),
            Err(reason) if is_wanted => Check::new(label, Status::Fail, reason.clone())
                .advise("the settings name this engine: `--engine auto` takes one that works"),
            Err(reason) if !has_any => Check::new(label, Status::Fail, reason.clone())
                .advise("no engine works here, so that nothing can be served"),
            Err(reason) => Check::new(label, Status::Note, reason.clone()),
        }
    };
    let mut checks: Vec<Check> = facts.engines.iter().map(judge).collect();
    let is_known = facts.engines.iter().any(|(name, _)| wanted.to_string() == *name);
    if wanted != Engine::Auto && !is_known && !facts.engines.is_empty() {
        let found = "not an engine of this system".to_owned();
        let check = Check::new(format!("engine {wanted}"), Status::Fail, found);
        checks.push(check.advise("the settings name this engine: use `--engine auto`"));
    }
    checks
}

/// Whether io_uring was probed and works.
fn is_uring_working(facts: &Facts) -> bool {
    facts.engines.iter().any(|(name, outcome)| name == "uring" && outcome.is_ok())
}

fn kernel(facts: &Facts) -> Option<Check> {
    let release = facts.kernel_release.as_deref()?;
    let oldest = format!("io_uring wants {}.{} or newer here", OLDEST_KERNEL.0, OLDEST_KERNEL.1);
    let found = format!("Linux {release} ({oldest})");
    Some(match version(release) {
        Some(version) if version >= OLDEST_KERNEL => Check::new("kernel", Status::Ok, found),
        Some(_) => Check::new("kernel", Status::Warn, found)
            .advise("the poll engine serves instead; a newer kernel costs less time per message"),
        None => Check::new("kernel", Status::Note, format!("{found}: version not understood")),
    })
}

/// Linux 6.1 is the first with IORING_SETUP_DEFER_TASKRUN, which the engine is built on.
const OLDEST_KERNEL: (u64, u64) = (6, 1);

/// Major and minor version of a release such as `6.18.44-generic`.
fn version(release: &str) -> Option<(u64, u64)> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn io_uring_switch(facts: &Facts) -> Option<Check> {
    let (status, found) = match facts.io_uring_disabled? {
        0 => (Status::Ok, "kernel.io_uring_disabled = 0: every process may use it"),
        _ if is_uring_working(facts) => {
            (Status::Ok, "kernel.io_uring_disabled is on, but this process is exempt")
        }
        1 => (
            Status::Warn,
            "kernel.io_uring_disabled = 1: only with CAP_SYS_ADMIN or in the group \
             kernel.io_uring_group",
        ),
        _ => (Status::Warn, "kernel.io_uring_disabled = 2: no process may use it"),
    };
    let check = Check::new("io_uring", status, found.to_owned());
    Some(match status {
        Status::Warn => check.advise(
            "sysctl -w kernel.io_uring_disabled=0, or put the user into \
             kernel.io_uring_group and set 1; until then the poll engine serves",
        ),
        _ => check,
    })
}

fn seccomp(facts: &Facts) -> Option<Check> {
    let mode = facts.seccomp?;
    let check = |status, found: &str| Check::new("seccomp", status, found.to_owned());
    Some(match mode {
        0 => check(Status::Ok, "no filter on system calls"),
        1 => check(Status::Fail, "strict: only read, write and exit are allowed")
            .advise("start wharf outside of this sandbox"),
        _ if is_uring_working(facts) => {
            check(Status::Ok, "system calls are filtered, io_uring is let through")
        }
        _ => check(
            Status::Warn,
            "system calls are filtered: the default profiles of Docker and \
             containerd refuse io_uring",
        )
        .advise(
            "allow io_uring_setup, io_uring_enter and io_uring_register in a profile of your \
                 own (docker run --security-opt seccomp=FILE); until then the poll engine serves",
        ),
    })
}

fn descriptors(facts: &Facts, settings: &Settings) -> Option<Check> {
    let limit = facts.descriptors?;
    let show = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), grouped);
    let wanted = u64::from(settings.server.max_sessions);
    let limits = format!("soft {}, hard {}", show(limit.soft), show(limit.hard));
    let Some(sessions) = limit.sessions() else {
        return Some(Check::new("descriptors", Status::Ok, limits));
    };
    let found = format!(
        "{limits}: room for {} sessions, {} wanted (wharf raises the soft limit itself)",
        grouped(sessions),
        grouped(wanted)
    );
    if sessions >= wanted {
        return Some(Check::new("descriptors", Status::Ok, found));
    }
    let needed = wanted + RESERVED;
    Some(Check::new("descriptors", Status::Warn, found).advise(format!(
        "raise the hard limit (systemd: LimitNOFILE={needed}, docker: --ulimit \
         nofile={needed}, shell as root: ulimit -n {needed})\nor lower --max-sessions"
    )))
}

fn memlock(facts: &Facts) -> Option<Check> {
    let limit = facts.memlock?;
    let found = limit.bytes.map_or_else(|| "unlimited".to_owned(), |b| Bytes(b).to_string());
    let release = facts.kernel_release.as_deref().and_then(version);
    // Linux 5.12 began to charge rings to the memory control group instead.
    let is_charged = release.is_some_and(|version| version < (5, 12));
    let is_small = limit.bytes.is_some_and(|bytes| bytes < 8 << 20);
    Some(if is_charged && is_small {
        Check::new("memlock", Status::Warn, format!("{found}: this kernel charges rings to it"))
            .advise("ulimit -l 8192 (systemd: LimitMEMLOCK=8M, docker: --ulimit memlock=8388608)")
    } else if is_charged {
        Check::new("memlock", Status::Ok, found)
    } else {
        let found = format!("{found} (rings do not count since Linux 5.12)");
        Check::new("memlock", Status::Ok, found)
    })
}

fn backlog(facts: &Facts, settings: &Settings) -> Option<Check> {
    let cap = facts.somaxconn?;
    let wanted = u64::from(settings.sockets.backlog);
    let found = format!("{} wanted, net.core.somaxconn allows {}", grouped(wanted), grouped(cap));
    Some(if cap >= wanted {
        Check::new("backlog", Status::Ok, found)
    } else {
        Check::new("backlog", Status::Warn, found).advise(format!(
            "sysctl -w net.core.somaxconn={wanted} (docker: --sysctl \
             net.core.somaxconn={wanted}), or lower --sockets-backlog"
        ))
    })
}

/// A wharf that has the port already is no fault of the machine: it is what was asked for.
fn port(port: &Port) -> Check {
    let name = format!("port {}", port.address);
    let elsewhere = format!("stop it, or name another address with {}", port.flag);
    match &port.state {
        State::Free => Check::new(name, Status::Ok, "free".to_owned()),
        State::Taken(Some(holder)) => {
            let found = format!("taken by {} (pid {})", holder.name, holder.process_id);
            if holder.name.trim_end_matches(".exe") == "wharf" {
                return Check::new(name, Status::Note, format!("{found}, which serves already"));
            }
            Check::new(name, Status::Fail, found).advise(elsewhere)
        }
        State::Taken(None) => {
            let found = "taken by a program that this user is not told of".to_owned();
            Check::new(name, Status::Fail, found).advise(format!(
                "`ss -ltnp` as root (Windows: `netstat -ano`) names it: {elsewhere}"
            ))
        }
        State::Refused(error) => Check::new(name, Status::Fail, error.clone())
            .advise(format!("name an address of this machine with {}", port.flag)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors::DescriptorLimit;
    use crate::doctor::machine::MemlockLimit;
    use crate::doctor::ports::Holder;

    /// A machine on which everything is as it should be.
    fn facts() -> Facts {
        Facts {
            operating_system: "linux".to_owned(),
            kernel_release: Some("6.18.44-generic".to_owned()),
            cores: 2,
            engines: vec![
                ("uring".to_owned(), Ok("probe ok".to_owned())),
                ("poll".to_owned(), Ok("epoll".to_owned())),
            ],
            ports: vec![at_port(State::Free)],
            descriptors: Some(DescriptorLimit { soft: Some(1_024), hard: Some(524_288) }),
            memlock: Some(MemlockLimit { bytes: Some(8 << 20) }),
            somaxconn: Some(4_096),
            io_uring_disabled: Some(0),
            seccomp: Some(0),
        }
    }

    fn at_port(state: State) -> Port {
        Port { address: "127.0.0.1:9000".parse().unwrap(), flag: "--echo", state }
    }

    fn taken_by(name: &str) -> State {
        State::Taken(Some(Holder { name: name.to_owned(), process_id: 7 }))
    }

    fn refused() -> Vec<(String, Result<String, String>)> {
        vec![
            ("uring".to_owned(), Err("EPERM".to_owned())),
            ("poll".to_owned(), Ok("epoll".to_owned())),
        ]
    }

    fn statuses(facts: &Facts, settings: &Settings, but: Status) -> Vec<(String, Status)> {
        let checks = assess(facts, settings);
        for check in &checks {
            let needs_advice = matches!(check.status, Status::Warn | Status::Fail);
            assert_eq!(check.advice.is_some(), needs_advice, "{check:?}");
        }
        let others = checks.into_iter().filter(|check| check.status != but);
        others.map(|check| (check.name, check.status)).collect()
    }

    #[test]
    fn a_good_machine_passes_every_check() {
        let settings = Settings::default();
        assert_eq!(statuses(&facts(), &settings, Status::Ok), []);
        let names: Vec<String> =
            assess(&facts(), &settings).into_iter().map(|check| check.name).collect();
        let expected = [
            "engine uring",
            "engine poll",
            "kernel",
            "io_uring",
            "seccomp",
            "descriptors",
            "memlock",
            "backlog",
            "port 127.0.0.1:9000",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn each_fault_is_found_and_comes_with_advice() {
        type Fault = (fn(&mut Facts), &'static [(&'static str, Status)]);
        let faults: &[Fault] = &[
            (|f| f.kernel_release = Some("5.15.0".into()), &[("kernel", Status::Warn)]),
            (|f| f.kernel_release = Some("6.0.9".into()), &[("kernel", Status::Warn)]),
            (|f| f.kernel_release = Some("6.1.0".into()), &[]),
            (|f| f.kernel_release = Some("odd".into()), &[("kernel", Status::Note)]),
            (
                |f| {
                    f.kernel_release = Some("5.10.1".into());
                    f.memlock = Some(MemlockLimit { bytes: Some(65_536) });
                },
                &[("kernel", Status::Warn), ("memlock", Status::Warn)],
            ),
            (|f| f.somaxconn = Some(128), &[("backlog", Status::Warn)]),
            (
                |f| f.descriptors = Some(DescriptorLimit { soft: Some(1_024), hard: Some(4_096) }),
                &[("descriptors", Status::Warn)],
            ),
            (|f| f.io_uring_disabled = Some(2), &[]),
            (
                |f| {
                    f.engines = refused();
                    f.io_uring_disabled = Some(2);
                },
                &[("engine uring", Status::Note), ("io_uring", Status::Warn)],
            ),
            (|f| f.seccomp = Some(2), &[]),
            (
                |f| {
                    f.engines = refused();
                    f.seccomp = Some(2);
                },
                &[("engine uring", Status::Note), ("seccomp", Status::Warn)],
            ),
            (|f| f.seccomp = Some(1), &[("seccomp", Status::Fail)]),
            (
                |f| f.engines = vec![("poll".into(), Err("EMFILE".into()))],
                &[("engine poll", Status::Fail)],
            ),
        ];
        for (index, (spoil, expected)) in faults.iter().enumerate() {
            let mut facts = facts();
            spoil(&mut facts);
            let found = statuses(&facts, &Settings::default(), Status::Ok);
            let found: Vec<(&str, Status)> =
                found.iter().map(|(name, status)| (name.as_str(), *status)).collect();
            assert_eq!(found, *expected, "fault {index}");
        }
    }

    #[test]
    fn a_port_is_told_with_who_has_it() {
        for (state, expected, found) in [
            (State::Free, Status::Ok, "free"),
            (taken_by("wharf"), Status::Note, "taken by wharf (pid 7), which serves already"),
            (
                taken_by("wharf.exe"),
                Status::Note,
                "taken by wharf.exe (pid 7), which serves already",
            ),
            (taken_by("nginx"), Status::Fail, "taken by nginx (pid 7)"),
            (State::Taken(None), Status::Fail, "taken by a program that this user is not told of"),
            (State::Refused("no such address".to_owned()), Status::Fail, "no such address"),
        ] {
            let check = port(&at_port(state));
            assert_eq!((check.status, check.found.as_str()), (expected, found));
            let advises = check.advice.is_some_and(|advice| advice.contains("--echo"));
            assert_eq!(advises, expected == Status::Fail, "{found}");
        }
    }

    #[test]
    fn a_named_engine_that_cannot_start_is_a_failure() {
        let mut settings = Settings::default();
        settings.server.engine = Engine::Uring;
        let facts = Facts { engines: refused(), ..facts() };
        let found = statuses(&facts, &settings, Status::Ok);
        assert_eq!(found, [("engine uring".to_owned(), Status::Fail)]);
        settings.server.engine = Engine::Iocp;
        let found = statuses(&facts, &settings, Status::Ok);
        assert!(found.contains(&("engine iocp".to_owned(), Status::Fail)), "{found:?}");
    }

    #[test]
    fn another_system_is_not_judged_by_what_it_does_not_have() {
        let facts = Facts {
            operating_system: "windows".to_owned(),
            engines: vec![("iocp".to_owned(), Ok("probe ok".to_owned()))],
            ..Facts::default()
        };
        let checks = assess(&facts, &Settings::default());
        assert_eq!(checks.len(), 1, "{checks:?}");
    }
}
