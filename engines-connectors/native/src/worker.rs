//! `Worker` and `LoadJob`: the side that copies.

use crate::convert;
use kvd_block::{Checksum, SlotIndex};
use kvd_connector::{CopyError, LayerPages, PagedKv, WorkerLink};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Maps kvd's arena into this process and copies blocks between it and the engine's KV memory.
#[pyclass(frozen, module = "kvd_connectors._native")]
pub struct Worker {
    link: Arc<WorkerLink>,
    pages: Mutex<Vec<Arc<PagedKv>>>,
}

impl Worker {
    fn pages(&self, handle: usize) -> PyResult<Arc<PagedKv>> {
        let pages = self.pages.lock().expect("no panic while held");
        pages.get(handle).cloned().ok_or_else(|| PyValueError::new_err(format!("pages {handle} were never registered")))
    }
}

/// None when the slots belong to another life of the daemon; an exception for a caller's mistake.
fn answer<T>(result: Result<T, CopyError>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(CopyError::OtherIncarnation) => Ok(None),
        Err(CopyError::Wrong(error)) => Err(PyIndexError::new_err(error.to_string())),
    }
}

fn slot_indices(slots: Vec<u32>) -> Vec<SlotIndex> {
    slots.into_iter().map(SlotIndex).collect()
}

#[pymethods]
impl Worker {
    #[new]
    #[pyo3(signature = (socket, engine, software, connect_wait_ms = 500, threads = 0))]
    fn new(py: Python<'_>, socket: Option<PathBuf>, engine: String, software: String, connect_wait_ms: u64, threads: usize) -> Worker {
        let link = Arc::new(WorkerLink::connect(convert::socket(socket), engine, software, threads));
        py.detach(|| link.wait_connected(Duration::from_millis(connect_wait_ms)));
        Worker { link, pages: Mutex::default() }
    }

    /// True while there is a connection.
    #[getter]
    fn connected(&self) -> bool {
        self.link.connected()
    }

    /// Number of the daemon's life; 0 when not connected.
    #[getter]
    fn incarnation(&self) -> u64 {
        self.link.incarnation()
    }

    /// Why there is no connection; None when there is one.
    #[getter]
    fn last_error(&self) -> Option<String> {
        self.link.last_error()
    }

    /// Takes what there is to log: (level name, sentence), oldest first.
    fn events(&self) -> Vec<(&'static str, String)> {
        convert::events(self.link.journal().take())
    }

    /// Names KV memory: (base address, page bytes, stride bytes, number of blocks) per layer. Returns a handle.
    ///
    /// The memory must stay valid for as long as copies are asked for with the handle.
    fn register(&self, layout: &Bound<'_, PyDict>, rank: u16, layers: Vec<(usize, usize, usize, usize)>) -> PyResult<usize> {
        let spec = convert::layout(layout)?;
        let layer = |(base, page_bytes, stride_bytes, num_blocks)| LayerPages { base, page_bytes, stride_bytes, num_blocks };
        let layers = layers.into_iter().map(layer).collect();
        // SAFETY: Python promises it, as documented above; addresses from Python cannot be checked.
        let pages = unsafe { PagedKv::new(layers, rank, spec) }.map_err(|error| PyValueError::new_err(error.to_string()))?;
        let mut known = self.pages.lock().expect("no panic while held");
        known.push(Arc::new(pages));
        Ok(known.len() - 1)
    }

    /// Copies blocks into slots. The checksum of each; None when not connected to that incarnation.
    fn store(&self, py: Python<'_>, pages: usize, incarnation: u64, block_ids: Vec<usize>, slots: Vec<u32>) -> PyResult<Option<Vec<u64>>> {
        let (pages, slots) = (self.pages(pages)?, slot_indices(slots));
        let checksums = answer(py.detach(|| self.link.store(&pages, incarnation, &block_ids, &slots)))?;
        Ok(checksums.map(|checksums| checksums.into_iter().map(|Checksum(value)| value).collect()))
    }

    /// Copies slots into blocks. True for each that arrived whole; None when not connected to that incarnation.
    fn load(
        &self,
        py: Python<'_>,
        pages: usize,
        incarnation: u64,
        block_ids: Vec<usize>,
        slots: Vec<u32>,
        hashes: &[u8],
    ) -> PyResult<Option<Vec<bool>>> {
        let (pages, slots, hashes) = (self.pages(pages)?, slot_indices(slots), convert::hashes(hashes)?);
        answer(py.detach(|| self.link.load(&pages, incarnation, &block_ids, &slots, &hashes)))
    }

    /// As `load`, in the background and layer by layer.
    fn start_load(
        &self,
        py: Python<'_>,
        pages: usize,
        incarnation: u64,
        block_ids: Vec<usize>,
        slots: Vec<u32>,
        hashes: &[u8],
    ) -> PyResult<Option<LoadJob>> {
        let (pages, slots, hashes) = (self.pages(pages)?, slot_indices(slots), convert::hashes(hashes)?);
        let job = answer(py.detach(|| self.link.start_load(&pages, incarnation, &block_ids, &slots, &hashes)))?;
        Ok(job.map(LoadJob))
    }

    /// Copies a contiguous buffer, one whole stripe of rank 0, into a slot. Its checksum.
    fn store_bytes(
        &self,
        py: Python<'_>,
        layout: &Bound<'_, PyDict>,
        incarnation: u64,
        slot: u32,
        buffer: &Bound<'_, PyAny>,
    ) -> PyResult<Option<u64>> {
        let (_held, pages) = one_page(layout, buffer, false)?;
        let checksums = answer(py.detach(|| self.link.store(&pages, incarnation, &[0], &[SlotIndex(slot)])))?;
        Ok(checksums.map(|checksums| checksums[0].0))
    }

    /// Copies a slot into a writable contiguous buffer. True when it arrived whole and is the block of `hash`.
    fn load_bytes(
        &self,
        py: Python<'_>,
        layout: &Bound<'_, PyDict>,
        incarnation: u64,
        slot: u32,
        hash: &[u8],
        buffer: &Bound<'_, PyAny>,
    ) -> PyResult<Option<bool>> {
        let ((_held, pages), hashes) = (one_page(layout, buffer, true)?, convert::hashes(hash)?);
        let arrived = answer(py.detach(|| self.link.load(&pages, incarnation, &[0], &[SlotIndex(slot)], &hashes)))?;
        Ok(arrived.map(|arrived| arrived[0]))
    }

    /// Closes the connection, once running copies are done.
    fn close(&self) {
        self.link.close();
    }

    fn __repr__(&self) -> String {
        let state = if self.link.connected() { "connected" } else { "not connected" };
        format!("<Worker of {}, {state}>", self.link.socket().display())
    }
}

/// A buffer as pages with one block. The buffer must be held until the copy is over.
fn one_page(layout: &Bound<'_, PyDict>, buffer: &Bound<'_, PyAny>, writable: bool) -> PyResult<(PyUntypedBuffer, Arc<PagedKv>)> {
    let spec = convert::layout(layout)?;
    let held = PyUntypedBuffer::get(buffer)?;
    if !held.is_c_contiguous() || (writable && held.readonly()) {
        return Err(PyBufferError::new_err("a contiguous buffer is needed, writable for a load"));
    }
    let bytes = held.len_bytes();
    let layer = LayerPages { base: held.buf_ptr() as usize, page_bytes: bytes, stride_bytes: bytes, num_blocks: 1 };
    // SAFETY: the buffer view keeps the memory where it is until it is dropped, which the caller does after the copy.
    let pages = unsafe { PagedKv::new(vec![layer], 0, spec) }.map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok((held, Arc::new(pages)))
}

/// A load that hands over layer by layer. Garbage collecting it stops the copy, and waits for at most a page per thread.
#[pyclass(frozen, module = "kvd_connectors._native")]
pub struct LoadJob(kvd_connector::worker::ConnectedLoadJob);

#[pymethods]
impl LoadJob {
    /// Waits until this layer of all blocks is copied.
    fn wait_layer(&self, py: Python<'_>, layer: usize) {
        py.detach(|| self.0.wait_layer(layer));
    }

    /// Waits until all is copied. True for each block that arrived whole.
    fn finish(&self, py: Python<'_>) -> Vec<bool> {
        py.detach(|| self.0.finish())
    }
}
