//! Recorded request traces, read into one form.
//!
//! A trace names the blocks of each prompt by chained hashes: equal names mean equal tokens up to there. What the formats leave
//! open is decided here and said in the module of each format.

mod lmcache;
mod mooncake;
mod weka;

use anyhow::{Context, Result, bail};
use std::path::Path;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When it arrives, in milliseconds since the trace's first.
    pub at_ms: u64,
    /// Its prompt's blocks, root first, by chained hash.
    pub blocks: Vec<u64>,
    /// Tokens of a block; the last one may have fewer.
    pub block_tokens: u32,
    /// Tokens of its prompt; those beyond the last block are in no block.
    pub input_tokens: u32,
    /// Tokens of its answer.
    pub output_tokens: u32,
    /// The conversation it belongs to, where the trace says.
    pub session: u32,
}

impl Request {
    /// Tokens of the first `blocks` blocks.
    pub fn tokens_of(&self, blocks: usize) -> u64 {
        (blocks as u64 * u64::from(self.block_tokens)).min(u64::from(self.input_tokens))
    }
}

/// All requests of one recording, by time.
#[derive(Debug, Clone)]
pub struct Trace {
    /// What tables call it.
    pub name: String,
    /// By arrival.
    pub requests: Vec<Request>,
}

impl Trace {
    fn new(name: &str, mut requests: Vec<Request>) -> Trace {
        requests.sort_by_key(|request| request.at_ms);
        let first = requests.first().map_or(0, |request| request.at_ms);
        requests.iter_mut().for_each(|request| request.at_ms -= first);
        Trace { name: name.into(), requests }
    }
}

/// Every trace that `folder` holds, under the file names they are published with.
pub fn load_all(folder: &Path) -> Result<Vec<Trace>> {
    let mut traces = Vec::new();
    for file in files(folder)? {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let read = match name.as_str() {
            _ if name.starts_with("mooncake_") && name.contains(".jsonl") => mooncake::load(&file).map(|trace| vec![trace]),
            _ if name.starts_with("weka_") && name.contains(".jsonl") => weka::load(&file).map(|trace| vec![trace]),
            _ if name.starts_with("lmcache_") && name.ends_with(".tar.xz") => lmcache::load(&file),
            _ => continue,
        };
        traces.extend(read.with_context(|| file.display().to_string())?);
    }
    if traces.is_empty() {
        bail!("{} holds no trace: none of mooncake_*.jsonl, weka_*.jsonl.gz, lmcache_*.tar.xz", folder.display());
    }
    Ok(traces)
}

fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.sort();
    Ok(files)
}

/// The text of a file, unpacked when its name ends in `.gz`.
fn text(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file)?;
    let mut text = String::new();
    if file.extension().is_some_and(|extension| extension == "gz") {
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text)?;
    } else {
        text = String::from_utf8(bytes)?;
    }
    Ok(text)
}

/// The lines of a file as JSON; an error names the line.
fn json_lines<T: serde::de::DeserializeOwned>(text: &str) -> impl Iterator<Item = Result<T>> + '_ {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered.map(|(at, line)| serde_json::from_str(line).with_context(|| format!("line {}", at + 1)))
}

/// The name of a block: `item` after `parent`.
fn chain(parent: u64, item: u64) -> u64 {
    mix(parent ^ mix(item.wrapping_add(0x9E37_79B9_7F4A_7C15)))
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_line_is_named() {
        let error = json_lines::<serde_json::Value>("{}\n\n{").last().expect("two lines").expect_err("broken");
        assert!(error.to_string().contains("line 3"), "{error}");
    }

    #[test]
    fn a_folder_without_traces_says_what_is_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = load_all(folder.path()).expect_err("no trace");
        assert!(error.to_string().contains("mooncake_*.jsonl"), "{error}");
    }
}
