"""A vLLM server on this CPU with kvd attached, and one way to ask it."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exposition import Exposition
from process import Failed, Process

_START_SECONDS = 600
_ANSWER_SECONDS = 120
_NAME = "demo"
# Where vLLM says cached prompt tokens came from: its own memory, kvd's arena, kvd's storage.
SOURCES = ("device", "host", "disk")
_OFFLINE = dict(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    DO_NOT_TRACK="1",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
)


@dataclass
class Answer:
    """What one request cost and gave."""

    text: str
    ttft_seconds: float
    prompt_tokens: int
    cached: dict[str, int]

    @property
    def computed(self) -> int:
        """Prompt tokens that had to be computed."""
        return self.prompt_tokens - sum(self.cached.values())


class Vllm:
    """One server that may be stopped and started over."""

    def __init__(self, python: str, model: Path, home: Path, kvd_socket: Path):
        self.process = Process("vLLM", home / "vllm.log")
        self._port = 0
        self._python, self._model = python, model
        self._transfer = dict(
            kv_connector="KvdConnector",
            kv_connector_module_path="kvd_connectors.vllm",
            kv_role="kv_both",
            kv_load_failure_policy="recompute",
            kv_connector_extra_config=dict(kvd_socket=str(kvd_socket)),
        )

    def start(self) -> float:
        """Returns the seconds until it answers."""
        self._port = free_port()
        options = dict(
            host="127.0.0.1",
            port=self._port,
            served_model_name=_NAME,
            # One number format from prompt to answer: cold and cached answers can be compared letter by letter.
            dtype="float32",
            block_size=32,
            max_model_len=8192,
            max_num_seqs=4,
            seed=0,
            kv_transfer_config=json.dumps(self._transfer),
        )
        flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        program = [str(Path(self._python).with_name("vllm")), "serve", str(self._model)]
        switches = ["--enforce-eager", "--enable-prompt-tokens-details"]
        seconds = self.process.start(program + switches + flags, self._is_healthy, _START_SECONDS, **_OFFLINE)
        # The first request of a process loads code; nobody should mistake that for prefill.
        self.ask("Hello, is anybody there?", max_tokens=4)
        return seconds

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, prompt: str, max_tokens: int = 24) -> Answer:
        """Streams one greedy completion."""
        before = self._metrics()
        request = dict(
            model=_NAME,
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=0,
            ignore_eos=True,
            stream=True,
            stream_options=dict(include_usage=True),
        )
        try:
            text, ttft_seconds, usage = self._stream(request)
        except (OSError, http.client.HTTPException) as error:
            raise self.process.failure(f"did not answer: {error!r}") from error
        tokens = usage["prompt_tokens"]
        return Answer(text, ttft_seconds, tokens, self._sources_since(before, tokens))

    def _stream(self, request: dict[str, Any]) -> tuple[str, float, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_SECONDS)
        begin, ttft_seconds, text, usage = time.perf_counter(), 0.0, "", {}
        connection.request("POST", "/v1/completions", json.dumps(request), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise Failed(f"vLLM answered {answer.status}: {answer.read(2000).decode(errors='replace')}")
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[len(b"data: ") :])
            if chunk["choices"] and not ttft_seconds:
                ttft_seconds = time.perf_counter() - begin
            text += "".join(choice["text"] for choice in chunk["choices"])
            usage = chunk.get("usage") or usage
        connection.close()
        return text, ttft_seconds, usage

    def _metrics(self) -> Exposition:
        return Exposition.fetch(f"127.0.0.1:{self._port}")

    def _sources_since(self, before: Exposition, tokens: int) -> dict[str, int]:
        """Cached tokens by source. The counters are updated a moment after the answer."""
        deadline = time.monotonic() + 5
        while True:
            now = self._metrics()
            prompt = now.sum("vllm:prompt_tokens_total") - before.sum("vllm:prompt_tokens_total")
            if prompt >= tokens or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        name = "vllm:prompt_tokens_cached_by_source_total"
        return {source: int(now.sum(name, source=source) - before.sum(name, source=source)) for source in SOURCES}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
