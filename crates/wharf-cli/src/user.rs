//! `wharf user`: who may log in to the chat. A store that a running server has for itself is changed by
//! that server, through its control channel.

mod list;
mod task;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use wharf_chat::{Accounts, Location, StoreError};

use crate::settings::Control;
use crate::{control, generate};

pub(crate) use task::{Password, Task, held_store};

/// Manage the chat's users
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a user; the password is asked for
    Add {
        /// Up to 32 bytes of UTF-8
        name: String,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give a user another password
    SetPassword {
        /// The user
        name: String,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Remove a user; a session that is logged in stays
    Remove {
        /// The user
        name: String,
    },
    /// List the users, one name a line
    List,
    /// Add many users from a CSV file of names and passwords; each is printed once it is stored
    Import {
        /// Lines of `name,password`, without a heading
        file: PathBuf,
    },
}

/// Does it; `location` is where users are, and `control` where a server may be that has them.
///
/// # Errors
/// The store fails, or has no such user, or has one already.
pub(crate) fn run(options: &Options, location: &Location, control: &Control) -> Result<ExitCode> {
    let users = Users::find(location, control)?;
    let (task, done) = match &options.command {
        Command::Add { name, password_stdin } => {
            wharf_chat::check_name(name).map_err(anyhow::Error::msg)?;
            let password = Password(password(*password_stdin)?);
            (Task::Add { name: name.clone(), password }, format!("added {name}"))
        }
        Command::SetPassword { name, password_stdin } => {
            let password = Password(password(*password_stdin)?);
            let done = format!("{name} has another password");
            (Task::SetPassword { name: name.clone(), password }, done)
        }
        Command::Remove { name } => {
            (Task::Remove { name: name.clone() }, format!("removed {name}"))
        }
        Command::List => {
            let names = users.run(Task::List).map_err(|error| explain(error, location))?;
            let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
            return generate::print(&lines);
        }
        Command::Import { file } => return import(&users, file),
    };
    users.run(task).map_err(|error| explain(error, location))?;
    say(&done);
    Ok(ExitCode::SUCCESS)
}

/// Whoever can do something with the users.
enum Users {
    /// This process, with the store.
    Here(Accounts),
    /// The server that has the store for itself.
    Server { channel: PathBuf, store: String },
}

impl Users {
    fn find(location: &Location, control: &Control) -> Result<Self> {
        if let Some(store) = held_store(location) {
            for channel in control::places_that_may_be(control) {
                // One that does not answer has something else, or its hold on the store is noticed.
                let Ok(found) = control::store_at(&channel) else { continue };
                if found.as_ref() == Some(&store) {
                    return Ok(Self::Server { channel, store });
                }
                // A server that was named is meant: what it lacks is not to be changed elsewhere.
                if let Control::At(_) = control {
                    let found = found.as_deref().unwrap_or("no store of its own");
                    bail!(
                        "the server at {} has {found}, and not {store}: name its store with --store, \
                         or no server with --control off",
                        channel.display()
                    );
                }
            }
        }
        Ok(Self::Here(location.accounts().map_err(|error| explain(error, location))?))
    }

    fn run(&self, task: Task) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Here(accounts) => task.run(accounts),
            Self::Server { channel, store } => control::manage_users(channel, store, task),
        }
    }
}

fn explain(error: StoreError, location: &Location) -> anyhow::Error {
    match error {
        StoreError::Held(_) => anyhow::anyhow!(
            "{error}, a running server probably: name its control channel with --control PATH, or \
             stop it for as long as this takes"
        ),
        error => anyhow::anyhow!("{error} (in {location})"),
    }
}

/// One line, at once: whoever reads along knows that it is done.
fn say(line: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

fn password(from_stdin: bool) -> Result<String> {
    if from_stdin || !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("reading the password")?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let password = rpassword::prompt_password("Password: ").context("reading the password")?;
    let again = rpassword::prompt_password("Again: ").context("reading the password")?;
    ensure!(password == again, "the two are not the same");
    Ok(password)
}

/// Adds every user of the file that is not there yet; tells of each that cannot be.
fn import(users: &Users, path: &Path) -> Result<ExitCode> {
    let listed = list::read(path)?;
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} users  {eta} left");
    let bar = ProgressBar::new(listed.len() as u64).with_style(style?);
    let mut failed = 0;
    for list::User { line, name, password } in &listed {
        let password = Password(password.clone());
        match users.run(Task::Add { name: name.clone(), password }) {
            Ok(_) => bar.suspend(|| say(&format!("added {name}"))),
            Err(StoreError::Refused(what)) => {
                failed += 1;
                bar.suspend(|| eprintln!("error: {}:{line}: {name}: {what}", path.display()));
            }
            Err(error) => bail!("{}:{line}: {name}: {error}", path.display()),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    eprintln!("{} added, {failed} not", listed.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
