"""Connectors that let inference engines keep their KV cache in kvd.

`kvd_connectors.vllm` holds the doors into vLLM. `kvd_connectors._native` (Rust) names blocks, talks to the daemon and
copies bytes; everything in Python only decides what to copy.
"""

from pkgutil import extend_path

# A checkout on PYTHONPATH finds the native module of the installed wheel.
__path__ = extend_path(__path__, __name__)
