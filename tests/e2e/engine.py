"""A real vLLM engine in this process, with kvd attached, and what tests want to know about it."""

from __future__ import annotations

import gc
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.distributed.kv_transfer import get_kv_transfer_group
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory


@dataclass
class Answer:
    """One completion, exact enough to compare bit by bit."""

    tokens: list[int]
    logprobs: list[list[tuple[int, float]]]
    cached: int
    seconds: float
    finish: str | None
    params: dict[str, Any] | None

    @property
    def content(self) -> tuple[Any, ...]:
        """What must be equal between two answers to one prompt."""
        return self.tokens, self.logprobs


def prompt(seed: int, length: int) -> list[int]:
    """`length` random tokens; equal for equal seeds."""
    source = random.Random(seed)
    return [source.randrange(10, 4000) for _ in range(length)]


class Engine:
    """An `LLM` with greedy sampling. Prompts are token ids; one at a time, so that batching changes nothing."""

    def __init__(self, model: Path, socket: str | None, policy: str = "recompute", extra: Any = None, **options: Any):
        settings = dict(enforce_eager=True, block_size=32, max_model_len=4096, seed=0, disable_log_stats=False)
        if socket is not None:
            settings["kv_transfer_config"] = dict(
                kv_connector="KvdConnector",
                kv_connector_module_path="kvd_connectors.vllm",
                kv_role="kv_both",
                kv_load_failure_policy=policy,
                kv_connector_extra_config={"kvd_socket": socket, **(extra or {})},
            )
        self.llm = LLM(model=str(model), enable_prefix_caching=True, **(settings | options))

    def ask(self, tokens: list[int], max_tokens: int = 24, salt: str | None = None, **options: Any) -> Answer:
        """Completes one prompt."""
        given = TokensPrompt(prompt_token_ids=tokens)
        if salt is not None:
            given["cache_salt"] = salt
        extra_args = options.pop("extra_args", None)
        sampling = SamplingParams(
            temperature=0, max_tokens=max_tokens, logprobs=5, ignore_eos=True, extra_args=extra_args
        )
        begin = time.perf_counter()
        output = self.llm.generate([given], sampling, use_tqdm=False, **options)[0]
        seconds = time.perf_counter() - begin
        first = output.outputs[0]
        logprobs = [sorted((token, entry.logprob) for token, entry in step.items()) for step in first.logprobs or []]
        return Answer(
            list(first.token_ids),
            logprobs,
            output.num_cached_tokens or 0,
            seconds,
            first.finish_reason,
            output.kv_transfer_params,
        )

    def forget_local(self) -> None:
        """Empties the engine's own prefix cache."""
        assert self.llm.reset_prefix_cache()

    def ask_again_from_kvd(self, tokens: list[int], **options: Any) -> Answer:
        """Completes a prompt that the engine itself has forgotten."""
        self.forget_local()
        return self.ask(tokens, **options)

    def external_hits(self) -> int:
        """Prompt tokens that a connector has provided so far."""
        return sum(m.value for m in self.llm.get_metrics() if m.name == "vllm:external_prefix_cache_hits")

    @property
    def core_scheduler(self) -> Any:
        """vLLM's own scheduler."""
        return self.llm.llm_engine.engine_core.engine_core.scheduler

    @property
    def scheduler(self) -> Any:
        """The connector's scheduler half."""
        return self.core_scheduler.connector.scheduler

    @property
    def worker(self) -> Any:
        """The connector's worker half."""
        return get_kv_transfer_group().worker

    def layer_caches(self) -> dict[str, torch.Tensor]:
        """KV memory by layer."""
        context = self.llm.llm_engine.vllm_config.compilation_config.static_forward_context
        return {name: layer.kv_cache for name, layer in context.items() if isinstance(layer.kv_cache, torch.Tensor)}

    def wait_for_kvd(self, present: bool = True, seconds: float = 10) -> None:
        """Returns once the connector has noticed that kvd is there, or gone."""
        session, deadline = self.scheduler._session, time.monotonic() + seconds
        while session.usable() != present or (present and not self.worker._native.connected):
            assert time.monotonic() < deadline, f"kvd is {'not ' if present else ''}connected"
            time.sleep(0.02)

    def close(self) -> None:
        """Ends the engine so that another can start in this process."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        cleanup_dist_env_and_memory()
        gc.collect()


class Recorder:
    """Remembers which blocks the worker half stored, and their bytes."""

    def __init__(self, engine: Engine):
        self.payloads: list[list[bytes]] = [[] for _ in engine.worker._groups]
        """For each group, the last layer's page of each block, in order."""
        self._engine, self._original = engine, engine.worker._store

    def __enter__(self) -> Recorder:
        self._engine.worker._store = self._record
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.worker._store = self._original

    def _record(self, op: Any) -> Any:
        name = self._engine.worker._groups[op.group].layer_names[-1]
        cache = self._engine.layer_caches()[name]
        self.payloads[op.group] += [
            cache[block].contiguous().view(torch.uint8).numpy().tobytes() for block in op.block_ids
        ]
        return self._original(op)
