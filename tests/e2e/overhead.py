"""What kvd costs vLLM when it does not help, and what it saves when it does.

    python overhead.py [OUT.json] [--quick]      # default: $KVD_BENCH_DIR/vllm_overhead.json

Two engines run side by side in processes of their own, one with kvd and one without, and take turns, so that whatever
else the machine does hits both. Numbers are medians. Without hits: tokens per second of a batch of new prompts. With
hits: time to the first token of one prompt, computed, found in the engine's own cache, in kvd's arena and on NVMe.
Writes `{"machine", "commit", "rows": [{"metric", "unit", "ours", "reference", "ratio", "runs"}]}`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from daemon import Kvd

HERE = Path(__file__).parent
BATCH, BATCH_PROMPT, BATCH_OUTPUT = 8, 480, 64
SEEDS = count(int(time.time()) << 8)


class Child:
    """An engine in a process of its own, driven by lines of JSON."""

    def __init__(self, socket: str | None):
        environment = dict(
            os.environ,
            HF_HUB_OFFLINE="1",
            VLLM_NO_USAGE_STATS="1",
            VLLM_ENABLE_V1_MULTIPROCESSING="0",
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            VLLM_CPU_KVCACHE_SPACE="1",
            VLLM_LOGGING_LEVEL="WARNING",
            PYTHONPATH=os.pathsep.join([str(HERE.parents[1] / "engines-connectors" / "python"), str(HERE)]),
        )
        command = [sys.executable, __file__, "--child", socket or ""]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr)
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self.do(dict(kind="ready"))

    def do(self, order: dict[str, Any]) -> dict[str, Any]:
        """Sends an order and waits for the answer."""
        print(json.dumps(order), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine died of {order}")
        return json.loads(line)

    def ask(self, seed: int, length: int, forget: bool = False) -> dict[str, Any]:
        """Seconds to the first token of a prompt, and how many of its tokens were cached."""
        return self.do(dict(kind="ask", seed=seed, length=length, forget=forget))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)


def serve_orders(socket: str | None) -> None:
    """The child: answers orders until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM writes to stdout too
    from vllm import SamplingParams

    from engine import Engine, prompt
    from make_model import ensure_model

    options = dict(max_model_len=20480, max_num_batched_tokens=4096)
    engine = Engine(ensure_model("qwen3", "small"), socket, **options)
    engine.ask(prompt(0, 300), max_tokens=4)

    def ready(order: dict[str, Any]) -> dict[str, Any]:
        if socket is not None:
            engine.wait_for_kvd()
        return {}

    def ask(order: dict[str, Any]) -> dict[str, Any]:
        if order["forget"]:
            engine.forget_local()
        answer = engine.ask(prompt(order["seed"], order["length"]), max_tokens=1)
        return dict(seconds=answer.seconds, cached=answer.cached)

    def batch(order: dict[str, Any]) -> dict[str, Any]:
        prompts = [dict(prompt_token_ids=prompt(order["seed"] + n, BATCH_PROMPT)) for n in range(BATCH)]
        sampling = SamplingParams(temperature=0, max_tokens=BATCH_OUTPUT, ignore_eos=True)
        begin = time.perf_counter()
        engine.llm.generate(prompts, sampling, use_tqdm=False)
        return dict(seconds=time.perf_counter() - begin)

    kinds: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = dict(ready=ready, ask=ask, batch=batch)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(kinds[order["kind"]](order)), file=answers, flush=True)


def throughput_rows(with_kvd: Child, plain: Child, runs: int) -> Iterator[dict[str, Any]]:
    tokens = BATCH * (BATCH_PROMPT + BATCH_OUTPUT)
    rates: dict[Child, list[float]] = {with_kvd: [], plain: []}
    for run in range(runs + 1):
        # The order alternates, and the first round only warms up.
        for child in [with_kvd, plain][:: 1 if run % 2 else -1]:
            rate = tokens / child.do(dict(kind="batch", seed=next(SEEDS) * BATCH))["seconds"]
            if run:
                rates[child].append(rate)
    yield row("vllm throughput, kvd attached, no hits", "tokens/s", rates[with_kvd], rates[plain])


def first_token_rows(
    kvd: Kvd, with_kvd: Child, plain: Child, lengths: list[int], runs: int
) -> Iterator[dict[str, Any]]:
    for length in lengths:
        seeds = [next(SEEDS) for _ in range(runs)]
        length += 7  # so that the last block is never whole
        cold = [plain.ask(seed, length)["seconds"] for seed in seeds]
        storing = [with_kvd.ask(seed, length)["seconds"] for seed in seeds]
        local = [checked(with_kvd.ask(seed, length), length) for seed in seeds]
        arena = [checked(with_kvd.ask(seed, length, forget=True), length) for seed in seeds]
        nvme = [from_nvme(kvd, with_kvd, seed, length) for seed in seeds]
        cases = {"computed and stored": storing, "local prefix hit": local, "kvd arena": arena, "kvd NVMe": nvme}
        for name, seconds in cases.items():
            milliseconds = [value * 1000 for value in seconds]
            yield row(f"time to first token, {length} tokens, {name}", "ms", milliseconds, [1000 * s for s in cold])


def checked(answer: dict[str, Any], length: int) -> float:
    if answer["cached"] < (length - 1) // 32 * 32:
        raise RuntimeError(f"only {answer['cached']} of {length} tokens were cached")
    return answer["seconds"]


def from_nvme(kvd: Kvd, child: Child, seed: int, length: int) -> float:
    """Restarts kvd, which empties its arena, and asks. Tries again while blocks are still being written."""
    for _ in range(20):
        kvd.stop()
        kvd.start()
        child.do(dict(kind="ready"))
        answer = child.ask(seed, length, forget=True)
        if answer["cached"] >= (length - 1) // 32 * 32:
            return answer["seconds"]
        time.sleep(0.5)
    raise RuntimeError("the blocks did not reach NVMe")


def row(metric: str, unit: str, ours: list[float], reference: list[float]) -> dict[str, Any]:
    a, b = median(ours), median(reference)
    print(f"{metric:60} {a:12.1f} {unit:9} reference {b:12.1f}  ratio {a / b:.4f}", file=sys.stderr)
    return dict(metric=metric, unit=unit, ours=a, reference=b, ratio=a / b, runs=len(ours))


@contextmanager
def everything_running() -> Iterator[tuple[Kvd, Child, Child]]:
    with tempfile.TemporaryDirectory(prefix="kvd-overhead") as home:
        kvd = Kvd(Path(home), arena="1GiB", nvme="2GiB")
        kvd.start()
        children: list[Child] = []
        try:
            children += [Child(kvd.socket), Child(None)]
            yield kvd, *children
        finally:
            for child in children:
                child.close()
            kvd.kill()


def describe_machine() -> str:
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else 'unknown'}, {os.cpu_count()} cores"


def measure(out: Path, quick: bool) -> None:
    lengths, runs = ([1024, 4096], 2) if quick else ([1024, 2048, 4096, 8192, 16384], 5)
    with everything_running() as (kvd, with_kvd, plain):
        rows = [*throughput_rows(with_kvd, plain, 2 * runs + 1)]
        rows += first_token_rows(kvd, with_kvd, plain, lengths, runs)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(dict(machine=describe_machine(), commit=commit, rows=rows), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("KVD_BENCH_DIR", ".")) / "vllm_overhead.json"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    parser.add_argument("--quick", action="store_true", help="fewer lengths and runs")
    parser.add_argument("--child", metavar="SOCKET", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is None:
        measure(given.out, given.quick)
    else:
        serve_orders(given.child or None)


if __name__ == "__main__":
    main()
