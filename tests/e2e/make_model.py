"""Tiny models with random weights and a tokenizer trained on text found on this machine. Nothing is downloaded.

    python make_model.py OUT --arch llama --size tiny

The standard deviations are chosen so that greedy text varies and depends on the prompt: a test that changes the KV
must see other tokens.
"""

from __future__ import annotations

import argparse
import glob
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CACHE = Path(os.environ.get("KVD_CACHE", Path.home() / ".cache" / "kvd"))
"""Where models are kept."""

SPECIAL = ["<s>", "</s>", "<pad>"]
FALLBACK_TEXT = """A cache keeps what was dear to compute close to where it will be needed again. It forgets in good
order: what is rarely asked for goes first, and what is wrong is never handed out. Blocks are named by what is in them,
so two readers who want the same words meet at the same block, and nobody else ever does."""


@dataclass(frozen=True)
class Shape:
    """Dimensions of a model."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    vocab: int = 4096
    max_tokens: int = 8192
    window: int = 256
    seed: int = 0


SHAPES = {
    "tiny": Shape(),
    # 12 layers × 4 heads × 64 × 2 (key, value) × 2 bytes = 12,288 bytes of KV a token, 46 million parameters.
    "small": Shape(hidden=512, layers=12, heads=8, kv_heads=4, head_dim=64, vocab=8192, max_tokens=40960),
}
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
    "mistral": ("MistralForCausalLM", "mistral"),
    "deepseek": ("DeepseekV2ForCausalLM", "deepseek_v2"),
}


def ensure_model(arch: str, size: str = "tiny", **changes: int) -> Path:
    """Path of the model, made on first use. `changes` replace fields of its `Shape`."""
    name = "-".join([arch, size, *(f"{key}{value}" for key, value in sorted(changes.items()))])
    out = CACHE / "models" / name
    if not (out / "config.json").exists():
        unfinished = out.with_suffix(f".{os.getpid()}")
        make_model(unfinished, arch, replace(SHAPES[size], **changes))
        shutil.rmtree(out, ignore_errors=True)
        unfinished.rename(out)
    return out


def make_model(out: Path, arch: str, shape: Shape) -> None:
    """Writes configuration, tokenizer and weights into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    config = model_config(arch, shape)
    write_tokenizer(out, shape)
    save_file(weights(arch, shape, config), out / "model.safetensors", metadata={"format": "pt"})
    (out / "generation_config.json").write_text(json.dumps(dict(bos_token_id=0, eos_token_id=1, pad_token_id=2)))
    (out / "config.json").write_text(json.dumps(config, indent=1))


def write_tokenizer(out: Path, shape: Shape) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.save(str(out / "tokenizer.json"))
    names = dict(zip(["bos_token", "eos_token", "pad_token"], SPECIAL))
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", model_max_length=shape.max_tokens, **names)
    (out / "tokenizer_config.json").write_text(json.dumps(settings))


def training_text() -> Iterator[str]:
    found = sorted(glob.glob("/usr/share/common-licenses/*") + glob.glob("/usr/share/doc/*/copyright"))[:100]
    yield from (Path(path).read_text(errors="ignore") for path in found if os.path.isfile(path))
    yield FALLBACK_TEXT


def model_config(arch: str, shape: Shape) -> dict:
    class_name, model_type = ARCHITECTURES[arch]
    config = dict(
        architectures=[class_name],
        model_type=model_type,
        hidden_size=shape.hidden,
        intermediate_size=shape.hidden * 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        max_position_embeddings=shape.max_tokens,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        hidden_act="silu",
        tie_word_embeddings=arch == "gemma3",
        torch_dtype="bfloat16",
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return config | PARTICULARS.get(arch, lambda shape: {})(shape)


def gemma_config(shape: Shape) -> dict:
    kinds = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(shape.layers)]
    return dict(
        sliding_window=shape.window,
        layer_types=kinds,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=shape.head_dim,
        rope_local_base_freq=10000.0,
    )


def deepseek_config(shape: Shape) -> dict:
    return dict(
        num_key_value_heads=shape.heads,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        head_dim=64,
        first_k_dense_replace=shape.layers,
        moe_intermediate_size=shape.hidden,
    )


GEMMA_OUTPUT_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
PARTICULARS = {
    "gemma3": gemma_config,
    "mistral": lambda shape: dict(sliding_window=shape.window),
    "deepseek": deepseek_config,
}


def weights(arch: str, shape: Shape, config: dict) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(shape.seed)

    def random(*size: int, std: float) -> torch.Tensor:
        return (torch.randn(*size, generator=generator) * std).bfloat16()

    tensors = {
        "model.embed_tokens.weight": random(shape.vocab, shape.hidden, std=1.0),
        "model.norm.weight": torch.ones(shape.hidden, dtype=torch.bfloat16),
    }
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = random(shape.vocab, shape.hidden, std=0.3)
    std = 1.5 / math.sqrt(shape.hidden)
    for layer in range(shape.layers):
        for name, size in layer_matrices(arch, shape, config).items():
            scale = 1 / math.sqrt(size[1]) if name == "mlp.down_proj" else std
            tensors[f"model.layers.{layer}.{name}.weight"] = random(*size, std=scale)
        for name, value in layer_norms(arch, shape, config).items():
            tensors[f"model.layers.{layer}.{name}.weight"] = value.bfloat16()
    return tensors


def layer_matrices(arch: str, shape: Shape, config: dict) -> dict[str, tuple[int, int]]:
    hidden, inner = shape.hidden, config["intermediate_size"]
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    mlp = {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    if arch == "deepseek":
        nope, rope, v = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
        attention = {
            "self_attn.q_proj": (shape.heads * (nope + rope), hidden),
            "self_attn.kv_a_proj_with_mqa": (config["kv_lora_rank"] + rope, hidden),
            "self_attn.kv_b_proj": (shape.heads * (nope + v), config["kv_lora_rank"]),
            "self_attn.o_proj": (hidden, shape.heads * v),
        }
    else:
        attention = {
            "self_attn.q_proj": (q, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q),
        }
    return attention | mlp


def layer_norms(arch: str, shape: Shape, config: dict) -> dict[str, torch.Tensor]:
    norms = {name: torch.ones(shape.hidden) for name in ("input_layernorm", "post_attention_layernorm")}
    if arch in ("qwen3", "gemma3"):
        norms |= {name: torch.ones(shape.head_dim) for name in ("self_attn.q_norm", "self_attn.k_norm")}
    if arch == "gemma3":
        # Embeddings are scaled up and tied: without loud layers a token would only ever predict itself.
        norms |= {name: torch.full((shape.hidden,), 20.0) for name in GEMMA_OUTPUT_NORMS}
        norms |= {"pre_feedforward_layernorm": torch.zeros(shape.hidden)}
    if arch == "deepseek":
        norms["self_attn.kv_a_layernorm"] = torch.ones(config["kv_lora_rank"])
    return norms


def ensure_lora(name: str, shape: Shape, seed: int) -> Path:
    """Path of a rank-8 adapter on the query and value projections, made on first use."""
    out = CACHE / "models" / name
    if (out / "adapter_config.json").exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape.layers):
        for module, rows in (("q_proj", shape.heads * shape.head_dim), ("v_proj", shape.kv_heads * shape.head_dim)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(8, shape.hidden, generator=generator) * 0.1
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(rows, 8, generator=generator) * 0.1
    save_file(tensors, out / "adapter_model.safetensors")
    settings = dict(peft_type="LORA", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    settings |= dict(bias="none", task_type="CAUSAL_LM")
    (out / "adapter_config.json").write_text(json.dumps(settings))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arch", choices=ARCHITECTURES, default="llama")
    parser.add_argument("--size", choices=SHAPES, default="tiny")
    given = parser.parse_args()
    make_model(given.out, given.arch, SHAPES[given.size])


if __name__ == "__main__":
    main()
