//! Lays the sources of settings over each other and remembers where each value came from.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{DEFINITIONS, Definition, FILE_BYTES_MAX, Settings, excerpt, file, nearest, table};

/// What is looked at, weakest first: the file, the environment, the flags.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    /// A file named with `--config`: it must exist.
    pub(crate) named_file: Option<PathBuf>,
    /// Where `wharf.toml` is looked for if no file is named.
    pub(crate) directory: PathBuf,
    /// The whole environment; only names with `WHARF_` count.
    pub(crate) environment: Vec<(String, String)>,
    /// Values of flags, as `flags::assignments` found them.
    pub(crate) flags: Vec<Assignment>,
}

/// One value that a source gives to a setting.
#[derive(Clone)]
pub(crate) struct Assignment {
    pub(crate) definition: usize,
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File { path: String, line: usize },
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "env {name}"),
            Self::Flag(flag) => write!(f, "flag --{flag}"),
        }
    }
}

/// The settings and, for each row of [`DEFINITIONS`], where its value came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    pub(crate) origins: Vec<Origin>,
}

/// Everything that is wrong with the settings, not only the first of it.
#[derive(Debug, Default)]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "error: {problem}")?;
        }
        Ok(())
    }
}

/// Reads all sources: flag over environment over file over default.
///
/// # Errors
/// Lists every unknown name and wrong value with its place and, where one is near, what was
/// probably meant. A wrong value counts even where a stronger source replaces it.
pub(crate) fn load(sources: Sources) -> Result<Loaded, Problems> {
    let mut problems = Problems::default();
    let file = sources.file();
    let in_file = file.map_or_else(Vec::new, |path| file::read(&path, &mut problems));
    resolve(in_file, &sources.environment, sources.flags, problems)
}

/// As [`load`], for the text of a file named `name` and nothing else but the environment.
///
/// # Errors
/// As for [`load`].
pub(crate) fn load_text(
    name: &str,
    text: &str,
    environment: &[(String, String)],
) -> Result<Loaded, Problems> {
    let mut problems = Problems::default();
    let in_file = file::read_bytes(name.to_owned(), text.as_bytes(), &mut problems);
    resolve(in_file, environment, Vec::new(), problems)
}

fn resolve(
    mut assignments: Vec<Assignment>,
    environment: &[(String, String)],
    flags: Vec<Assignment>,
    mut problems: Problems,
) -> Result<Loaded, Problems> {
    assignments.extend(from_environment(environment, &mut problems));
    assignments.extend(flags);

    let mut settings = Settings::default();
    let mut origins = vec![Origin::Default; DEFINITIONS.len()];
    for assignment in assignments {
        let definition = &DEFINITIONS[assignment.definition];
        match (definition.set)(&mut settings, &assignment.text) {
            Ok(()) => origins[assignment.definition] = assignment.origin,
            Err(message) => problems.0.push(refused(definition, &assignment, &message)),
        }
    }
    // A setting that kept its default because its value was wrong would be accused wrongly here.
    if problems.0.is_empty() {
        problems.0.extend(contradictions(&settings, &origins));
    }
    if problems.0.is_empty() { Ok(Loaded { settings, origins }) } else { Err(problems) }
}

/// The file that holds settings if a directory has one.
pub(crate) const DEFAULT_FILE: &str = "wharf.toml";

impl Sources {
    fn file(&self) -> Option<PathBuf> {
        if self.named_file.is_some() {
            return self.named_file.clone();
        }
        let default = self.directory.join(DEFAULT_FILE);
        // A directory of that name is nobody's configuration.
        default.is_file().then(|| shown_path(&self.directory, default))
    }
}

/// In the working directory the bare name is what people type and look for.
fn shown_path(directory: &Path, path: PathBuf) -> PathBuf {
    if directory == Path::new(".") { PathBuf::from(DEFAULT_FILE) } else { path }
}

fn refused(definition: &Definition, assignment: &Assignment, message: &str) -> String {
    let text = definition.shown(&assignment.text);
    let (text, message) =
        (excerpt(&text, SHOWN_CHARACTERS_MAX), excerpt(message, MESSAGE_CHARACTERS_MAX));
    match &assignment.origin {
        Origin::Environment(name) => format!("{name}={text:?}: {message}"),
        Origin::Flag(flag) => format!("--{flag} {text:?}: {message}"),
        // A file's values were checked where their lines are known.
        origin => format!("{origin}: `{}` = {text:?}: {message}", definition.key),
    }
}

/// So much of a wrong value is shown.
const SHOWN_CHARACTERS_MAX: usize = 120;

/// So much of what is wrong with it, which may name it again, and what it could be instead.
const MESSAGE_CHARACTERS_MAX: usize = 400;

/// Variables that begin with `WHARF_` and are no setting.
const OTHER_VARIABLES: &[&str] = &["WHARF_CONFIG"];

fn from_environment(environment: &[(String, String)], problems: &mut Problems) -> Vec<Assignment> {
    let names: Vec<String> = DEFINITIONS.iter().map(Definition::environment).collect();
    let mut assignments = Vec::new();
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("WHARF_")) {
        let shown = excerpt(name, SHOWN_CHARACTERS_MAX);
        if value.len() > FILE_BYTES_MAX {
            let most = FILE_BYTES_MAX / 1024;
            problems.0.push(format!("environment: `{shown}` is longer than {most} KiB"));
        } else if let Some(definition) = names.iter().position(|known| known == name) {
            let origin = Origin::Environment(name.clone());
            assignments.push(Assignment { definition, text: value.clone(), origin });
        } else if !OTHER_VARIABLES.contains(&name.as_str()) {
            let known = names.iter().map(String::as_str).chain(OTHER_VARIABLES.iter().copied());
            let hint = nearest(name, known)
                .map(|name| format!("\n  did you mean `{name}`?"))
                .unwrap_or_default();
            let problem = format!("environment: `{shown}` is not a setting of wharf{hint}");
            problems.0.push(problem);
        }
    }
    assignments
}

fn contradictions(settings: &Settings, origins: &[Origin]) -> Vec<String> {
    let describe = |key: &str| {
        DEFINITIONS
            .iter()
            .zip(origins)
            .find(|(definition, _)| definition.key == key)
            .map(|(definition, origin)| {
                format!("`{key}` = {} ({origin})", (definition.toml)(settings))
            })
            .unwrap_or_default()
    };
    table::contradictions(settings)
        .into_iter()
        .map(|(one, other, why)| format!("{} and {}: {why}", describe(one), describe(other)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::settings::value::{Bytes, Workers};

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn index(key: &str) -> usize {
        DEFINITIONS.iter().position(|definition| definition.key == key).unwrap()
    }

    fn flag(key: &str, text: &str) -> Assignment {
        let definition = index(key);
        let origin = Origin::Flag(DEFINITIONS[definition].flag());
        Assignment { definition, text: text.to_owned(), origin }
    }

    #[test]
    fn flag_over_environment_over_file_over_default() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("some.toml");
        fs::write(&path, "[server]\nworkers = 1\nspin_us = 1\nmax_sessions = 1\n").unwrap();
        let loaded = load(Sources {
            named_file: Some(path.clone()),
            environment: environment(&[
                ("WHARF_WORKERS", "2"),
                ("WHARF_SPIN_US", "2"),
                ("PATH", "/bin"),
                ("WHARF_CONFIG", "unused"),
            ]),
            flags: vec![flag("server.workers", "3")],
            ..Sources::default()
        })
        .unwrap();
        let server = &loaded.settings.server;
        assert_eq!(server.workers, Workers::Count(3));
        assert_eq!((server.spin_us, server.max_sessions), (2, 1));
        let origin = |key| loaded.origins[index(key)].to_string();
        assert_eq!(origin("server.workers"), "flag --workers");
        assert_eq!(origin("server.spin_us"), "env WHARF_SPIN_US");
        assert_eq!(origin("server.max_sessions"), format!("{}:4", path.display()));
        assert_eq!(origin("server.engine"), "default");
    }

    #[test]
    fn wharf_toml_is_read_unless_a_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(DEFAULT_FILE), "server.workers = 7\n").unwrap();
        let other = directory.path().join("other.toml");
        fs::write(&other, "server.spin_us = 7\n").unwrap();
        let load_with = |named_file| {
            let directory = directory.path().to_owned();
            load(Sources { named_file, directory, ..Sources::default() }).unwrap().settings.server
        };
        assert_eq!(load_with(None).workers, Workers::Count(7));
        let server = load_with(Some(other));
        assert_eq!((server.workers, server.spin_us), (Workers::Auto, 7));
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let error = load(Sources {
            named_file: Some(PathBuf::from("/nonexistent/wharf.toml")),
            environment: environment(&[("WHARF_WORKES", "2"), ("WHARF_ENGINE", "ebpf")]),
            flags: vec![flag("limits.frame_bytes_max", "0")],
            ..Sources::default()
        })
        .unwrap_err()
        .to_string();
        for expected in [
            "error: /nonexistent/wharf.toml: cannot be read",
            "`WHARF_WORKES` is not a setting of wharf\n  did you mean `WHARF_WORKERS`?",
            "WHARF_ENGINE=\"ebpf\": `ebpf` is not one of `auto`",
            "--limits-frame-bytes-max \"0\": must be from 1 byte to 1 GiB",
        ] {
            assert!(error.contains(expected), "{expected:?} is missing in\n{error}");
        }
    }

    /// What the library would refuse when it starts is refused where it is read, by a reload, too.
    #[test]
    fn a_limit_too_short_for_slow_handlers_is_refused_where_it_stands() {
        let limit = |text: &str| {
            let environment = environment(&[("WHARF_SLOW_HANDLER", text)]);
            let loaded = load(Sources { environment, ..Sources::default() });
            loaded.map(|loaded| loaded.settings.server.slow_handler.0).map_err(|e| e.to_string())
        };
        for text in ["1", "3ms", "3999us", "1ns", "2h"] {
            let refused = limit(text).unwrap_err();
            assert!(refused.contains("WHARF_SLOW_HANDLER"), "{refused}");
            assert!(refused.contains("must be from 4 to 3,600,000"), "{refused}");
        }
        assert_eq!(limit("4ms"), Ok(Some(std::time::Duration::from_millis(4))));
        assert_eq!((limit("0"), limit("0s")), (Ok(None), Ok(None)));
    }

    #[test]
    fn of_what_is_wrong_and_long_a_little_is_told() {
        let long = "x".repeat(FILE_BYTES_MAX);
        let problem = |name: &str, value: &str| {
            let environment = environment(&[(name, value)]);
            load(Sources { environment, ..Sources::default() }).unwrap_err().to_string()
        };
        for (name, value, expected) in [
            ("WHARF_ENGINE", long.as_str(), "WHARF_ENGINE=\"xxx"),
            ("WHARF_ENGINE", &(long.clone() + "x"), "`WHARF_ENGINE` is longer than 64 KiB"),
            (&format!("WHARF_{long}"), "1", "xxx` is not a setting of wharf"),
        ] {
            let problem = problem(name, value);
            assert!(problem.contains(expected) && problem.len() < 1000, "{problem}");
        }
        assert!(problem("WHARF_ENGINE", &long).contains("`iocp`"), "what it could be is told");
    }

    #[test]
    fn a_password_is_in_no_problem() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wharf.toml");
        for line in [
            "store = \"redi:kim:secret@host\"",
            "store = \"redis://kim:secret@host",
            "store = [\"redis:redis://:secret@host\"]",
            "stor = \"redis:redis://:secret@host\"",
        ] {
            fs::write(&path, format!("[server]\n{line}\n")).unwrap();
            let problems = load(Sources {
                named_file: Some(path.clone()),
                environment: environment(&[("WHARF_STORE", "redis//:secret@host")]),
                flags: vec![flag("server.store", "redi:kim:secret@host")],
                ..Sources::default()
            });
            let problems = problems.unwrap_err().to_string();
            assert!(!problems.contains("secret"), "{problems}");
            for expected in [
                "wharf.toml:2: ",
                "@host",
                "WHARF_STORE=\"redis//:***@host\": \"redis//\" is no kind of store",
                "--store \"redi:kim:***@host\": \"redi\" is no kind of store",
            ] {
                assert!(problems.contains(expected), "{expected:?} is missing in\n{problems}");
            }
        }
    }

    #[test]
    fn contradictions_name_both_values_and_where_they_came_from() {
        let flags = vec![flag("limits.send_queue_bytes_max", "128KiB")];
        let error = load(Sources { flags, ..Sources::default() }).unwrap_err().to_string();
        assert_eq!(
            error,
            "error: `limits.send_queue_bytes_soft` = \"256KiB\" (default) and \
             `limits.send_queue_bytes_max` = \"128KiB\" (flag --limits-send-queue-bytes-max): \
             the soft limit must not be above the hard one\n"
        );
        let flags = vec![
            flag("limits.send_queue_bytes_max", "128KiB"),
            flag("limits.send_queue_bytes_soft", "32KiB"),
        ];
        let loaded = load(Sources { flags, ..Sources::default() }).unwrap();
        assert_eq!(loaded.settings.limits.send_queue_bytes_max, Bytes(131_072));
    }
}
