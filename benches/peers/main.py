"""kvd beside Mooncake's store and LMCache's backends: the same values in the same run.

    python main.py [--rounds N] [--setting memory|disk] [--less N]    # writes $KVD_BENCH_DIR/peers.json

Each store has a client process of its own, in its own Python environment (`setup.sh`), and all take turns: in every
round each store puts the same random values and gets them back into the same pages, another store first each time.
Every byte is compared after every get, outside of what is timed. The first rounds only warm up. Medians are printed.

Writes `{"machine", "commit", "rows": [{"metric", "unit", "ours", "reference", "ratio", "runs"}]}` like every bench;
`ratio` says how many times better kvd is, above 1.0 in its favour.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Samples

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = Path(os.environ.get("KVD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvd")
WARM_UP_ROUNDS = 2
"""Enough that every slot of every store was touched once by every process that copies."""
MEASURES = {"gb_per_s": ("GB/s", True), "cpu_s_per_gib": ("CPU s/GiB", False)}
KVD = "kvd"


@dataclass(frozen=True)
class Contender:
    """A store as it is called in the table, and the environment its client runs in."""

    name: str
    store: str
    environment: str
    client_threads: tuple[int, ...] = (1, 2)


SETTINGS = {
    "memory": [
        Contender("memcpy", "memcpy", "mooncake"),
        Contender(KVD, "kvd", "mooncake"),
        Contender("Mooncake, in process", "mooncake", "mooncake"),
        Contender("Mooncake, in process, checksums", "mooncake-checked", "mooncake"),
        Contender("Mooncake, mooncake_client", "mooncake-client", "mooncake"),
        Contender("Mooncake, TCP", "mooncake-tcp", "mooncake"),
        Contender("LMCache, in process", "lmcache", "lmcache"),
        Contender("LMCache, server", "lmcache-server", "lmcache", (1,)),
    ],
    "disk": [
        Contender(KVD, "kvd", "mooncake"),
        Contender("Mooncake, SSD offload", "mooncake-ssd", "mooncake", (1,)),
        Contender("LMCache, O_DIRECT", "lmcache-disk", "lmcache"),
        Contender("LMCache, page cache", "lmcache-disk-buffered", "lmcache"),
    ],
}


@dataclass(frozen=True)
class Values:
    count: int
    value_bytes: int

    def __str__(self) -> str:
        return f"{self.count:,} × {self.value_bytes >> 10:,} KiB"


class Client:
    """The process of one store."""

    def __init__(self, contender: Contender):
        self.contender = contender
        home = CACHE / "peers" / contender.environment
        environment = dict(os.environ)
        cuda = next(home.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib"), None)
        if cuda is not None:
            environment["LD_LIBRARY_PATH"] = str(cuda)
        self.not_run: str | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        command = [str(home / "bin/python"), str(HERE / "client.py")]
        try:
            self._process: subprocess.Popen[str] | None = subprocess.Popen(command, env=environment, text=True, **pipes)
        except OSError as error:
            self._process, self.not_run = None, f"its environment cannot be started: {error}"

    def do(self, **order: Any) -> dict[str, Any]:
        """Sends an order and waits for the answer; `{}` once the store cannot run."""
        if self._process is None or self.not_run:
            return {}
        try:
            print(json.dumps(order), file=self._process.stdin, flush=True)
            answer = json.loads(self._process.stdout.readline() or '{"failed": "its process died"}')
        except OSError as error:
            answer = dict(failed=str(error))
        self.not_run = answer.get("not_run") or answer.get("failed")
        if self.not_run:
            print(f"{self.contender.name}: not run: {self.not_run}", file=sys.stderr)
        return answer

    def end(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._log.close()


class Setting:
    """One setting, one size of values: who took part, and what was measured."""

    def __init__(self, name: str, values: Values, contenders: list[Contender]):
        self.name, self.values, self.contenders = name, values, contenders
        self.samples = Samples()
        self.about: dict[str, dict[str, Any]] = {}
        self.memory_mib: dict[str, float] = {}

    def run(self, clients: list[Client], rounds: int, folder: Path) -> None:
        for client in clients:
            self._open(client, folder)
        for turn in range(-WARM_UP_ROUNDS, rounds):
            first = turn % len(clients)
            for client in clients[first:] + clients[:first]:
                for threads in client.contender.client_threads:
                    self._round(client, turn, threads)
        for client in clients:
            self.memory_mib[client.contender.name] = client.do(do="memory").get("mib", 0.0)
            self.about[client.contender.name]["not_run"] = client.not_run
            client.do(do="close")

    def _open(self, client: Client, folder: Path) -> None:
        contender = client.contender
        self.about[contender.name] = client.do(
            do="open", store=contender.store, disk=self.name == "disk", folder=str(folder / contender.store),
            count=self.values.count, value_bytes=self.values.value_bytes,
        )  # fmt: skip

    def _round(self, client: Client, turn: int, threads: int) -> None:
        name, batch = client.contender.name, f"{turn}/{threads}"
        for operation in ("put", "get"):
            took = client.do(do=operation, batch=batch, threads=threads)
            if not took or client.not_run:
                return
            if not took.get("equal", True):
                raise SystemExit(f"{name} gave back other bytes than it was given")
            for measure in MEASURES if turn >= 0 else ():
                self.samples.add(took[measure], name, operation, str(threads), measure)

    def rows(self) -> Iterator[dict[str, Any]]:
        """kvd against each of the others."""
        for contender in self.contenders:
            if contender.name == KVD:
                continue
            for threads in map(str, contender.client_threads):
                for operation in ("put", "get"):
                    for measure, (unit, more_is_better) in MEASURES.items():
                        ours = self.samples.median(KVD, operation, threads, measure)
                        theirs = self.samples.median(contender.name, operation, threads, measure)
                        if ours is None or not theirs:
                            continue
                        what = f"{self.name}, {self.values}, {operation}, {threads} threads"
                        yield dict(
                            metric=f"{what}, against {contender.name}",
                            unit=unit, ours=ours, reference=theirs,
                            ratio=ours / theirs if more_is_better else theirs / ours,
                            runs=self.samples.runs(contender.name, operation, threads, measure),
                        )  # fmt: skip

    def table(self) -> Iterator[str]:
        yield f"### {self.name}, {self.values}"
        yield ""
        yield "| store | client threads | put GB/s | get GB/s | put CPU s/GiB | get CPU s/GiB | memory MiB | verifies |"
        yield "|---|---|---|---|---|---|---|---|"
        for contender in self.contenders:
            about = self.about[contender.name]
            if about.get("not_run"):
                yield f"| {contender.name} | not run: {one_line(about['not_run'])} |||||||"
                continue
            for threads in contender.client_threads:
                cells = [
                    f"{self.samples.median(contender.name, operation, str(threads), measure):.2f}"
                    for measure in MEASURES
                    for operation in ("put", "get")
                ]
                memory = f"{self.memory_mib[contender.name]:,.0f}"
                yield f"| {' | '.join([contender.name, str(threads), *cells, memory, about['verifies']])} |"
        yield ""


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:200]


def describe_machine() -> str:
    def field(path: str, name: str) -> str:
        lines = Path(path).read_text().splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "unknown")

    gib = round(int(field("/proc/meminfo", "MemTotal").split()[0]) / 2**20)
    return f"{field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores, {gib} GiB, Linux {os.uname().release}"


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True).stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--setting", choices=SETTINGS, action="append", help="may be given twice; both by default")
    stores = sorted({contender.store for contenders in SETTINGS.values() for contender in contenders})
    parser.add_argument("--store", choices=stores, action="append", help="may be given several times; all by default")
    parser.add_argument("--less", type=int, default=1, metavar="N", help="only the Nth part of the values")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where the disk setting keeps its files")
    given = parser.parse_args()
    subprocess.run([str(HERE / "setup.sh")], check=True)
    sizes = [Values(256 // given.less, 2 << 20), Values(1024 // given.less, 128 << 10)]
    measured: list[Setting] = []
    folder = Path(tempfile.mkdtemp(prefix="peers-", dir=given.folder))
    try:
        for name in given.setting or SETTINGS:
            contenders = [one for one in SETTINGS[name] if not given.store or one.store in (KVD, *given.store)]
            with ExitStack() as running:
                clients = [Client(contender) for contender in contenders]
                for client in clients:
                    running.callback(client.end)
                for values in sizes:
                    setting = Setting(name, values, contenders)
                    setting.run(clients, given.rounds, folder / name / str(values.value_bytes))
                    print("\n".join(setting.table()), flush=True)
                    measured.append(setting)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = dict(machine=describe_machine(), commit=commit(), rows=[row for one in measured for row in one.rows()])
    out = Path(os.environ.get("KVD_BENCH_DIR", "target/bench")) / "peers.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['machine']}, {report['commit']}; written to {out}")


if __name__ == "__main__":
    main()
