//! Module `kvd_connectors._native`: what Python connectors use of `kvd-connector`.
//!
//! Thin: it converts values and releases the interpreter around everything that can block or copies blocks.
//! kvd being away is `None`, never an exception; exceptions are for mistakes of the caller.

mod chain;
mod client;
mod convert;
mod worker;

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Names a layout: 32 hexadecimal digits, equal wherever the layout is equal.
#[pyfunction]
fn layout_id(layout: &Bound<'_, PyDict>) -> PyResult<String> {
    Ok(convert::layout(layout)?.id().to_string())
}

/// Version of this module.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Where kvd listens when nobody says otherwise.
#[pyfunction]
fn default_socket() -> String {
    kvd_connector::default_socket_path().display().to_string()
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<chain::Chain>()?;
    module.add_class::<client::Client>()?;
    module.add_class::<client::Load>()?;
    module.add_class::<client::Store>()?;
    module.add_class::<worker::Worker>()?;
    module.add_class::<worker::LoadJob>()?;
    module.add_function(wrap_pyfunction!(layout_id, module)?)?;
    module.add_function(wrap_pyfunction!(version, module)?)?;
    module.add_function(wrap_pyfunction!(default_socket, module)?)
}
