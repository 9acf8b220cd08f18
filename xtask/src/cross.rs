//! Checks that need a standard library which the rustup toolchain does not bring: other systems,
//! and the thread sanitizer. Debian packages a second toolchain together with the standard
//! library's source, from which cargo builds what is needed. The packages are unpacked into the
//! cache folder, not installed: nothing on the machine changes, and no root is needed.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{ci, process::Cmd};

/// What the toolchain is made of; apt adds the libraries that this machine lacks.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// Checked with 1.96.0; any newer one that Debian brings is used too, older ones are not.
const MINOR_VERSION_MIN: u32 = 95;
/// The msvc name for Windows, since only the gnu one needs MinGW's dlltool to compile std.
const TARGETS: [&str; 4] = [
    "x86_64-pc-windows-msvc",
    "x86_64-unknown-freebsd",
    "x86_64-apple-darwin",
    "wasm32-unknown-unknown",
];
const TSAN_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Type-checks the two library crates for the systems that this machine cannot run.
pub(crate) fn check(root: &Path) -> Result<()> {
    let cache = cache_folder()?;
    let toolchain = Toolchain::open(&cache)?;
    let mut cmd = toolchain
        .cargo(root)
        .args(["check", "-Zbuild-std=std,panic_abort", "--locked", "--lib"])
        .args(["-p", "wharf-port", "-p", "wharf", "--target-dir"])
        .arg(cache.join("cross-check").display().to_string());
    for target in TARGETS {
        cmd = cmd.args(["--target", target]);
    }
    cmd.limit_minutes(15).run()
}

/// The library crates' tests under the thread sanitizer, the standard library instrumented too:
/// without that, the sanitizer does not see std's own atomics and reports races that are none.
pub(crate) fn thread_sanitizer(root: &Path) -> Result<()> {
    let cache = cache_folder()?;
    let toolchain = Toolchain::open(&cache)?;
    // Debian's toolchain comes without the sanitizer's run-time part, rustup's with it.
    let libdir = Cmd::line(root, "rustc --print target-libdir").output()?;
    let runtime = format!("{}/librustc-stable_rt.tsan.a", libdir.trim());
    ensure!(Path::new(&runtime).exists(), "the toolchain has no {runtime}");
    let flags = format!(
        "-Zsanitizer=thread -Zexternal-clangrt \
         -Zpre-link-args=-Wl,--whole-archive,{runtime},--no-whole-archive"
    );
    for tests in ci::SANITIZED {
        toolchain
            .cargo(root)
            .env("RUSTFLAGS", flags.as_str())
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", ci::SANITIZED_OPT_LEVEL)
            .env("WHARF_SEEDS", "0..10")
            .args(["test", "-Zbuild-std=std,panic_unwind,test,proc_macro", "--locked"])
            .args(tests.split_whitespace())
            .args(["--target", TSAN_TARGET, "--target-dir"])
            .arg(cache.join("tsan").display().to_string())
            .arg("--")
            .args(ci::NO_SIMULATIONS)
            // These have one thread, too, and slow as this is, they take long.
            .args(["--skip", "sim::", "--skip", "rough_networks", "--skip", "timer::"])
            .limit_minutes(20)
            .run()?;
    }
    Ok(())
}

pub(crate) fn cache_folder() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let folder = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("wharf");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Debian's toolchain, unpacked.
pub(crate) struct Toolchain {
    usr: PathBuf,
}

impl Toolchain {
    pub(crate) fn open(cache: &Path) -> Result<Toolchain> {
        let unpacked = cache.join("debian-rust");
        // What lies there may be of an earlier time, and too old by now.
        if let Ok(toolchain) = Toolchain::at(&unpacked, cache) {
            return Ok(toolchain);
        }
        unpack(cache, &unpacked, &PACKAGES)?;
        Toolchain::at(&unpacked, cache)
    }

    fn at(unpacked: &Path, cache: &Path) -> Result<Toolchain> {
        let toolchain = Toolchain { usr: unpacked.join("usr") };
        let version = toolchain.command("rustc", cache).arg("--version").output()?;
        let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
        if minor.is_none_or(|minor| minor < MINOR_VERSION_MIN) {
            bail!("{} is {version}: too old; Debian 12 has what is needed", unpacked.display());
        }
        Ok(toolchain)
    }

    /// A program of the toolchain that uses its own libraries, and nothing of rustup.
    fn command(&self, program: &str, dir: &Path) -> Cmd {
        let path = |relative: &str| self.usr.join(relative).display().to_string();
        Cmd::new(dir, path(&format!("bin/{program}")))
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC_WRAPPER")
            .env("RUSTC", path("bin/rustc"))
            .env("RUSTDOC", path("bin/rustdoc"))
            .env("LD_LIBRARY_PATH", self.library_path())
    }

    /// Where the dynamic linker finds what the programs need.
    pub(crate) fn library_path(&self) -> String {
        let usr = self.usr.display();
        format!("{usr}/lib/x86_64-linux-gnu:{usr}/lib")
    }

    pub(crate) fn cargo(&self, dir: &Path) -> Cmd {
        // Building the standard library is an unstable feature of a stable toolchain.
        self.command("cargo", dir).env("RUSTC_BOOTSTRAP", "1")
    }
}

/// Unpacks Debian packages, and what they need and this machine lacks, into a folder of their own,
/// with a list of the packages' files in it.
pub(crate) fn unpack(cache: &Path, unpacked: &Path, packages: &[&str]) -> Result<()> {
    // With lists of its own: those of the machine may be as old as its image, and only root may
    // renew them.
    let folder = cache.join("apt");
    fs::create_dir_all(folder.join("lists/partial"))?;
    fs::create_dir_all(folder.join("cache/archives/partial"))?;
    let apt = |dir: &Path, what: &str| {
        Cmd::line(dir, what)
            .args([
                "-o".to_owned(),
                format!("Dir::State::Lists={}", folder.join("lists").display()),
            ])
            .args(["-o".to_owned(), format!("Dir::Cache={}", folder.join("cache").display())])
            .args([
                "-o",
                "APT::Sandbox::User=root",
                "-o",
                "Debug::NoLocking=1",
                "-o",
                "Acquire::Retries=3",
            ])
    };
    apt(cache, "apt-get update -qq").run().context("this step needs Debian 12's packages")?;
    let plan = apt(cache, "apt-get install --simulate --reinstall --no-install-recommends")
        .args(packages.iter().copied())
        .output()
        .context("this step needs Debian 12's packages")?;
    let planned: Vec<&str> = plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .collect();
    ensure!(!planned.is_empty(), "apt has no plan to install {packages:?}:\n{plan}");
    let work = tempfile::tempdir_in(cache)?;
    let files = work.path().join("packages");
    let tree = work.path().join("tree");
    fs::create_dir(&files)?;
    apt(&files, "apt-get download -qq").args(planned).run()?;
    let mut names = Vec::new();
    for file in fs::read_dir(&files)? {
        let path = file?.path();
        names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        Cmd::new(cache, "dpkg")
            .arg("--extract")
            .args([path, tree.clone()].map(|path| path.display().to_string()))
            .run()?;
    }
    names.sort();
    fs::write(tree.join(PACKAGES_FILE), names.join("\n") + "\n")?;
    if unpacked.exists() {
        fs::remove_dir_all(unpacked)?;
    }
    fs::rename(&tree, unpacked).with_context(|| unpacked.display().to_string())
}

/// What [`unpack`] writes the names of the packages' files to.
pub(crate) const PACKAGES_FILE: &str = "packages";
