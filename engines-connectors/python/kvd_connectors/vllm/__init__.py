"""Doors from vLLM into kvd.

* `KvdConnector` (this package) copies between the engine's KV tensors and kvd's arena.
* `KvdTier` (`kvd_connectors.vllm.tier`) is a secondary tier under vLLM's own `OffloadingConnector`.

```
--kv-transfer-config '{"kv_connector": "KvdConnector", "kv_connector_module_path": "kvd_connectors.vllm",
                       "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
                       "kv_connector_extra_config": {"kvd_socket": "/run/kvd/kvd.sock"}}'
```
"""

from kvd_connectors.vllm.connector import KvdConnector

__all__ = ["KvdConnector"]
