//! `cargo xtask ci`: every check, in an order that finds cheap mistakes first.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    cross, dist, docs, fuzz,
    process::{Cmd, target_folder},
    readme, seeds, tidy, wine,
};

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&Path) -> Result<()>,
}

const STEPS: [Step; 19] = [
    Step { name: "fmt", what: "formatting", run: fmt },
    Step { name: "tidy", what: "rules that no compiler checks", run: tidy::run },
    Step { name: "docs", what: "every page and link of the book", run: docs::check },
    Step { name: "clippy", what: "lints, warnings are errors", run: clippy },
    Step { name: "xtask", what: "the tests of xtask itself", run: test_xtask },
    Step { name: "tree", what: "no async runtime below wharf-cli", run: tree },
    Step { name: "test-poll", what: "tests that name no engine, on poll", run: test_poll },
    Step { name: "loom", what: "all interleavings of the cross-thread parts", run: loom },
    Step { name: "seeds", what: "the simulations with 2,000 seeds", run: seeds::short },
    Step { name: "fuzz", what: "every fuzz target for a few seconds", run: fuzz::short },
    Step { name: "doc", what: "documentation without warnings", run: doc },
    Step { name: "package", what: "what would be published compiles alone", run: package },
    Step { name: "dist", what: "what a release archive holds, and its unit", run: dist::short },
    Step { name: "asan", what: "tests under the address sanitizer", run: address_sanitizer },
    Step { name: "tsan", what: "tests under the thread sanitizer", run: cross::thread_sanitizer },
    Step { name: "cross-check", what: "type-check for other systems", run: cross::check },
    Step { name: "wine", what: "lints for Windows, and everything under Wine", run: wine::run },
    Step { name: "bench", what: "the bench workspace builds and is right", run: bench },
    Step { name: "readme", what: "what README.md tells a reader to run", run: readme::run },
];

/// What would be published, each behind those that it depends on.
const PUBLISHED: [&str; 4] = ["wharf-port", "wharf", "wharf-chat", "wharf-cli"];

/// What the sanitizers watch, a call of cargo each: of `wharf` the tests with real sockets and threads,
/// as the others have one thread and no memory but that which the language guards.
pub(crate) const SANITIZED: [&str; 2] = [
    "-p wharf-port --tests",
    "-p wharf --lib --test server --test logic --test failed_start --test signals_taken",
];

/// Each read of a variable that the compiler could have kept in a register is watched, too, if nothing is
/// optimised: that takes most of the time, and finds nothing.
pub(crate) const SANITIZED_OPT_LEVEL: &str = "1";

/// Of the library's own tests those that have one thread as well, and would take minutes under a
/// sanitizer.
pub(crate) const NO_SIMULATIONS: [&str; 6] =
    ["--skip", "sim_tests", "--skip", "crowd_tests", "--skip", "fairness_tests"];

/// # Errors
/// The first step that fails, with the command that repeats it.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let names = STEPS.each_ref().map(|step| step.name);
    let Some(chosen) = choose(&names, args)? else {
        STEPS.iter().for_each(|step| println!("{:<12} {}", step.name, step.what));
        return Ok(());
    };
    let start = Instant::now();
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for step in STEPS.iter().filter(|step| chosen.contains(step.name)) {
        println!("==> {}: {}", step.name, step.what);
        let step_start = Instant::now();
        (step.run)(root).with_context(|| {
            format!("step `{0}` (to repeat it: cargo xtask ci --only {0})", step.name)
        })?;
        println!("<== {}: {:.1} s", step.name, step_start.elapsed().as_secs_f64());
        times.push((step.name, step_start.elapsed()));
    }
    for (name, time) in times {
        println!("{name:<12} {:>7.1} s", time.as_secs_f64());
    }
    println!("{:<12} {:>7.1} s", "all", start.elapsed().as_secs_f64());
    Ok(())
}

/// # Errors
/// As [`run`], for the one step.
pub(crate) fn run_one(root: &Path, name: &str) -> Result<()> {
    run(root, &["--only".to_owned(), name.to_owned()])
}

/// The names to run, or `None` to list them.
fn choose<'a>(names: &[&'a str], args: &[String]) -> Result<Option<BTreeSet<&'a str>>> {
    let mut chosen: BTreeSet<&str> = names.iter().copied().collect();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let is_only = match arg.as_str() {
            "--list" => return Ok(None),
            "--only" => true,
            "--skip" => false,
            other => bail!("ci takes --list, --only and --skip, not `{other}`"),
        };
        let list = args.next().with_context(|| format!("{arg} takes names: {names:?}"))?;
        let named: BTreeSet<&str> = list.split(',').collect();
        if let Some(unknown) = named.iter().find(|name| !names.contains(name)) {
            bail!("no step `{unknown}` among {names:?}");
        }
        chosen.retain(|name| named.contains(name) == is_only);
    }
    Ok(Some(chosen))
}

fn fmt(root: &Path) -> Result<()> {
    Cmd::line(root, "cargo fmt --all --check").run()
}

fn clippy(root: &Path) -> Result<()> {
    Cmd::line(root, "cargo clippy --locked --workspace --all-targets -- -D warnings").run()
}

fn test_xtask(root: &Path) -> Result<()> {
    Cmd::line(root, "cargo test --locked -p xtask").run()
}

/// Those tests that run on one engine, which the environment names; the others run on each of them anyway.
/// In one call, and of the packages that `cargo test` takes: then nothing is built again.
fn test_poll(root: &Path) -> Result<()> {
    let named = "router overload protocol redis chat layers starters step02_allocations";
    let mut tests: BTreeSet<String> = named.split(' ').map(str::to_owned).collect();
    for entry in fs::read_dir(root.join("crates/wharf-cli/tests"))? {
        let path = entry?.path();
        if path.extension().is_some() || path.join("main.rs").exists() {
            tests.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Cmd::line(root, "cargo test --locked --example arena")
        .args(tests.iter().map(|test| format!("--test={test}")))
        .env("WHARF_ENGINE", "poll")
        .limit_minutes(15)
        .run()
}

fn doc(root: &Path) -> Result<()> {
    Cmd::line(root, "cargo doc --locked --no-deps --workspace")
        .env("RUSTDOCFLAGS", "-Dwarnings")
        .run()
}

/// What would be published holds all that it needs: each package is unpacked and type-checked, with the
/// others of them and nothing of the checkout. Cargo's own check builds each with everything that it
/// depends on, which takes minutes; here the dependencies are those that clippy has checked already.
fn package(root: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let packed = folder.path().join("packed");
    let mut cargo = Cmd::line(root, "cargo package --locked --allow-dirty --no-verify");
    for name in PUBLISHED {
        cargo = cargo.args(["-p", name]);
    }
    cargo.arg("--target-dir").arg(packed.display().to_string()).run()?;
    let unpacked = folder.path().join("unpacked");
    fs::create_dir(&unpacked)?;
    let version = env!("CARGO_PKG_VERSION");
    for name in PUBLISHED {
        let archive = packed.join(format!("package/{name}-{version}.crate"));
        dist::unpack_tar_gz(&archive, &unpacked)?;
    }
    let patches = PUBLISHED.map(|name| format!("{name} = {{ path = \"{name}-{version}\" }}\n"));
    let workspace = "[workspace]\nresolver = \"3\"\nmembers = [\"*\"]\n\n[patch.crates-io]\n";
    fs::write(unpacked.join("Cargo.toml"), workspace.to_owned() + &patches.concat())?;
    // The same versions: nothing has to be looked up.
    fs::copy(root.join("Cargo.lock"), unpacked.join("Cargo.lock"))?;
    for name in PUBLISHED {
        // One by one: what another one asks of a dependency must not help.
        Cmd::line(&unpacked, "cargo check -p")
            .args([name, "--target-dir"])
            .arg(target_folder(root)?.display().to_string())
            .run()?;
    }
    Ok(())
}

/// Runs the tests that loom drives, which lie beside what they test and exist only under its flag. A
/// folder of its own for what is built: the flag would otherwise throw away what the other steps
/// have built.
fn loom(root: &Path) -> Result<()> {
    let said = Cmd::line(root, "cargo test --locked --profile seeds --target-dir target/loom")
        .args(["-p", "wharf-port", "--lib", "loom"])
        .env("RUSTFLAGS", "--cfg loom")
        .output()?;
    print!("{said}");
    ensure!(!said.contains("running 0 tests"), "no test ran: the wake flag goes unchecked");
    Ok(())
}

fn address_sanitizer(root: &Path) -> Result<()> {
    // Sanitizers are an unstable feature of the stable toolchain. `--target` keeps the flags away
    // from build scripts; the cfg lets tests that cannot run under the sanitizer say so.
    for tests in SANITIZED {
        Cmd::line(root, "cargo test --locked")
            .args(tests.split_whitespace())
            .args(["--target", "x86_64-unknown-linux-gnu", "--target-dir", "target/asan"])
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", SANITIZED_OPT_LEVEL)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zsanitizer=address --cfg wharf_asan")
            .arg("--")
            .args(NO_SIMULATIONS)
            .limit_minutes(15)
            .run()?;
    }
    Ok(())
}

fn tree(root: &Path) -> Result<()> {
    // `wharf-chat` joins the workspace later.
    for package in ["wharf-port", "wharf", "wharf-chat"] {
        if root.join("crates").join(package).exists() {
            let banned = ["tokio", "async-std", "smol", "bincode", "sled"];
            absent(root, &["-p", package], &banned)?;
        }
    }
    absent(root, &["--workspace"], &["bincode", "sled"])
}

fn absent(root: &Path, which: &[&str], banned: &[&str]) -> Result<()> {
    let tree = Cmd::line(root, "cargo tree --locked --edges normal --target all --prefix none")
        .args(which.iter().copied())
        .output()?;
    let names: BTreeSet<&str> =
        tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(!names.is_empty(), "cargo tree {which:?} is empty");
    if let Some(found) = banned.iter().find(|name| names.contains(*name)) {
        bail!("{} depends on {found}", which.join(" "));
    }
    Ok(())
}

fn bench(root: &Path) -> Result<()> {
    let folder = root.join("bench");
    ensure!(folder.join("Cargo.toml").exists(), "bench/Cargo.toml is missing");
    Cmd::line(&folder, "cargo fmt --all --check").run()?;
    // Where the rest is built: what both depend on is there already.
    let cargo = |what: &str| {
        let target = target_folder(root)?.display().to_string();
        let cargo = Cmd::line(&folder, what).env("CARGO_TARGET_DIR", target);
        anyhow::Ok(cargo.args("--locked --workspace".split(' ')))
    };
    cargo("cargo clippy")?.args("--all-targets -- -D warnings".split(' ')).run()?;
    cargo("cargo test")?.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], expected: Option<&[&str]>) {
        let args: Vec<String> = args.iter().copied().map(String::from).collect();
        let chosen = choose(&["a", "b", "c"], &args).ok().flatten();
        assert_eq!(chosen, expected.map(|names| names.iter().copied().collect()), "{args:?}");
    }

    #[test]
    fn steps_are_chosen_by_name() {
        check(&[], Some(&["a", "b", "c"]));
        check(&["--only", "a,c"], Some(&["a", "c"]));
        check(&["--skip", "a"], Some(&["b", "c"]));
        check(&["--only", "a,b", "--skip", "b"], Some(&["a"]));
        check(&["--only", "x"], None);
        check(&["--list"], None);
    }
}
