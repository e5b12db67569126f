//! `Chain`: the block names of one request.

use kvd_block::ChainIdentity;
use kvd_connector::{Extra, RequestChain};
use kvd_proto::local::NewBlock;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Mutex, MutexGuard};

/// The block names of one request, for one block size.
///
/// `extras` lists what stands behind placeholder tokens: (first token, one past the last, identity of the content).
#[pyclass(frozen, module = "kvd_connectors._native")]
pub struct Chain(Mutex<RequestChain>);

impl Chain {
    fn lock(&self) -> MutexGuard<'_, RequestChain> {
        self.0.lock().expect("no panic while held")
    }

    /// Blocks by index; an error names the first that has no name yet.
    pub fn new_blocks(&self, indices: &[usize]) -> PyResult<Vec<NewBlock>> {
        let chain = self.lock();
        let block = |index: &usize| {
            let missing = || PyIndexError::new_err(format!("block {index} of a chain with {} whole blocks", chain.num_blocks()));
            chain.new_block(*index).ok_or_else(missing)
        };
        indices.iter().map(block).collect()
    }
}

#[pymethods]
impl Chain {
    #[new]
    #[pyo3(signature = (block_tokens, lora = String::new(), salt = String::new(), extras = Vec::new()))]
    fn new(block_tokens: usize, lora: String, salt: String, extras: Vec<(usize, usize, Vec<u8>)>) -> PyResult<Chain> {
        if block_tokens == 0 || block_tokens > kvd_block::layout::MAX_BLOCK_TOKENS as usize {
            return Err(PyValueError::new_err(format!("block_tokens is {block_tokens}")));
        }
        let extras = extras.into_iter().map(|(start, end, bytes)| Extra { start, end, bytes }).collect();
        Ok(Chain(Mutex::new(RequestChain::new(block_tokens, &ChainIdentity { lora, salt }, extras))))
    }

    /// Appends tokens. Returns the number of whole blocks named so far.
    fn extend(&self, tokens: Vec<u32>) -> usize {
        self.lock().extend(&tokens)
    }

    /// Tokens given so far.
    #[getter]
    fn num_tokens(&self) -> usize {
        self.lock().num_tokens()
    }

    /// Whole blocks named so far.
    #[getter]
    fn num_blocks(&self) -> usize {
        self.lock().num_blocks()
    }

    /// Names of blocks `start` to `stop`, 16 bytes each; what is past the end is left out.
    fn hashes<'py>(&self, py: Python<'py>, start: usize, stop: usize) -> Bound<'py, PyBytes> {
        let bytes: Vec<u8> = self.lock().hashes(start..stop.max(start)).flat_map(|hash| hash.0).collect();
        PyBytes::new(py, &bytes)
    }

    fn __repr__(&self) -> String {
        let chain = self.lock();
        format!("<Chain of {} tokens in {} blocks>", chain.num_tokens(), chain.num_blocks())
    }
}
