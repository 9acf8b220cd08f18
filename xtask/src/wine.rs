//! The tests on Windows' own interface, without Windows: cross-compiled with MinGW, run under Wine.
//!
//! Everything comes from Debian 12's packages, unpacked into the cache folder (`cross.rs`): nothing
//! is installed, and no root is needed. Where a package cannot be had this fails; it is not skipped.
//! What Wine can judge and what it cannot is told in docs/windows.md.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cross::{PACKAGES_FILE, Toolchain, cache_folder, unpack},
    process::Cmd,
};

const TARGET: &str = "x86_64-pc-windows-gnu";
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
/// Whose tests run, each with a time limit.
const TESTED: [(&str, u64); 3] = [("wharf-port", 10), ("wharf", 10), ("wharf-cli", 15)];
/// One program of tests; it is ended then, with Wine's own processes.
const PROGRAM_LIMIT_SECONDS: u32 = 300;
const BCRYPT_PRIMITIVES: &str = include_str!("wine/bcryptprimitives.c");

/// Clippy for Windows, then the tests.
///
/// # Errors
/// A package cannot be had, Wine cannot be set up, or a check fails.
pub(crate) fn run(root: &Path) -> Result<()> {
    let cache = cache_folder()?;
    let toolchain = Toolchain::open(&cache)?;
    let wine = Wine::open(&cache)?;
    let cargo = |what: &str| {
        let mingw = |tool: &str| format!("x86_64-w64-mingw32-{tool}");
        let path = std::env::var("PATH").unwrap_or_default();
        let library_path = format!("{}:{}", toolchain.library_path(), wine.library_path());
        toolchain
            .cargo(root)
            .arg(what)
            .args(["--locked", "--target", TARGET, "-Zbuild-std=std,panic_unwind,test,proc_macro"])
            .args(["--target-dir".to_owned(), cache.join("wine-target").display().to_string()])
            .env("PATH", format!("{}:{path}", wine.usr.join("bin").display()))
            .env("LD_LIBRARY_PATH", library_path)
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", mingw("gcc-posix"))
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", wine.runner().display().to_string())
            .env("CC_x86_64_pc_windows_gnu", mingw("gcc-posix"))
            .env("AR_x86_64_pc_windows_gnu", mingw("ar"))
    };
    let packages = TESTED.iter().flat_map(|(package, _)| ["-p", package]);
    cargo("clippy")
        .args(packages)
        .args(["--all-targets", "--", "-D", "warnings"])
        // For this target it takes a `const` that is there for one that is missing.
        .args(["-A", "clippy::missing_const_for_thread_local"])
        .limit_minutes(20)
        .run()?;
    for (package, minutes) in TESTED {
        // Building the tests takes longer than running them, the first time.
        cargo("test").args(["-p", package, "--no-run"]).limit_minutes(20).run()?;
        cargo("test").args(["-p", package]).limit_minutes(minutes).run()?;
    }
    Ok(())
}

/// Wine and MinGW, unpacked, and Wine's prefix: the folder with its C: drive and registry.
struct Wine {
    folder: PathBuf,
    usr: PathBuf,
}

impl Wine {
    fn open(cache: &Path) -> Result<Wine> {
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

    fn wine(&self, line: &str) -> Cmd {
        Cmd::new(&self.folder, self.runner().display().to_string())
            .args(line.split_whitespace())
            .limit_minutes(6)
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
