//! The tests on Windows' own interface, without Windows: cross-compiled with MinGW, run under Wine.
//!
//! Everything comes from Debian 12's packages, unpacked into the cache folder (`cross.rs`): nothing
//! is installed, and no root is needed. Where a package cannot be had this fails; it is not skipped.
//! What Wine can judge and what it cannot is told in docs/windows.md.

#[path = "../../crates/wharf-port/tests/support/wine.rs"]
mod cannot_judge;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use self::cannot_judge::CANNOT_JUDGE;
use crate::{
    ci::NO_SIMULATIONS,
    cross::{PACKAGES_FILE, Toolchain, cache_folder, unpack},
    process::{Cmd, target_folder},
};

pub(crate) const TARGET: &str = "x86_64-pc-windows-gnu";
/// Named one by one, those too that others of them bring along: a program in the cache folder looks
/// for its parts beside itself, not where the machine may have some installed.
const PACKAGES: [&str; 9] = [
    "binutils-mingw-w64-x86-64",
    "gcc-mingw-w64-x86-64-posix",
    "gcc-mingw-w64-x86-64-posix-runtime",
    "libwine",
    "libz-mingw-w64",
    "mingw-w64-common",
    "mingw-w64-x86-64-dev",
    "rust-web-clippy",
    "wine64",
];
/// What this was last checked with; other versions are used too, and named.
const CHECKED: [&str; 3] = [
    "gcc-mingw-w64-x86-64-posix_12.2.0-14+deb12u1+25.2+b1_amd64.deb",
    "rust-web-clippy_1.96.0+dfsg1-1~deb12u2_amd64.deb",
    "wine64_8.0~repack-4_amd64.deb",
];
/// What is linted, a call each.
const LINTED: [&str; 2] = [
    "-p wharf-port -p wharf -p wharf-chat -p wharf-cli --all-targets",
    "-p wharf-examples --examples --test steps --test chat --test layers",
];

/// Which tests are run. Those programs that have nothing but simulated servers, or nothing of a system at
/// all, are not named: they are the same everywhere, and would take most of the time. Nor are those of the
/// course that run the compiler. In one call: cargo builds what several packages need once then.
const TESTS: &str = "-p wharf-port -p wharf -p wharf-chat -p wharf-cli -p wharf-examples \
    --lib --bins --examples \
    --test conformance --test no_alloc \
    --test server --test allocations --test router \
    --test engines --test protocol --test overload \
    --test absurd --test attack --test chat --test console --test load --test load_arena \
    --test load_chat --test operate --test program --test signals \
    --test steps --test layers";
/// Of the others those with one thread and no system, as for the sanitizers. The attacks are on the list
/// of what Wine cannot judge.
const NOT_WINDOWS: [&str; 6] =
    ["--skip", "sim::", "--skip", "rough_networks", "--skip", "a_server_stands"];
/// How many clients a server under Wine is loaded with.
const LOADS: [u64; 3] = [1, 50, 1000];
const READY_LIMIT: Duration = Duration::from_mins(1);
/// One program of tests; it is ended then, with Wine's own processes.
const PROGRAM_LIMIT_SECONDS: u32 = 600;
const BCRYPT_PRIMITIVES: &str = include_str!("wine/bcryptprimitives.c");

/// Clippy for Windows, the tests, then servers under Wine with clients of this system.
///
/// # Errors
/// A package cannot be had, Wine cannot be set up, or a check fails.
pub(crate) fn run(root: &Path) -> Result<()> {
    check_documented(root)?;
    let cache = cache_folder()?;
    let toolchain = Toolchain::open(&cache)?;
    let wine = Wine::open(&cache)?;
    let cargo = |what: &str| wine.cargo(&toolchain, root, &cache, what);
    for linted in LINTED {
        cargo("clippy")
            .args(linted.split_whitespace())
            .args(["--", "-D", "warnings"])
            // For this target it takes a `const` that is there for one that is missing.
            .args(["-A", "clippy::missing_const_for_thread_local"])
            .limit_minutes(20)
            .run()?;
    }
    // Building takes longer than running, the first time.
    let test = cargo("test").args(TESTS.split_whitespace());
    test.clone().arg("--no-run").limit_minutes(30).run()?;
    test.arg("--").args(NO_SIMULATIONS).args(NOT_WINDOWS).limit_minutes(40).run()?;
    cargo("build").args(["-p", "wharf-port", "--example", "port_echo"]).limit_minutes(20).run()?;
    let built = cache.join("wine-target").join(TARGET).join("debug");
    load(root, &wine, &built)?;
    println!("not judged by Wine:");
    CANNOT_JUDGE.iter().for_each(|(test, why)| println!("  {test}: {why}"));
    Ok(())
}

/// Whoever reads the documentation is told of every test that is left out.
fn check_documented(root: &Path) -> Result<()> {
    let document = fs::read_to_string(root.join("docs/windows.md"))?;
    for (test, _) in CANNOT_JUDGE {
        ensure!(document.contains(&format!("`{test}`")), "docs/windows.md does not name {test}");
    }
    Ok(())
}

/// Servers under Wine, loaded by this system's own `wharf bench`, which verifies every byte.
fn load(root: &Path, wine: &Wine, built: &Path) -> Result<()> {
    Cmd::line(root, "cargo build --locked -p wharf-cli --bin wharf").limit_minutes(20).run()?;
    let exe = |name: &str| wine.cmd().arg(built.join(name).display().to_string());
    let serve = exe("wharf.exe").args([
        "serve",
        "--workers",
        "2",
        "--chat",
        "off",
        "--echo",
        "study@127.0.0.1:0",
    ]);
    let example = exe("examples/port_echo.exe").arg("127.0.0.1:0");
    for (server, framing) in [(serve, "study"), (example, "raw")] {
        let mut running = server.start()?;
        let ready = running.first_line(READY_LIMIT).with_context(|| server.to_string())?;
        println!("{ready}");
        let address = ready
            .split([' ', '='])
            .find(|word| word.parse::<SocketAddr>().is_ok())
            .with_context(|| format!("no address in `{ready}`"))?;
        for connections in LOADS {
            bench(root, address, framing, connections)
                .with_context(|| format!("{connections} connections to `{server}`"))?;
        }
    }
    Ok(())
}

fn bench(root: &Path, address: &str, framing: &str, connections: u64) -> Result<()> {
    let output = Cmd::new(root, target_folder(root)?.join("debug/wharf").display().to_string())
        .args(["bench", "echo", "--json", "--depth", "4", "--duration", "2s"])
        // Wine is slow: on a busy machine the last of 4,000 answers came after more than 5 s.
        .args(["--grace", "60s"])
        .args(["--addr", address, "--framing", framing])
        .args(["--connections".to_owned(), connections.to_string()])
        .limit_minutes(2)
        .output()?;
    let result: serde_json::Value = serde_json::from_str(&output)?;
    let number = |key: &str| result[key].as_u64().unwrap_or_default();
    let verified = number("answers_verified");
    let right = result["right"] == true && result["errors_total"] == 0;
    ensure!(right && number("connections_opened") == connections && verified > 0, "{result:#}");
    println!("{connections} connections: {verified} answers verified, every byte");
    Ok(())
}

/// Wine and MinGW, unpacked, and Wine's prefix: the folder with its C: drive and registry.
pub(crate) struct Wine {
    folder: PathBuf,
    usr: PathBuf,
}

impl Wine {
    pub(crate) fn open(cache: &Path) -> Result<Wine> {
        let folder = cache.join("wine");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let unpacked = folder.join("packages");
        if !unpacked.join("usr/lib/wine/wine64").exists() {
            unpack(cache, &unpacked, &PACKAGES)?;
        }
        let wine = Wine { usr: unpacked.join("usr"), folder };
        wine.finish_packages()?;
        let key = fs::read_to_string(unpacked.join(PACKAGES_FILE))?;
        for checked in CHECKED.iter().filter(|checked| !key.lines().any(|name| name == **checked)) {
            println!("note: this was checked with {checked}, and apt has another version");
        }
        wine.write_runner()?;
        // The prefix belongs to the packages that made it.
        if fs::read_to_string(wine.prefix().join(PACKAGES_FILE)).ok().as_ref() != Some(&key) {
            wine.make_prefix()?;
            fs::write(wine.prefix().join(PACKAGES_FILE), key)?;
        }
        Ok(wine)
    }

    /// What installing the packages would have done.
    fn finish_packages(&self) -> Result<()> {
        // A script that knows only where packages are installed.
        let server = self.usr.join("lib/wine/wineserver");
        if !server.is_symlink() {
            fs::remove_file(&server)?;
            symlink("wineserver64", server)?;
        }
        // Wine takes a DLL for its own by a mark behind the DOS header (libwine's postinst).
        let mut zlib = fs::read(self.usr.join("x86_64-w64-mingw32/lib/zlib1.dll"))?;
        ensure!(zlib.len() > 96, "zlib1.dll is no DLL");
        zlib[64..96].fill(0);
        zlib[64..80].copy_from_slice(b"Wine builtin DLL");
        let dlls = self.usr.join("lib/x86_64-linux-gnu/wine/x86_64-windows");
        fs::write(dlls.join("zlib1.dll"), zlib)?;
        Ok(())
    }

    fn prefix(&self) -> PathBuf {
        self.folder.join("prefix")
    }

    fn runner(&self) -> PathBuf {
        self.folder.join("run")
    }

    fn library_path(&self) -> String {
        self.usr.join("lib/x86_64-linux-gnu").display().to_string()
    }

    /// Runs a program under Wine and ends it after a while: a hung test must not hang the rest.
    fn write_runner(&self) -> Result<()> {
        let wine = self.usr.join("lib/wine");
        let script = format!(
            "#!/bin/sh\n\
             unset DISPLAY WAYLAND_DISPLAY\n\
             export WINEPREFIX='{prefix}' WINEARCH=win64 WINEDEBUG=${{WINEDEBUG:--all}}\n\
             export WINELOADER='{wine}/wine64'\n\
             unset CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER # tests that run programs are inside\n\
             export WINEDLLOVERRIDES='mscoree=;mshtml=;winemenubuilder.exe='\n\
             export LD_LIBRARY_PATH='{libraries}'\n\
             exec timeout -k 5 {PROGRAM_LIMIT_SECONDS} '{wine}/wine64' \"$@\"\n",
            prefix = self.prefix().display(),
            wine = wine.display(),
            libraries = self.library_path(),
        );
        fs::write(self.runner(), script)?;
        fs::set_permissions(self.runner(), fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    pub(crate) fn cmd(&self) -> Cmd {
        Cmd::new(&self.folder, self.runner().display().to_string()).limit_minutes(6)
    }

    fn wine(&self, line: &str) -> Cmd {
        self.cmd().args(line.split_whitespace())
    }

    /// Cargo for Windows, whose programs run under Wine.
    pub(crate) fn cargo(
        &self,
        toolchain: &Toolchain,
        root: &Path,
        cache: &Path,
        what: &str,
    ) -> Cmd {
        let mingw = |tool: &str| format!("x86_64-w64-mingw32-{tool}");
        let path = std::env::var("PATH").unwrap_or_default();
        let library_path = format!("{}:{}", toolchain.library_path(), self.library_path());
        toolchain
            .cargo(root)
            .arg(what)
            .args(["--locked", "--target", TARGET, "-Zbuild-std=std,panic_unwind,test,proc_macro"])
            .args(["--target-dir".to_owned(), cache.join("wine-target").display().to_string()])
            .env("PATH", format!("{}:{path}", self.usr.join("bin").display()))
            .env("LD_LIBRARY_PATH", library_path)
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", mingw("gcc-posix"))
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", self.runner().display().to_string())
            .env("CC_x86_64_pc_windows_gnu", mingw("gcc-posix"))
            .env("AR_x86_64_pc_windows_gnu", mingw("ar"))
    }

    /// A Windows 10 with the DLL that this Wine lacks.
    fn make_prefix(&self) -> Result<()> {
        let prefix = self.prefix();
        if prefix.exists() {
            fs::remove_dir_all(&prefix)?;
        }
        self.wine("wineboot --init").run()?;
        self.settle()?;
        let system32 = prefix.join("drive_c/windows/system32");
        ensure!(system32.exists(), "Wine has made no {}", system32.display());
        let source = self.folder.join("bcryptprimitives.c");
        fs::write(&source, BCRYPT_PRIMITIVES)?;
        let gcc = self.usr.join("bin/x86_64-w64-mingw32-gcc-posix");
        Cmd::new(&self.folder, gcc.display().to_string())
            .args(["-O2", "-shared", "-s", "-o"])
            .args(
                [system32.join("bcryptprimitives.dll"), source].map(|it| it.display().to_string()),
            )
            .arg("-ladvapi32")
            .env("LD_LIBRARY_PATH", self.library_path())
            .run()?;
        // A new prefix is a Windows 7.
        self.wine("winecfg -v win10").run()?;
        self.settle()
    }

    /// Waits until Wine has written its registry and ended.
    fn settle(&self) -> Result<()> {
        Cmd::new(&self.folder, self.usr.join("lib/wine/wineserver64").display().to_string())
            .arg("--wait")
            .env("WINEPREFIX", self.prefix().display().to_string())
            .env("LD_LIBRARY_PATH", self.library_path())
            .limit_minutes(3)
            .run()
    }
}
