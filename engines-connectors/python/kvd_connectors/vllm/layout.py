"""What the engine's KV bytes mean: one kvd layout for each KV cache group.

Two engines share blocks only when everything that changes a block's bytes is equal: weights, model configuration,
data types, block size, the way the kernels arrange a page (on CPU: the instruction set), the split over ranks and
the group. All of it goes into the layout; long parts as a digest, short ones readable. Engines that cannot be
described are refused with `Unsupported`, and run without a cache rather than with a wrong one.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from vllm import __version__ as vllm_version
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
    UniformTypeKVCacheSpecs,
)

_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_SAMPLES_PER_FILE = 64
_SAMPLE_BYTES = 4096
_EXACT = (FullAttentionSpec, MLAAttentionSpec, SlidingWindowSpec)


class Unsupported(Exception):
    """This engine cannot use kvd; the text says why and what to do."""


@dataclass(frozen=True)
class Group:
    """One KV cache group as the connector sees it."""

    index: int
    """Index among the engine's KV cache groups, and of the layout in the session with kvd."""
    block_tokens: int
    window: int | None
    """Tokens that the group attends to, or None for all."""
    layer_names: tuple[str, ...]
    layout: dict[str, Any]
    """The layout as the native module takes it."""

    @property
    def stripe_bytes(self) -> int:
        """Bytes of one block on one rank."""
        return self.layout["stripe_bytes"]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block on all ranks."""
        return self.layout["stripe_bytes"] * self.layout["ranks"]


def describe_groups(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, weights_id: str | None) -> list[Group]:
    """The groups of this engine, in the engine's order. Equal in the scheduler and in every worker."""
    _refuse_what_is_not_understood(vllm_config, kv_cache_config)
    model = vllm_config.model_config
    weights = weights_id or weights_of(model.model, model.revision)
    name = os.path.basename(os.path.normpath(model.model)) if os.path.isdir(model.model) else model.model
    return [
        _describe_group(vllm_config, kv_cache_config, index, name, weights)
        for index in range(len(kv_cache_config.kv_cache_groups))
    ]


def _refuse_what_is_not_understood(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> None:
    parallel, speculative = vllm_config.parallel_config, vllm_config.speculative_config
    if parallel.pipeline_parallel_size > 1:
        raise Unsupported("pipeline parallelism: ranks hold different layers")
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        raise Unsupported("context parallelism: a block is spread over ranks by token")
    if speculative is not None and speculative.draft_model_config is not None:
        raise Unsupported("speculative decoding with a draft model: its weights are not part of the block names")
    for index, group in enumerate(kv_cache_config.kv_cache_groups):
        if type(_spec_of(group.kv_cache_spec)) not in _EXACT or index not in kv_cache_config.prefix_cacheable_group_ids:
            raise Unsupported(f"KV cache group {index} is a {type(group.kv_cache_spec).__name__}")


def _spec_of(spec: KVCacheSpec) -> Any:
    """The spec of a group's layers. Only kinds in `_EXACT` get past the refusals."""
    return spec.first_spec if isinstance(spec, UniformTypeKVCacheSpecs) else spec


def _describe_group(
    vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, index: int, model: str, weights: str
) -> Group:
    group = kv_cache_config.kv_cache_groups[index]
    whole, spec = group.kv_cache_spec, _spec_of(group.kv_cache_spec)
    window = spec.sliding_window if isinstance(spec, SlidingWindowSpec) else None
    per_layer = 1 if isinstance(whole, UniformTypeKVCacheSpecs) else len(group.layer_names)
    layout = dict(
        model=model[-200:],
        weights=weights[:100],
        kv_dtype=f"{vllm_config.cache_config.cache_dtype}/{_dtype_name(spec.dtype)}",
        block_tokens=spec.block_size,
        group=index,
        attention=_attention(spec, window),
        geometry=_geometry(vllm_config, kv_cache_config, index, spec),
        ranks=vllm_config.parallel_config.tensor_parallel_size,
        stripe_bytes=whole.page_size_bytes * per_layer,
    )
    return Group(index, spec.block_size, window, tuple(group.layer_names), layout)


def _attention(spec: Any, window: int | None) -> str:
    if window is not None:
        return f"sliding_window:{window}"
    return "mla" if isinstance(spec, MLAAttentionSpec) else "full_attention"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _geometry(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, index: int, spec: Any) -> str:
    group = kv_cache_config.kv_cache_groups[index]
    arrangement = _page_arrangement(vllm_config, kv_cache_config, spec)
    exact = dict(
        arrangement=arrangement,
        layers=group.layer_names,
        spec=repr(group.kv_cache_spec),
        model=_model_configuration(vllm_config),
    )
    digest = hashlib.sha256(json.dumps(exact, sort_keys=True, default=str).encode()).hexdigest()
    return f"vllm {vllm_version} layers={len(group.layer_names)} {arrangement} sha256={digest}"


def _page_arrangement(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, spec: Any) -> str:
    """How a page is arranged. CPU kernels pack keys and values by instruction set inside a nominal shape."""
    layout = kv_cache_config.kv_cache_layout or "default"
    if not current_platform.is_cpu():
        return f"{current_platform.device_name} {layout}"
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    cache_dtype = vllm_config.cache_config.cache_dtype
    dtype: Any = vllm_config.model_config.dtype
    isa = _get_attn_isa(dtype, spec.block_size, spec.head_size, cache_dtype)
    return f"{cpu_arrangement()} {layout} {isa}"


def cpu_arrangement() -> str:
    """The instruction set that CPU kernels pack for."""
    amx = "+amx" if torch.cpu._is_amx_tile_supported() else ""
    return f"cpu {torch.backends.cpu.get_cpu_capability()}{amx}"


def _model_configuration(vllm_config: VllmConfig) -> dict[str, Any]:
    """Everything beside the weights that changes what a token's keys and values are."""
    model = vllm_config.model_config
    config = model.hf_config.to_dict()
    for incidental in ("_name_or_path", "transformers_version"):
        config.pop(incidental, None)
    load_format = str(vllm_config.load_config.load_format)
    return dict(
        hf=config,
        dtype=str(model.dtype),
        quantization=str(model.quantization),
        dummy_seed=model.seed if load_format == "dummy" else None,
    )


def weights_of(model: str, revision: str | None) -> str:
    """Digest of the weights of a directory or of a downloaded model."""
    directory = model if os.path.isdir(model) else _snapshot_of(model, revision)
    digest = content_digest(directory) if directory is not None else None
    if digest is None:
        raise Unsupported(f"the weights of {model!r} cannot be read here: name them with the setting `weights_id`")
    return digest


def _snapshot_of(model: str, revision: str | None) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json", revision=revision)
    return os.path.dirname(config) if isinstance(config, str) else None


def content_digest(directory: str) -> str | None:
    """Names the tensors in `directory` by their file names, sizes and samples of their content. None without tensors.

    Reads 256 KiB of each file, spread evenly: fine-tuning, quantising or merging changes nearly every page of a file,
    so samples tell such models apart, in milliseconds where a full digest takes minutes.
    """
    paths = sorted(path for pattern in _WEIGHT_FILES for path in glob.glob(os.path.join(directory, pattern)))
    files = tuple((path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths)
    return _digest(files) if files else None


@lru_cache(maxsize=64)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{os.path.basename(path)}\0{size}\0".encode())
        with open(path, "rb") as file:
            for offset in range(0, size, max(_SAMPLE_BYTES, size // _SAMPLES_PER_FILE)):
                file.seek(offset)
                digest.update(file.read(_SAMPLE_BYTES))
    return f"sampled-sha256:{digest.hexdigest()[:40]}"
