"""Fixtures: a daemon and an engine for each test module. Building an engine takes longer than most tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CONNECTORS = HERE.parents[1] / "engines-connectors" / "python"

os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    DO_NOT_TRACK="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
)
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
# The models are tiny: a second thread mostly waits, and on a busy machine it spins while it does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Workers of other processes import the connector of this checkout too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(CONNECTORS), os.environ.get("PYTHONPATH", "")])
sys.path[:0] = [str(CONNECTORS), str(HERE)]

from daemon import BINARY, Kvd  # noqa: E402


@pytest.fixture(scope="module")
def kvd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kvd]:
    """A daemon, not started yet."""
    if not BINARY.exists():
        pytest.skip(f"no kvd at {BINARY}: build it, or set KVD_BIN")
    daemon = Kvd(tmp_path_factory.mktemp("kvd"))
    yield daemon
    daemon.kill()


@pytest.fixture(scope="module")
def make_engine() -> Iterator[Callable[..., Any]]:
    """Builds an engine: `make_engine("llama", socket, **options)`. Only one lives at a time."""
    from engine import Engine
    from make_model import ensure_model

    live: list[Engine] = []

    def make(arch: str, socket: str | None, **options: Any) -> Engine:
        while live:
            live.pop().close()
        live.append(Engine(ensure_model(arch), socket, **options))
        return live[0]

    yield make
    while live:
        live.pop().close()
