//! `Client`, `Load` and `Store`: the scheduler's side.

use crate::chain::Chain;
use crate::convert;
use kvd_block::Checksum;
use kvd_connector::{ClientOptions, Unavailable};
use kvd_proto::local::{FilledBlock, LoadGrant, StoreGrant};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// One engine's line to kvd. It exists whether kvd runs or not, connects in the background and keeps trying.
///
/// A call that kvd does not answer in time gives None.
#[pyclass(frozen, module = "kvd_connectors._native")]
pub struct Client {
    core: kvd_connector::Client,
    complaint: Mutex<Option<String>>,
}

impl Client {
    /// kvd being away or slow is no exception; a request it finds senseless is remembered for `last_error`.
    fn answer<T>(&self, result: Result<T, Unavailable>) -> Option<T> {
        let complaint = match &result {
            Err(Unavailable::NotConnected) | Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        *self.complaint.lock().expect("no panic while held") = complaint;
        result.ok()
    }
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (socket, engine, software, layouts, connect_wait_ms = 500, timeout_ms = 200))]
    fn new(
        py: Python<'_>,
        socket: Option<PathBuf>,
        engine: String,
        software: String,
        layouts: Vec<Bound<'_, PyDict>>,
        connect_wait_ms: u64,
        timeout_ms: u64,
    ) -> PyResult<Client> {
        let layouts = layouts.iter().map(convert::layout).collect::<PyResult<_>>()?;
        let timeout = Duration::from_millis(timeout_ms.max(1));
        let options = ClientOptions { socket: convert::socket(socket), engine, software, layouts, timeout };
        let core = kvd_connector::Client::connect(options);
        py.detach(|| core.wait_connected(Duration::from_millis(connect_wait_ms)));
        Ok(Client { core, complaint: Mutex::default() })
    }

    /// True while there is a connection.
    #[getter]
    fn connected(&self) -> bool {
        self.core.connected()
    }

    /// How many connections there have been. Leases of an earlier one are void.
    #[getter]
    fn generation(&self) -> u64 {
        self.core.generation()
    }

    /// Number of the daemon's life; 0 when not connected.
    #[getter]
    fn incarnation(&self) -> u64 {
        self.core.incarnation()
    }

    /// Why there is no connection, or why the last call was not answered; None when all is well.
    #[getter]
    fn last_error(&self) -> Option<String> {
        self.core.last_error().or_else(|| self.complaint.lock().expect("no panic while held").clone())
    }

    /// Where the client connects to.
    #[getter]
    fn socket(&self) -> String {
        self.core.socket().display().to_string()
    }

    /// Takes what there is to log: (level name, sentence), oldest first.
    fn events(&self) -> Vec<(&'static str, String)> {
        convert::events(self.core.journal().take())
    }

    /// One byte per block: 0 miss, 1 pending, 2 cpu, 3 nvme. With `until_miss`, ends before the first miss.
    #[pyo3(signature = (layout, hashes, until_miss = true))]
    fn lookup<'py>(&self, py: Python<'py>, layout: usize, hashes: &[u8], until_miss: bool) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let hashes = convert::hashes(hashes)?;
        let states = self.answer(py.detach(|| self.core.lookup(layout, &hashes, until_miss)));
        Ok(states.map(|states| PyBytes::new(py, &states.into_iter().map(|state| state as u8).collect::<Vec<_>>())))
    }

    /// Keeps blocks in the arena, bringing them from slower tiers, until the `Load` is completed.
    #[pyo3(signature = (layout, hashes, deadline_ms = 0))]
    fn prepare_load(&self, py: Python<'_>, layout: usize, hashes: &[u8], deadline_ms: u32) -> PyResult<Option<Load>> {
        let hashes = convert::hashes(hashes)?;
        Ok(self.answer(py.detach(|| self.core.prepare_load(layout, &hashes, deadline_ms))).map(Load))
    }

    /// Borrows slots for blocks of `chain`, given by index, parents before children.
    fn prepare_store(&self, py: Python<'_>, layout: usize, chain: &Bound<'_, Chain>, blocks: Vec<usize>) -> PyResult<Option<Store>> {
        let blocks = chain.get().new_blocks(&blocks)?;
        Ok(self.answer(py.detach(|| self.core.prepare_store(layout, blocks))).map(Store))
    }

    /// Borrows slots for blocks whose tokens are not known here, by name. `parents`: the name before each; None when not known.
    ///
    /// Such a block has no place in a sequence: its position is 0 and its local hash the start of its own name, which no
    /// prompt matches.
    #[pyo3(signature = (layout, hashes, parents = None))]
    fn prepare_store_named(&self, py: Python<'_>, layout: usize, hashes: &[u8], parents: Option<&[u8]>) -> PyResult<Option<Store>> {
        let blocks = convert::named_blocks(hashes, parents)?;
        Ok(self.answer(py.detach(|| self.core.prepare_store(layout, blocks))).map(Store))
    }

    /// These blocks are in use.
    fn touch(&self, py: Python<'_>, layout: usize, hashes: &[u8]) -> PyResult<()> {
        let hashes = convert::hashes(hashes)?;
        py.detach(|| self.core.touch(layout, &hashes));
        Ok(())
    }

    /// Keeps blocks from being evicted from their last tier; `ttl_ms` 0 unpins. Returns how many are pinned now.
    fn pin(&self, py: Python<'_>, layout: usize, hashes: &[u8], ttl_ms: u64) -> PyResult<u32> {
        let hashes = convert::hashes(hashes)?;
        Ok(self.answer(py.detach(|| self.core.pin(layout, &hashes, ttl_ms))).unwrap_or(0))
    }

    /// Closes the connection for good.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.core.close());
    }

    fn __repr__(&self) -> String {
        let state = if self.core.connected() { "connected" } else { "not connected" };
        format!("<Client of {}, {state}>", self.core.socket().display())
    }
}

/// Blocks kept in the arena for this engine until completed, or until garbage collected.
#[pyclass(frozen, module = "kvd_connectors._native")]
pub struct Load(kvd_connector::Load);

#[pymethods]
impl Load {
    /// Number of the lease.
    #[getter]
    fn lease(&self) -> u64 {
        self.0.id().0
    }

    /// The daemon's life in which the slots mean something.
    #[getter]
    fn incarnation(&self) -> u64 {
        self.0.incarnation()
    }

    /// True when no block is staging any more.
    #[getter]
    fn settled(&self) -> bool {
        self.0.settled()
    }

    /// Waits until no block is staging any more. False when `timeout_ms` passed first.
    fn wait(&self, py: Python<'_>, timeout_ms: u64) -> bool {
        py.detach(|| self.0.wait(Duration::from_millis(timeout_ms)))
    }

    /// Slot of each block as of now; -1 still staging, -2 missing.
    fn slots(&self) -> Vec<i64> {
        let slot = |grant| match grant {
            LoadGrant::Ready(slot) => i64::from(slot.0),
            LoadGrant::Staging => -1,
            LoadGrant::Miss => -2,
        };
        self.0.grants().into_iter().map(slot).collect()
    }

    /// Gives the blocks back. `corrupt`: indices of blocks whose bytes were not what their header says.
    #[pyo3(signature = (corrupt = Vec::new()))]
    fn complete(&self, py: Python<'_>, corrupt: Vec<u32>) {
        py.detach(|| self.0.complete(corrupt));
    }
}

/// Slots lent for new blocks until completed, or until garbage collected.
#[pyclass(frozen, module = "kvd_connectors._native")]
pub struct Store(kvd_connector::Store);

#[pymethods]
impl Store {
    /// Number of the lease.
    #[getter]
    fn lease(&self) -> u64 {
        self.0.id().0
    }

    /// The daemon's life in which the slots mean something.
    #[getter]
    fn incarnation(&self) -> u64 {
        self.0.incarnation()
    }

    /// Slot for each block asked for; -1 stored already, -2 being stored by someone else, -3 no room now.
    fn slots(&self) -> Vec<i64> {
        let slot = |grant: &StoreGrant| match grant {
            StoreGrant::Write(slot) => i64::from(slot.0),
            StoreGrant::Present => -1,
            StoreGrant::Pending => -2,
            StoreGrant::Busy => -3,
        };
        self.0.grants().iter().map(slot).collect()
    }

    /// Ends the store. `filled`: (index in the request, checksum of each rank's stripe); all other blocks are given up.
    fn complete(&self, py: Python<'_>, filled: Vec<(u32, Vec<u64>)>) {
        let block = |(index, stripes): (u32, Vec<u64>)| FilledBlock { index, stripes: stripes.into_iter().map(Checksum).collect() };
        let filled = filled.into_iter().map(block).collect();
        py.detach(|| self.0.complete(filled));
    }
}
