//! The page of planted faults: what a run found, and what earlier runs had found of the others.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs, io,
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{Found, Plant};

const PAGE: &str = "docs/planted-faults.md";

/// Rows of tables, by the name of the fault.
pub(super) struct Page(BTreeMap<String, String>);

impl Page {
    pub(super) fn read(root: &Path) -> Result<Self> {
        match fs::read_to_string(root.join(PAGE)) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self(BTreeMap::new())),
            Err(error) => Err(error).context(PAGE),
        }
    }

    fn parse(text: &str) -> Self {
        let row = |line: &str| {
            let (name, rest) = line.strip_prefix("| ")?.split_once(" | ")?;
            Some((name.to_owned(), format!("| {name} | {rest}")))
        };
        Self(text.lines().filter_map(row).collect())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn insert(&mut self, name: &str, found: &Found) {
        self.0.insert(name.to_owned(), format!("| {name} | {} |", found.cells()));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The faults in the order of their lists; what is in no list any more is left out.
    pub(super) fn write(&self, root: &Path, plants: &[Plant]) -> Result<()> {
        fs::write(root.join(PAGE), self.text(plants)).context(PAGE)
    }

    fn text(&self, plants: &[Plant]) -> String {
        let mut text = INTRODUCTION.to_owned();
        for (by_seed, heading) in HEADINGS {
            let plants = plants.iter().filter(|plant| plant.tests.is_empty() == by_seed);
            let rows = plants.filter_map(|plant| self.0.get(&plant.name));
            text.push_str(heading);
            rows.for_each(|row| writeln!(text, "{row}").expect("a string takes it"));
        }
        text
    }
}

impl Found {
    fn cells(&self) -> String {
        let tests: Vec<_> = self.tests.iter().map(|test| format!("`{test}`")).collect();
        let seed = self.seed.map_or_else(|| "any".to_owned(), |seed| seed.to_string());
        format!("{} | {seed} | {:.1}", tests.join(", "), self.took.as_secs_f64())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cells())
    }
}

const INTRODUCTION: &str = "\
# Planted faults

Would the tests notice? Each line is one rule of the software broken on purpose, what failed then, the
seed that showed it (`any` where it does not take an unlucky one, or the test has none), and the seconds
that the tests ran until then, in a build that is optimised little, on whichever machine. Written by
`cargo xtask plant`, which does it again; the faults themselves are in
[xtask/plants](../xtask/plants/simulations.toml).
";

/// Of faults that the simulations find, and of those that name their tests.
const HEADINGS: [(bool, &str); 2] = [
    (
        true,
        "
## Found by a seed

Nothing says where to look: the simulations run with seed after seed until one of them fails.

| what was broken | found by | seed | seconds |
|---|---|---|---|
",
    ),
    (
        false,
        "
## Found by the test of the guarantee

Each takes out what a test of [guarantees.md](guarantees.md) guards; that test alone is run, and has to
fail.

| what was broken | found by | seed | seconds |
|---|---|---|---|
",
    ),
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn plant(name: &str, tests: &[&str]) -> Plant {
        let [old, new, list] = [const { String::new() }; 3];
        let tests = tests.iter().copied().map(String::from).collect();
        Plant { name: name.to_owned(), file: "a.rs".into(), old, new, tests, list }
    }

    #[test]
    fn a_page_keeps_what_was_found_of_other_faults() {
        let plants = [plant("a", &[]), plant("b", &["y"]), plant("c", &["y"])];
        let found = |test: &str, seed| {
            let tests = vec![test.to_owned(), "too".to_owned()];
            Found { tests, seed, took: Duration::from_millis(1234) }
        };
        let mut page = Page::parse("");
        page.insert("a", &found("x", Some(7)));
        page.insert("b", &found("y", None));
        page.insert("gone", &found("z", None));
        let text = page.text(&plants);
        let mut again = Page::parse(&text);
        assert!(again.has("a") && again.has("b") && !again.has("c") && !again.has("gone"));
        again.insert("c", &found("y", None));
        again.remove("b");
        let text = again.text(&plants);
        assert!(text.ends_with("|---|\n| c | `y`, `too` | any | 1.2 |\n"), "{text}");
        assert!(text.contains("|---|\n| a | `x`, `too` | 7 | 1.2 |\n\n## Found by the"), "{text}");
    }
}
