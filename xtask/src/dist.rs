//! `cargo xtask dist`: release archives, one for each system, with the sums that a download is checked
//! against. Each is unpacked again and its program run before it counts as made.
//!
//! The same program and files give the same archive, byte for byte. The program itself depends on the
//! toolchain and on the folder that it is built in, not on who builds it: no path of the machine is in it.

mod archive;
mod licences;
mod unit;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::archive::{Entry, Form};
use crate::{
    cross::{Toolchain, cache_folder},
    markdown,
    process::{Cmd, target_folder},
    wine::{TARGET as WINDOWS, Wine},
};

const SUMS: &str = "SHA256SUMS";
/// What every archive has as it lies in the repository, and where.
const DOCUMENTS: [(&str, &str); 12] = [
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("README.ko.md", "README.ko.md"),
    ("README.md", "README.md"),
    ("docs/chat.md", "docs/chat.md"),
    ("docs/configuration.md", "docs/configuration.md"),
    ("docs/load-testing.md", "docs/load-testing.md"),
    ("docs/operations.md", "docs/operations.md"),
    ("docs/windows.md", "docs/windows.md"),
    ("packaging/README.md", "packaging/README.md"),
    ("wharf.toml", "packaging/wharf.toml"),
];
/// What only a system with systemd has a use for.
const UNIT: (&str, &str) = ("systemd/wharf.service", "packaging/systemd/wharf.service");
/// The name in the archive, as the shell wants it, and the shell.
const COMPLETIONS: [(&str, &str); 4] = [
    ("completions/_wharf", "zsh"),
    ("completions/_wharf.ps1", "powershell"),
    ("completions/wharf.bash", "bash"),
    ("completions/wharf.fish", "fish"),
];
const MAN: &str = "man/wharf.1";
const THIRD_PARTY: &str = "THIRD-PARTY-LICENSES.txt";
const PROFILE: &str = "dist";

/// Builds the archives for all systems, or those of `--target`, in the folder `dist` beside what cargo
/// builds (`target/dist`, unless cargo is told otherwise) or in `--out`.
///
/// # Errors
/// A program does not build, a tool chain cannot be had, or an archive is not what it should be.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let options = Options::read(root, args)?;
    let host = build_host(root, PROFILE, Some(&remapped(root)?))?;
    let mut made = Vec::new();
    if options.linux {
        let archive = Archive::assemble(root, host.clone(), &host)?;
        archive.write_checked(root, &options.out, |program| Cmd::new(root, shown(program)))?;
        made.push(archive.file_name());
    }
    if options.windows {
        let cache = cache_folder()?;
        let wine = Wine::open(&cache)?;
        let built = build_windows(root, &cache, &wine)?;
        let archive = Archive::assemble(root, built, &host)?;
        archive.write_checked(root, &options.out, |program| wine.cmd().arg(shown(program)))?;
        made.push(archive.file_name());
    }
    made.sort();
    let sums = archive::sums(&options.out, &made)?;
    fs::write(options.out.join(SUMS), sums)?;
    made.iter().for_each(|name| println!("{}", options.out.join(name).display()));
    println!("{}", options.out.join(SUMS).display());
    Ok(())
}

/// As a step of `ci`: the archive for this system around the program that the tests have built, and
/// whether the files that start it as a service fit the program.
pub(crate) fn short(root: &Path) -> Result<()> {
    let host = build_host(root, "dev", None)?;
    unit::check(root, &host.program)?;
    let out = tempfile::tempdir()?;
    let archive = Archive::assemble(root, host.clone(), &host)?;
    archive.write_checked(root, out.path(), |program| Cmd::new(root, shown(program)))?;
    let again = Archive::assemble(root, host.clone(), &host)?;
    ensure!(archive.entries == again.entries, "two archives of the same program differ");
    Ok(())
}

struct Options {
    linux: bool,
    windows: bool,
    out: PathBuf,
}

impl Options {
    fn read(root: &Path, args: &[String]) -> Result<Options> {
        let out = target_folder(root)?.join("dist");
        let mut options = Options { linux: false, windows: false, out };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = args.next().with_context(|| format!("{arg} takes a value"))?;
            match (arg.as_str(), value.as_str()) {
                ("--target", "linux") => options.linux = true,
                ("--target", "windows") => options.windows = true,
                ("--target", other) => bail!("--target is linux or windows, not `{other}`"),
                ("--out", folder) => options.out = env::current_dir()?.join(folder),
                _ => bail!("dist takes --target and --out, not `{arg}`"),
            }
        }
        if !options.linux && !options.windows {
            (options.linux, options.windows) = (true, true);
        }
        fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
        Ok(options)
    }
}

/// A program, and the system that it is for, by the compiler's name.
#[derive(Clone)]
struct Built {
    program: PathBuf,
    target: String,
    /// Whether it was built to be given away: then nothing in it names this machine.
    is_release: bool,
}

fn build_host(root: &Path, profile: &str, flags: Option<&str>) -> Result<Built> {
    let version = Cmd::line(root, "rustc -vV").output()?;
    let target = version.lines().find_map(|line| line.strip_prefix("host: "));
    let target = target.context("rustc does not say what it builds for")?.to_owned();
    let mut cargo = Cmd::line(root, "cargo build --locked --bin wharf --profile").arg(profile);
    let mut built = target_folder(root)?;
    if let Some(flags) = flags {
        // A folder of its own: other flags would throw away what the other tasks have built.
        built.push("dist-build");
        cargo = cargo.arg("--target-dir").arg(shown(&built)).env(FLAGS, flags);
    }
    cargo.limit_minutes(30).run()?;
    // Cargo names the folder of its profile `dev` in another way than the profile.
    let program = built.join(if profile == "dev" { "debug" } else { profile }).join("wharf");
    Ok(Built { program, target, is_release: flags.is_some() })
}

fn build_windows(root: &Path, cache: &Path, wine: &Wine) -> Result<Built> {
    let toolchain = Toolchain::open(cache)?;
    wine.cargo(&toolchain, root, cache, "build")
        .args(["-p", "wharf-cli", "--bin", "wharf", "--profile", PROFILE])
        .env(FLAGS, remapped(root)?)
        .limit_minutes(30)
        .run()?;
    let program = cache.join("wine-target").join(WINDOWS).join(PROFILE).join("wharf.exe");
    Ok(Built { program, target: WINDOWS.to_owned(), is_release: true })
}

/// The variable that takes flags of rustc with spaces in them.
const FLAGS: &str = "CARGO_ENCODED_RUSTFLAGS";

/// The flags that keep this machine's folders out of the program. The last that fits counts.
fn remapped(root: &Path) -> Result<String> {
    let [cargo, cache] = machine_folders()?;
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    Ok([remap(&cache, "/toolchain"), remap(&cargo, "/cargo"), remap(root, "/wharf")].join("\x1f"))
}

/// Where cargo keeps sources of dependencies, and xtask a tool chain.
fn machine_folders() -> Result<[PathBuf; 2]> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
    Ok([cargo.context("neither CARGO_HOME nor HOME is set")?, cache_folder()?])
}

/// What an archive holds.
struct Archive {
    /// Its name without an ending, and the one folder that is in it.
    name: String,
    form: Form,
    built: Built,
    entries: Vec<Entry>,
}

impl Archive {
    /// `host` is the same program for this system: it writes its completions and its manual page.
    fn assemble(root: &Path, built: Built, host: &Built) -> Result<Archive> {
        let is_windows = built.target == WINDOWS;
        let read = |(name, path): (&str, &str)| -> Result<Entry> {
            let bytes = fs::read(root.join(path)).with_context(|| path.to_owned())?;
            Ok(Entry::file(name, bytes))
        };
        let said = |name: &str, args: &[&str]| -> Result<Entry> {
            let said = Cmd::new(root, shown(&host.program)).args(args.iter().copied()).output()?;
            Ok(Entry::file(name, said))
        };
        let mut entries = Vec::new();
        let bytes =
            fs::read(&built.program).with_context(|| built.program.display().to_string())?;
        entries.push(Entry::program(program_name(is_windows), bytes));
        for document in DOCUMENTS {
            entries.push(read(document)?);
        }
        for (name, shell) in COMPLETIONS {
            entries.push(said(name, &["completions", shell])?);
        }
        entries.push(Entry::file(THIRD_PARTY, licences::page(root, &built.target)?));
        if !is_windows {
            entries.push(said(MAN, &["man"])?);
            entries.push(read(UNIT)?);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        check_references(&entries)?;
        let name = format!("wharf-{}-{}", env!("CARGO_PKG_VERSION"), built.target);
        let form = if is_windows { Form::Zip } else { Form::TarGz };
        Ok(Archive { name, form, built, entries })
    }

    fn file_name(&self) -> String {
        format!("{}.{}", self.name, self.form.ending())
    }

    fn pack(&self) -> Result<Vec<u8>> {
        archive::pack(self.form, &self.name, &self.entries)
    }

    /// Writes it, unpacks what was written and runs the program that comes out, with the command that
    /// `run` makes of it.
    fn write_checked(&self, root: &Path, out: &Path, run: impl Fn(&Path) -> Cmd) -> Result<()> {
        let path = out.join(self.file_name());
        fs::write(&path, self.pack()?).with_context(|| path.display().to_string())?;
        let unpacked = tempfile::tempdir()?;
        archive::unpack(self.form, &path, unpacked.path())?;
        let is_windows = self.form == Form::Zip;
        let found = archive::files(unpacked.path())?;
        let expected = expected(&self.name, is_windows);
        ensure!(found == expected, "{} holds {found:#?}, not {expected:#?}", path.display());
        let program = unpacked.path().join(&self.name).join(program_name(is_windows));
        if self.built.is_release {
            let [cargo, cache] = machine_folders()?;
            let bytes = fs::read(&program)?;
            for folder in [root, &cargo, &cache] {
                let is_there = archive::contains(&bytes, shown(folder).as_bytes());
                ensure!(!is_there, "{} names {}", path.display(), folder.display());
            }
        }
        let said = run(&program).arg("--version").output()?;
        let version = format!("wharf {}", env!("CARGO_PKG_VERSION"));
        ensure!(said.trim() == version, "{} says {said:?}, not {version:?}", path.display());
        println!("{}: {} files, and its program says {version}", path.display(), found.len());
        Ok(())
    }
}

/// The names of all files in an archive, sorted. Written down apart from what puts them in: a file
/// that is forgotten there is missed here.
fn expected(folder: &str, is_windows: bool) -> Vec<String> {
    let everywhere = "CHANGELOG.md LICENSE-APACHE LICENSE-MIT README.ko.md README.md \
        THIRD-PARTY-LICENSES.txt completions/_wharf completions/_wharf.ps1 completions/wharf.bash \
        completions/wharf.fish docs/chat.md docs/configuration.md docs/load-testing.md \
        docs/operations.md docs/windows.md packaging/README.md wharf.toml";
    let here = if is_windows { "wharf.exe" } else { "man/wharf.1 systemd/wharf.service wharf" };
    let names = everywhere.split_whitespace().chain(here.split_whitespace());
    let mut names: Vec<String> = names.map(|name| format!("{folder}/{name}")).collect();
    names.sort();
    names
}

/// Where the unit's words or a page's links lead is in the archive, too. Only what tells of the whole
/// repository may lead elsewhere.
fn check_references(entries: &[Entry]) -> Result<()> {
    let is_there = |path: &Path| entries.iter().any(|entry| Path::new(&entry.name) == path);
    for entry in entries {
        let text = entry.text().unwrap_or_default();
        let is_page = entry.name.ends_with(".md") && !OF_THE_REPOSITORY.contains(&&*entry.name);
        let mut named: Vec<Option<PathBuf>> = Vec::new();
        if is_page {
            let links = markdown::parse(text).links.into_iter().map(|link| link.to);
            let files = links.filter(|to| !to.contains("://") && !to.starts_with('#'));
            named.extend(files.map(|to| {
                let file = to.split('#').next().unwrap_or_default();
                markdown::resolve(Path::new(&entry.name), file)
            }));
        } else if entry.name == UNIT.0 {
            let words = text.split_whitespace().map(|word| word.trim_end_matches('.'));
            let pages = words.filter(|word| word.ends_with(".md"));
            named.extend(pages.map(|word| Some(PathBuf::from(word))));
        }
        for path in named {
            let path = path.with_context(|| format!("{}: a link out of it", entry.name))?;
            let shown = path.display();
            ensure!(is_there(&path), "{} refers to {shown}, which is not packed", entry.name);
        }
    }
    Ok(())
}

/// Pages of the archive that are about more than what is in it.
const OF_THE_REPOSITORY: [&str; 3] = ["CHANGELOG.md", "README.ko.md", "README.md"];

/// As cargo's packages are, too.
pub(crate) fn unpack_tar_gz(archive: &Path, into: &Path) -> Result<()> {
    archive::unpack(Form::TarGz, archive, into).with_context(|| shown(archive))
}

fn program_name(is_windows: bool) -> &'static str {
    if is_windows { "wharf.exe" } else { "wharf" }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_referred_to_is_packed() {
        let page = |text: &str| Entry::file("docs/operations.md", text);
        let unit = |text: &str| Entry::file(UNIT.0, text);
        let other = || Entry::file("packaging/README.md", "as [it](https://example.org) [is](#is)");
        check_references(&[page("[it](../packaging/README.md#how)"), other()]).unwrap();
        check_references(&[unit("# See packaging/README.md.\n"), other()]).unwrap();
        for entries in [
            vec![page("[it](../packaging/README.md)")],
            vec![page("[it](packaging/README.md)"), other()],
            vec![page("[it](../../README.md)"), other()],
            vec![unit("# See packaging/README.md.\n")],
        ] {
            check_references(&entries).unwrap_err();
        }
        let readme = Entry::file("README.md", "[the code](ARCHITECTURE.md)");
        check_references(&[readme]).unwrap();
    }
}
