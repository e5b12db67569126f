//! What `--tier` names: a URL, or a plain path.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Schemes that `--tier` takes.
pub const SCHEMES: [&str; 4] = ["file", "block", "mem", "null"];

/// The medium under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A directory on a mounted filesystem: `file:///mnt/x`, or the path alone.
    Directory(PathBuf),
    /// A whole block device: `block:///dev/nvme1n1`, or the path alone.
    BlockDevice(PathBuf),
    /// Host memory: `mem://`.
    Memory,
    /// Nothing is kept, only headers: `null://`. Not a tier: it is the ceiling of the tool itself.
    Null,
}

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The scheme is none of ours.
    #[error("`{url}`: unknown scheme `{scheme}`{}; use file:///path (or a path), block:///dev/…, mem:// or null://", hint(nearest))]
    UnknownScheme {
        /// What was given.
        url: String,
        /// Its scheme.
        scheme: String,
        /// The nearest scheme there is.
        nearest: Option<&'static str>,
    },
    /// A scheme whose tier is not built yet.
    #[error("`{url}`: object stores are not supported by this version; mount it and give the mount point")]
    ObjectStore {
        /// What was given.
        url: String,
    },
    /// A path where none is needed, or none where one is.
    #[error("`{url}`: {why}")]
    Malformed {
        /// What was given.
        url: String,
        /// What is wrong.
        why: String,
    },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

impl Target {
    /// Reads what was given to `--tier`. Only looks at a plain path to tell a device from a directory.
    pub fn parse(given: &str) -> Result<Target, TargetError> {
        let malformed = |why: &str| TargetError::Malformed { url: given.into(), why: why.into() };
        let Some((scheme, rest)) = given.split_once("://") else {
            return match given {
                "" => Err(malformed("give a path or a URL")),
                path => Ok(Target::at(Path::new(path))),
            };
        };
        let absolute = || match rest.starts_with('/') {
            true => Ok(PathBuf::from(rest)),
            false => Err(malformed("the path must be absolute, as in file:///mnt/disk")),
        };
        match scheme {
            "file" => Ok(Target::Directory(absolute()?)),
            "block" => Ok(Target::BlockDevice(absolute()?)),
            "mem" | "null" if !rest.is_empty() => Err(malformed("takes no path")),
            "mem" => Ok(Target::Memory),
            "null" => Ok(Target::Null),
            "s3" | "az" | "gs" => Err(TargetError::ObjectStore { url: given.into() }),
            other => Err(TargetError::UnknownScheme { url: given.into(), scheme: other.into(), nearest: nearest(other) }),
        }
    }

    fn at(path: &Path) -> Target {
        let is_device = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
        if is_device { Target::BlockDevice(path.into()) } else { Target::Directory(path.into()) }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Directory(path) => write!(f, "file://{}", path.display()),
            Target::BlockDevice(path) => write!(f, "block://{}", path.display()),
            Target::Memory => f.write_str("mem://"),
            Target::Null => f.write_str("null://"),
        }
    }
}

fn nearest(written: &str) -> Option<&'static str> {
    SCHEMES
        .into_iter()
        .map(|name| (strsim::jaro_winkler(written, name), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_name_targets() {
        assert_eq!(Target::parse("file:///mnt/a").unwrap(), Target::Directory("/mnt/a".into()));
        assert_eq!(Target::parse("block:///dev/nvme1n1").unwrap(), Target::BlockDevice("/dev/nvme1n1".into()));
        assert_eq!(Target::parse("some/folder").unwrap(), Target::Directory("some/folder".into()));
        assert_eq!(Target::parse("null://").unwrap(), Target::Null);
    }

    #[test]
    fn an_unknown_scheme_is_named_with_the_nearest() {
        let refusal = Target::parse("flie:///mnt/a").unwrap_err().to_string();
        assert!(refusal.contains("`flie`") && refusal.contains("did you mean `file`?"), "{refusal}");
    }

    #[test]
    fn a_relative_url_is_refused() {
        assert!(Target::parse("file://mnt/a").unwrap_err().to_string().contains("absolute"));
    }
}
