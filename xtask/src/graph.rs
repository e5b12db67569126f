//! Which crate may depend on what. `docs/architecture.md` draws this; here it is enforced.
//!
//! Three rules: our crates depend on each other only along the edges below; the pure crates reach no runtime, file,
//! socket, clock or random source however deep; a heavy crate is named by its homes only. Development dependencies
//! are free: they ship nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::repository::Repository;

/// Our crates, and which of ours each may use.
const EDGES: &[(&str, &[&str])] = &[
    ("kvd-block", &[]),
    ("kvd-ledger", &["kvd-block"]),
    ("kvd-proto", &["kvd-block"]),
    ("kvd-shm", &["kvd-block"]),
    ("kvd-tiers", &["kvd-block", "kvd-shm"]),
    ("kvd-kit", &["kvd-block", "kvd-connector", "kvd-proto", "kvd-shm", "kvd-tiers"]),
    ("kvd", &["kvd-block", "kvd-kit", "kvd-ledger", "kvd-proto", "kvd-shm", "kvd-tiers"]),
    ("kvd-connector", &["kvd-block", "kvd-proto", "kvd-shm"]),
    ("kvd-native", &["kvd-block", "kvd-connector", "kvd-proto", "kvd-shm"]),
    ("kvd-index", &["kvd-block"]),
    ("kvd-router", &["kvd-block", "kvd-index", "kvd-proto"]),
    ("xtask", &[]),
];

/// Tests and benches look at anything.
const OBSERVERS: &[&str] = &["kvd-tests", "kvd-benches"];

/// Crates that decide and never act.
const PURE: &[&str] = &["kvd-block", "kvd-index", "kvd-ledger"];

/// What a pure crate must not reach, however deep: runtimes, files, sockets, clocks, random sources.
const IMPURE: &[&str] = &[
    "async-io",
    "async-std",
    "chrono",
    "fastrand",
    "futures-util",
    "getrandom",
    "hyper",
    "io-uring",
    "jiff",
    "memmap2",
    "mio",
    "nix",
    "polling",
    "rand",
    "rand_core",
    "rocksdb",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "tonic",
    "uuid",
    "zeromq",
];

/// Heavy crates, and the only crates that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("axum", &["kvd", "kvd-router"]),
    ("io-uring", &["kvd-tiers"]),
    ("prost", &["kvd-proto", "kvd", "kvd-router"]),
    ("pyo3", &["kvd-native"]),
    ("rocksdb", &["kvd-tiers"]),
    ("tonic", &["kvd-proto", "kvd", "kvd-router"]),
    ("zeromq", &["kvd", "kvd-router"]),
];

/// The Python wheel must stay small and quick to build: it reaches none of these.
const WHEEL: &str = "kvd-native";
const NOT_IN_THE_WHEEL: &[&str] = &["io-uring", "kvd-tiers", "librocksdb-sys", "rocksdb", "tokio", "tonic", "zeromq"];

/// Checks the whole workspace and prints what is wrong.
pub fn run(repository: &Repository) -> Result<()> {
    let violations = violations(repository)?;
    for violation in &violations {
        eprintln!("graph: {violation}");
    }
    ensure!(violations.is_empty(), "{} edges are not in docs/architecture.md", violations.len());
    println!("graph: every dependency is where it belongs");
    Ok(())
}

/// What is wrong with the workspace's dependencies, one sentence each.
pub fn violations(repository: &Repository) -> Result<Vec<String>> {
    let host = repository.output("rustc", &["-vV"])?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("x86_64-unknown-linux-gnu").to_owned();
    let metadata = repository.output("cargo", &["metadata", "--offline", "--locked", "--format-version=1", "--filter-platform", &host])?;
    let graph = Graph::from_metadata(&serde_json::from_str(&metadata)?);
    let mut found = graph.violations();
    for name in PURE {
        found.extend(reached(name, &linked(repository, name)?, IMPURE, "must stay pure"));
    }
    found.extend(reached(WHEEL, &linked(repository, WHEEL)?, NOT_IN_THE_WHEEL, "is the Python wheel"));
    let drawn = repository.file("docs/architecture.md").map(|file| file.text).unwrap_or_default();
    found.extend(
        graph
            .members
            .iter()
            .filter(|name| !drawn.contains(&format!("`{name}`")))
            .map(|name| format!("docs/architecture.md does not name the crate `{name}`")),
    );
    Ok(found)
}

/// Every crate linked into `name` when it is built by itself. `cargo metadata` cannot say this: it shows the features
/// that the whole workspace asks for together.
fn linked(repository: &Repository, name: &str) -> Result<BTreeSet<String>> {
    let arguments = ["tree", "--offline", "--locked", "--package", name, "--edges=normal", "--prefix=none", "--format={p}"];
    let tree = repository.output("cargo", &arguments)?;
    Ok(tree.lines().filter_map(|line| line.split(' ').next()).map(String::from).collect())
}

/// Which of `forbidden` are among what `name` links.
fn reached(name: &str, linked: &BTreeSet<String>, forbidden: &[&str], why: &str) -> Vec<String> {
    let bad = forbidden.iter().filter(|bad| linked.contains(**bad));
    bad.map(|bad| format!("`{name}` {why}, but reaches {bad} (`cargo tree -p {name} -i {bad}` shows how)")).collect()
}

/// The dependencies of every package, without those for development.
#[derive(Debug, Default)]
struct Graph {
    members: BTreeSet<String>,
    direct: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn from_metadata(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let names: BTreeMap<String, String> =
            list(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let members = list(&metadata["workspace_members"]).iter().filter_map(|id| names.get(&text(id)).cloned()).collect();
        let mut graph = Self { members, direct: BTreeMap::new() };
        for node in list(&metadata["resolve"]["nodes"]) {
            let Some(from) = names.get(&text(&node["id"])) else { continue };
            for dependency in list(&node["deps"]) {
                let Some(to) = names.get(&text(&dependency["pkg"])) else { continue };
                let kinds: Vec<Value> = list(&dependency["dep_kinds"]).iter().map(|kind| kind["kind"].clone()).collect();
                graph.add(from, to, &kinds);
            }
        }
        graph
    }

    fn add(&mut self, from: &str, to: &str, kinds: &[Value]) {
        if kinds.iter().any(|kind| kind != "dev") {
            self.direct.entry(from.to_owned()).or_default().insert(to.to_owned());
        }
    }

    fn violations(&self) -> Vec<String> {
        let judged = || self.members.iter().filter(|name| !OBSERVERS.contains(&name.as_str()));
        judged().flat_map(|name| self.strange_edges(name)).chain(judged().flat_map(|name| self.strangers_at_home(name))).collect()
    }

    fn direct(&self, name: &str) -> impl Iterator<Item = &String> {
        self.direct.get(name).into_iter().flatten()
    }

    /// Edges between our own crates that the drawing does not have.
    fn strange_edges(&self, name: &str) -> Vec<String> {
        let Some((_, allowed)) = EDGES.iter().find(|(from, _)| *from == name) else {
            return vec![format!("`{name}` has no place in the drawing")];
        };
        self.direct(name)
            .filter(|to| self.members.contains(*to) && !allowed.contains(&to.as_str()))
            .map(|to| format!("`{name}` depends on `{to}`"))
            .collect()
    }

    /// Heavy crates that this crate names without being their home.
    fn strangers_at_home(&self, name: &str) -> Vec<String> {
        self.direct(name)
            .filter_map(|to| HOMES.iter().find(|(heavy, homes)| heavy == to && !homes.contains(&name)))
            .map(|(heavy, homes)| format!("`{name}` depends on {heavy}, whose home is {}", homes.join(", ")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn graph(edges: &[(&str, &str, Value)]) -> Graph {
        let mut graph = Graph::default();
        for (from, to, kind) in edges {
            graph.add(from, to, std::slice::from_ref(kind));
            graph.members.extend([from, to].into_iter().filter(|name| name.starts_with("kvd")).map(|name| (*name).into()));
        }
        graph
    }

    #[test]
    fn a_pure_crate_may_not_reach_a_runtime() {
        let linked = BTreeSet::from(["blake3".to_owned(), "tokio".to_owned()]);
        let found = reached("kvd-block", &linked, IMPURE, "must stay pure");
        assert_eq!(found, ["`kvd-block` must stay pure, but reaches tokio (`cargo tree -p kvd-block -i tokio` shows how)"]);
    }

    #[test]
    fn a_heavy_crate_has_one_home() {
        let graph = graph(&[("kvd-shm", "io-uring", Value::Null), ("kvd-tiers", "io-uring", Value::Null)]);
        assert_eq!(graph.violations(), ["`kvd-shm` depends on io-uring, whose home is kvd-tiers"]);
    }

    #[test]
    fn an_edge_that_is_not_drawn_is_refused_unless_it_is_for_development() {
        let drawn = graph(&[("kvd-ledger", "kvd-block", Value::Null), ("kvd-block", "kvd-shm", json!("dev"))]);
        assert_eq!(drawn.violations(), [""; 0]);
        let strange = graph(&[("kvd-ledger", "kvd-shm", Value::Null)]);
        assert_eq!(strange.violations(), ["`kvd-ledger` depends on `kvd-shm`"]);
    }

    #[test]
    fn tests_may_depend_on_anything() {
        assert_eq!(graph(&[("kvd-tests", "rocksdb", Value::Null)]).violations(), [""; 0]);
    }

    #[test]
    fn metadata_is_read_with_the_kind_of_each_edge() {
        let metadata = json!({
            "packages": [{"id": "a", "name": "kvd-shm"}, {"id": "b", "name": "rocksdb"}, {"id": "c", "name": "tonic"}],
            "workspace_members": ["a"],
            "resolve": {"nodes": [{"id": "a", "deps": [
                {"pkg": "b", "dep_kinds": [{"kind": null}]},
                {"pkg": "c", "dep_kinds": [{"kind": "dev"}]},
            ]}]},
        });
        assert_eq!(Graph::from_metadata(&metadata).violations(), ["`kvd-shm` depends on rocksdb, whose home is kvd-tiers"]);
    }
}
