//! From Python values to ours, with complaints that name what is wrong.

use kvd_block::{LayoutSpec, LocalHash, NewBlock, SequenceHash};
use kvd_connector::{Event, Level};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;

const LAYOUT_KEYS: [&str; 9] = ["model", "weights", "kv_dtype", "block_tokens", "group", "attention", "geometry", "ranks", "stripe_bytes"];

/// The socket named, or the default one.
pub fn socket(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(kvd_connector::default_socket_path)
}

/// A layout from its dict. All keys must be there and no others.
pub fn layout(dict: &Bound<'_, PyDict>) -> PyResult<LayoutSpec> {
    check_keys(dict)?;
    let spec = LayoutSpec {
        model: field(dict, "model")?,
        weights: field(dict, "weights")?,
        kv_dtype: field(dict, "kv_dtype")?,
        block_tokens: field(dict, "block_tokens")?,
        group: field(dict, "group")?,
        attention: field(dict, "attention")?,
        geometry: field(dict, "geometry")?,
        ranks: field(dict, "ranks")?,
        stripe_bytes: field(dict, "stripe_bytes")?,
    };
    spec.validate().map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(spec)
}

fn check_keys(dict: &Bound<'_, PyDict>) -> PyResult<()> {
    let keys: Vec<String> = dict.keys().extract()?;
    let missing: Vec<&str> = LAYOUT_KEYS.into_iter().filter(|key| !keys.iter().any(|given| given == key)).collect();
    let unknown: Vec<&str> = keys.iter().map(String::as_str).filter(|key| !LAYOUT_KEYS.contains(key)).collect();
    if missing.is_empty() && unknown.is_empty() {
        return Ok(());
    }
    let part = |what: &str, keys: &[&str]| if keys.is_empty() { String::new() } else { format!("; {what}: {}", keys.join(", ")) };
    let text = format!("a layout has other keys{}{}", part("missing", &missing), part("unknown", &unknown));
    Err(PyValueError::new_err(text))
}

fn field<'py, T: FromPyObjectOwned<'py>>(dict: &Bound<'py, PyDict>, key: &str) -> PyResult<T> {
    let value = dict.get_item(key)?.ok_or_else(|| PyValueError::new_err(format!("layout key `{key}` is missing")))?;
    value.extract::<T>().map_err(|error| {
        let error: PyErr = error.into();
        PyValueError::new_err(format!("layout key `{key}`: {error}"))
    })
}

/// Hashes from 16 bytes each.
pub fn hashes(bytes: &[u8]) -> PyResult<Vec<SequenceHash>> {
    let (hashes, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(PyValueError::new_err(format!("{} bytes are not whole hashes of 16 bytes", bytes.len())));
    }
    Ok(hashes.iter().copied().map(SequenceHash).collect())
}

/// Blocks that are known by name only.
pub fn named_blocks(names: &[u8], parents: Option<&[u8]>) -> PyResult<Vec<NewBlock>> {
    let names = hashes(names)?;
    let parents = parents.map_or_else(|| Ok(vec![SequenceHash::ROOT; names.len()]), hashes)?;
    if parents.len() != names.len() {
        return Err(PyValueError::new_err(format!("{} blocks with {} parents", names.len(), parents.len())));
    }
    let block = |(hash, parent): (SequenceHash, SequenceHash)| NewBlock {
        hash,
        parent,
        local: LocalHash(hash.table_hash()),
        position: 0,
        tokens: Vec::new(),
    };
    Ok(names.into_iter().zip(parents).map(block).collect())
}

/// Events as `(level, text)`, with the level names of Python's logging.
pub fn events(events: Vec<Event>) -> Vec<(&'static str, String)> {
    let name = |level| match level {
        Level::Info => "INFO",
        Level::Warning => "WARNING",
    };
    events.into_iter().map(|event| (name(event.level), event.text)).collect()
}
