//! A directory whose files say which workers and nodes there are.
//!
//! Each file (`*.toml`, `*.json`) holds `[[workers]]` and `[[nodes]]` as the configuration does. It is read again when its time,
//! size or inode changes. A file that cannot be read may be half written: it is tried again at every look, keeps what it said
//! before, and is named once, at the second look that finds it so.

use super::{NodeSpec, WorkerSpec};
use crate::settings::{Format, read};
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Most files that are looked at.
const MAX_FILES: usize = 16_384;

/// What a look at the directory found.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// A file says this now.
    Says {
        /// The file.
        path: PathBuf,
        /// Its workers.
        workers: Vec<WorkerSpec>,
        /// Its nodes.
        nodes: Vec<NodeSpec>,
    },
    /// A file is gone, and what it said with it.
    Gone(PathBuf),
    /// A file cannot be read. Told once until it changes; what it said before holds.
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What tells a file from the one it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified_ns: i128,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Stamp { modified_ns, bytes: metadata.len(), inode: metadata.ino() }
    }
}

#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    bad: Bad,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    No,
    Once,
    Named,
}

/// The files as they were at the last look.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, Seen>,
}

impl Directory {
    /// Nothing has been looked at yet.
    pub fn new(path: PathBuf) -> Directory {
        Directory { path, files: BTreeMap::new() }
    }

    /// What changed since the last look. An error when the directory itself cannot be listed; nothing is taken for gone then.
    pub fn look(&mut self) -> io::Result<Vec<Change>> {
        let found = list(&self.path)?;
        let mut changes = Vec::new();
        self.files.retain(|path, _| {
            let stays = found.contains_key(path);
            if !stays {
                changes.push(Change::Gone(path.clone()));
            }
            stays
        });
        for (path, stamp) in found {
            changes.extend(self.file(path, stamp));
        }
        Ok(changes)
    }

    fn file(&mut self, path: PathBuf, stamp: Stamp) -> Option<Change> {
        let before = self.files.get(&path);
        let same = before.filter(|seen| seen.stamp == stamp).map(|seen| seen.bad);
        if same == Some(Bad::No) {
            return None;
        }
        let (bad, change) = match (content(&path, stamp), same) {
            (Ok((workers, nodes)), _) => (Bad::No, Some(Change::Says { path: path.clone(), workers, nodes })),
            (Err(_), None) => (Bad::Once, None),
            (Err(why), Some(Bad::Once)) => (Bad::Named, Some(Change::Bad { path: path.clone(), why })),
            (Err(_), Some(_)) => (Bad::Named, None),
        };
        self.files.insert(path, Seen { stamp, bad });
        change
    }
}

fn list(directory: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)?.take(MAX_FILES) {
        let path = entry?.path();
        // A file may go between the listing and here. Names with a leading dot are editors' and ConfigMaps' own.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let Some(metadata) = fs::metadata(&path).ok().filter(|metadata| metadata.is_file()) else { continue };
        if !hidden && format(&path).is_some() {
            found.insert(path, Stamp::of(&metadata));
        }
    }
    Ok(found)
}

fn format(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "toml" => Some(Format::Toml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

fn content(path: &Path, stamp: Stamp) -> Result<(Vec<WorkerSpec>, Vec<NodeSpec>), String> {
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    if stamp.bytes > MAX_FILE_BYTES {
        return Err(named(&format_args!("{} bytes, at most {MAX_FILE_BYTES} are read", stamp.bytes)));
    }
    let text = fs::read_to_string(path).map_err(|error| named(&error))?;
    if text.trim().is_empty() {
        return Err(named(&"is empty: remove the file to remove its workers"));
    }
    let origin = path.display().to_string();
    let format = format(path).expect("only such files are listed");
    let said = read(&text, &origin, format, &[&WorkerSpec::SECTION, &NodeSpec::SECTION]).map_err(|error| error.to_string())?;
    Ok((said.workers, said.nodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "[[workers]]\nname = \"a\"\nmodel = \"m\"\nblock_tokens = 16\n";

    fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf, Directory) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let directory = Directory::new(dir.path().into());
        (dir, path, directory)
    }

    fn names(changes: &[Change]) -> Vec<String> {
        let said = changes.iter().flat_map(|change| match change {
            Change::Says { workers, .. } => workers.iter().map(|spec| spec.name.to_string()).collect(),
            Change::Gone(_) => vec!["gone".to_owned()],
            Change::Bad { .. } => vec!["bad".to_owned()],
        });
        said.collect()
    }

    #[test]
    fn a_file_is_told_once_and_again_when_it_changes() {
        let (_dir, path, mut directory) = written("w.toml", ONE);
        assert_eq!(names(&directory.look().unwrap()), ["a"]);
        assert_eq!(directory.look().unwrap(), []);
        fs::write(&path, ONE.replace("\"a\"", "\"other\"")).unwrap();
        assert_eq!(names(&directory.look().unwrap()), ["other"]);
        fs::remove_file(&path).unwrap();
        assert_eq!(names(&directory.look().unwrap()), ["gone"]);
    }

    #[test]
    fn json_says_the_same() {
        let (_dir, _path, mut directory) = written("w.json", r#"{"workers": [{"name": 3, "model": "m", "block_tokens": 16}]}"#);
        assert_eq!(names(&directory.look().unwrap()), ["3"]);
    }

    #[test]
    fn a_half_written_file_is_tried_again_and_named_once() {
        let (_dir, path, mut directory) = written("w.toml", &ONE[..25]);
        assert_eq!(directory.look().unwrap(), [], "it may be half written");
        assert_eq!(names(&directory.look().unwrap()), ["bad"]);
        assert_eq!(directory.look().unwrap(), [], "named once");
        fs::write(&path, ONE).unwrap();
        assert_eq!(names(&directory.look().unwrap()), ["a"]);
    }

    #[test]
    fn settings_of_the_router_have_no_place_in_it() {
        let (_dir, _path, mut directory) = written("w.toml", "[http]\nlisten = \"127.0.0.1:1\"\n");
        directory.look().unwrap();
        let [Change::Bad { why, .. }] = &directory.look().unwrap()[..] else { panic!("one bad file") };
        assert!(why.ends_with("there is no section [http]; `kvd-router config --reference` lists them all"), "{why}");
    }

    #[test]
    fn other_files_are_not_looked_at() {
        let (dir, _path, mut directory) = written("README.md", "hello");
        fs::write(dir.path().join(".w.toml"), ONE).unwrap();
        assert_eq!(directory.look().unwrap(), []);
        assert!(Directory::new(dir.path().join("nowhere")).look().is_err());
    }
}
