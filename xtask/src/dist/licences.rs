//! The licences of what the program is made of: most of them want to be given along with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::Cmd;

/// One page with every text once, above it the crates that come under it.
pub(super) fn page(root: &Path, target: &str) -> Result<String> {
    let metadata = Cmd::line(root, "cargo metadata --locked --format-version 1 --filter-platform")
        .arg(target)
        .output()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = linked(&metadata, "wharf-cli")?;
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        // Those of the workspace lie beside this page.
        if package["source"].is_null() {
            continue;
        }
        let name = format!("{} {} ({})", field("name"), field("version"), field("license"));
        let manifest = Path::new(field("manifest_path"));
        let texts = texts(manifest.parent().context("a manifest's folder")?)?;
        ensure!(!texts.is_empty() || !field("license").is_empty(), "{name} has no licence");
        if texts.is_empty() {
            let words =
                format!("{}; no text comes with it: {}", field("license"), field("repository"));
            users.entry(words).or_default().push(name);
        } else {
            texts.into_iter().for_each(|text| users.entry(text).or_default().push(name.clone()));
        }
    }
    let mut page = String::from(HEAD);
    for (text, mut names) in users {
        names.sort();
        names.dedup();
        page.push_str(&format!(
            "\n{}\n{}\n\n{}\n",
            "-".repeat(80),
            names.join("\n"),
            text.trim_end()
        ));
    }
    Ok(page)
}

const HEAD: &str = "\
The wharf program is under MIT or Apache-2.0: LICENSE-MIT, LICENSE-APACHE. So is Rust's standard library,
which is in it. The crates below are in it, too, each under the licence in its line.
";

/// A package and all that is linked to it: not what only its tests or its building need.
fn linked<'a>(metadata: &'a Value, name: &str) -> Result<Vec<&'a Value>> {
    let list = |value: &'a Value| value.as_array().map_or(&[][..], Vec::as_slice);
    let packages: BTreeMap<&str, &Value> = list(&metadata["packages"])
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"]["nodes"])
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let first = packages.iter().find(|(_, package)| package["name"] == name);
    let mut waiting = vec![*first.with_context(|| format!("no package {name}"))?.0];
    let mut found = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !found.insert(id) {
            continue;
        }
        for dependency in list(&nodes.get(id).with_context(|| id.to_owned())?["deps"]) {
            let is_linked =
                list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            if is_linked {
                waiting.push(dependency["pkg"].as_str().context("a dependency's name")?);
            }
        }
    }
    found.into_iter().map(|id| packages.get(id).copied().with_context(|| id.to_owned())).collect()
}

/// The licences and notices that lie in a crate's folder.
fn texts(folder: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        let is_licence = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE", "COPYRIGHT"]
            .iter()
            .any(|start| name.starts_with(start));
        if is_licence && path.is_file() {
            texts.push(fs::read_to_string(&path).with_context(|| path.display().to_string())?);
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_counts_and_what_only_builds_or_tests_does_not() {
        let kinds = |name: &str, kind: Value| serde_json::json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let package = |name: &str| serde_json::json!({"id": name, "name": name});
        let names = ["program", "library", "below", "builder", "tester", "stranger"];
        let node = |name: &str, deps: Vec<Value>| serde_json::json!({"id": name, "deps": deps});
        let metadata = serde_json::json!({
            "packages": names.map(package),
            "resolve": {"nodes": [
                node("program", vec![
                    kinds("library", Value::Null),
                    kinds("builder", "build".into()),
                    kinds("tester", "dev".into()),
                ]),
                node("library", vec![kinds("below", Value::Null)]),
                node("below", vec![kinds("library", Value::Null)]),
                node("builder", vec![]),
                node("tester", vec![]),
                node("stranger", vec![]),
            ]},
        });
        let found = linked(&metadata, "program").unwrap();
        let found: Vec<&str> =
            found.iter().filter_map(|package| package["name"].as_str()).collect();
        assert_eq!(found, ["below", "library", "program"]);
        linked(&metadata, "nobody").unwrap_err();
    }
}
