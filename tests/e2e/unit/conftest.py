"""The connector's logic against an in-memory stand-in for the native module: no engine, no daemon."""

from __future__ import annotations

import sys

import fake_native
import pytest

try:
    import kvd_connectors._native  # noqa: F401
except ImportError:
    sys.modules["kvd_connectors._native"] = fake_native


@pytest.fixture
def kvd(monkeypatch):
    """The stand-in's daemon, fresh."""
    from kvd_connectors.vllm import handover, request, session

    for module in (handover, request, session):
        monkeypatch.setattr(module, "_native", fake_native)
    fake_native.KVD.reset()
    return fake_native.KVD
