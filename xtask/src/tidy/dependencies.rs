//! `docs/dependencies.md` has one line for each crate that a manifest of the workspace names, and
//! no other: a dependency without a reason does not get in, a reason without one does not stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Finding, Source};
use crate::process::Cmd;

const PAGE: &str = "docs/dependencies.md";
const HEADER: &str = "| crate | used by | what for | why this one |";

/// Crate -> the packages that name it.
type Users = BTreeMap<String, BTreeSet<String>>;

pub(super) fn findings(root: &Path) -> Result<Vec<Finding>> {
    let metadata = Cmd::line(root, "cargo metadata --no-deps --format-version 1").output()?;
    let users = direct_dependencies(&serde_json::from_str(&metadata)?)?;
    let text = fs::read_to_string(root.join(PAGE)).with_context(|| PAGE.to_owned())?;
    Ok(differences(&Source { path: PAGE.into(), text }, &users))
}

fn direct_dependencies(metadata: &Value) -> Result<Users> {
    let mut users = Users::new();
    for package in metadata["packages"].as_array().context("packages")? {
        let user = package["name"].as_str().context("package name")?;
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let is_registry_crate = !dependency["source"].is_null();
            if is_registry_crate {
                let name = dependency["name"].as_str().context("dependency name")?;
                users.entry(name.to_owned()).or_default().insert(user.to_owned());
            }
        }
    }
    Ok(users)
}

fn differences(page: &Source, users: &Users) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut missing = users.clone();
    let mut in_table = false;
    for (index, line) in page.text.lines().enumerate() {
        let is_row = line.starts_with('|');
        if !in_table || !is_row {
            in_table = line == HEADER;
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells[0].starts_with('-') {
            continue;
        }
        let what = match (&cells[..], missing.remove(cells[0].trim_matches('`'))) {
            ([_, _, what, why], _) if what.is_empty() || why.is_empty() => "an empty cell".into(),
            ([_, used_by, _, _], Some(packages)) => {
                let listed: BTreeSet<String> =
                    used_by.split(',').map(|name| name.trim().to_owned()).collect();
                if listed == packages {
                    continue;
                }
                format!("used by {}", joined(&packages))
            }
            ([_, _, _, _], None) => "no manifest names it, or it is listed twice".into(),
            _ => format!("not four cells as in `{HEADER}`"),
        };
        findings.push(page.finding(index + 1, format!("{}: {what}", cells[0])));
    }
    for (name, packages) in missing {
        let what = format!("no line `| {name} | {} | .. | .. |`", joined(&packages));
        findings.push(page.finding(0, what));
    }
    findings
}

fn joined(packages: &BTreeSet<String>) -> String {
    packages.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rows: &str, expected: &[&str]) {
        let users = Users::from([
            ("libc".to_owned(), BTreeSet::from(["wharf-port".to_owned()])),
            ("anyhow".to_owned(), BTreeSet::from(["wharf-cli".to_owned(), "xtask".to_owned()])),
        ]);
        let text = format!("# D\n\n{HEADER}\n|---|---|---|---|\n{rows}\ntext | no table\n");
        let page = Source { path: PAGE.into(), text };
        let found: Vec<String> = differences(&page, &users).into_iter().map(|f| f.what).collect();
        assert_eq!(found, expected, "{rows}");
    }

    #[test]
    fn the_page_and_the_manifests_agree() {
        let anyhow = "| anyhow | wharf-cli, xtask | errors | plain |\n";
        let libc = "| `libc` | wharf-port | types | the one |\n";
        check(&format!("{anyhow}{libc}"), &[]);
        check(anyhow, &["no line `| libc | wharf-port | .. | .. |`"]);
        check(
            &format!("{anyhow}{libc}{libc}"),
            &["`libc`: no manifest names it, or it is listed twice"],
        );
        check(&format!("{anyhow}| libc | wharf | types | one |"), &["libc: used by wharf-port"]);
        check(&format!("{anyhow}| libc | wharf-port |  | one |"), &["libc: an empty cell"]);
    }

    #[test]
    fn path_dependencies_do_not_count() {
        let metadata = serde_json::json!({"packages": [{"name": "a", "dependencies": [
            {"name": "b", "source": null}, {"name": "c", "source": "registry+x"}]}]});
        let users = direct_dependencies(&metadata).unwrap();
        assert_eq!(users.keys().collect::<Vec<_>>(), ["c"]);
    }
}
