"""`make demo`: a real vLLM on this CPU, restarted twice, and a kvd that is killed once. The prefixes come back.

Three acts ask the same questions about the same long documents: of a cold vLLM; of a new vLLM process, which finds the
prefixes in kvd's arena; and after kvd itself was killed with -9, of yet another vLLM, which finds them on NVMe. The exit
status says whether every answer was the cold one and every prefix came from where it should.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from daemon import Kvd
from engine import Vllm
from process import Failed
from report import Act, broken, heading, row

REPOSITORY = Path(__file__).resolve().parents[2]
BUDGET_SECONDS = 30 * 60
CACHE = Path(os.environ.get("KVD_CACHE", Path.home() / ".cache" / "kvd"))
BINARY = os.environ.get("KVD_BIN", str(CACHE / "target" / "release" / "kvd"))
DOCUMENT_CHARACTERS = 12_000
QUESTIONS = {"licence": "May I sell it?", "licence 2nd": "Who is liable?", "design": "What may never happen?"}


def documents() -> dict[str, str]:
    """Two long texts that every clone has."""
    licence = (REPOSITORY / "LICENSE").read_text()
    design = (REPOSITORY / "docs" / "architecture.md").read_text() + (REPOSITORY / "docs" / "operating.md").read_text()
    texts = {"licence": licence, "design": design}
    return {name: text[:DOCUMENT_CHARACTERS] for name, text in texts.items()}


def prompts() -> dict[str, str]:
    """A prompt for each question: the document it is about, then the question."""
    texts = documents()
    return {name: f"{texts[name.split()[0]]}\n\nQuestion: {question}\nAnswer:" for name, question in QUESTIONS.items()}


def model() -> Path:
    """A model with random weights, made once; nothing is downloaded."""
    path = CACHE / "models" / "demo"
    if not path.exists():
        say("making a model with 46 million random weights")
        unfinished = path.with_suffix(f".{os.getpid()}")
        maker = str(REPOSITORY / "tests" / "e2e" / "make_model.py")
        made = subprocess.run([sys.executable, maker, str(unfinished), "--arch", "qwen3", "--size", "small"])
        if made.returncode:
            raise Failed("the model could not be made")
        unfinished.rename(path)
    return path


class Stage:
    """The running daemon and engine, and what they have answered so far."""

    def __init__(self, home: Path, sockets: Path):
        self.kvd = Kvd(BINARY, home, sockets / "kvd.sock")
        self.vllm = Vllm(sys.executable, model(), home, self.kvd.socket)
        self.acts: list[Act] = []

    def start_kvd(self) -> None:
        say(f"kvd is ready after {self.kvd.start():.1f} s")

    def start_vllm(self) -> None:
        say("starting vLLM (one to two minutes on two cores)")
        say(f"vLLM is ready after {self.vllm.start():.0f} s")

    def play(self, act: Act) -> None:
        """Asks every question and prints a row for each."""
        cold = self.acts[0].answers if self.acts else {}
        self.acts.append(act)
        print(heading())
        for request, prompt in prompts().items():
            act.answers[request] = self.vllm.ask(prompt)
            print(row(act, request, act.answers[request], cold.get(request)), flush=True)
        self.kvd.wait_until_quiet()
        metrics = self.kvd.metrics()
        act.arena_bytes = int(metrics.sum("kvd_tier_used_bytes", tier="cpu"))
        act.nvme_bytes = int(metrics.sum("kvd_tier_used_bytes", tier="nvme"))
        say(f"kvd holds {act.arena_bytes >> 20} MiB in its arena, {act.nvme_bytes >> 20} MiB on NVMe")

    def close(self) -> None:
        self.vllm.process.stop(20)
        self.kvd.process.stop(20)


def story(stage: Stage) -> None:
    """The three acts."""
    stage.start_kvd()
    stage.start_vllm()
    stage.play(Act("cold"))

    say("stopping vLLM; its own cache is gone")
    stage.vllm.process.stop()
    stage.start_vllm()
    stage.play(Act("new vLLM", expected="host"))

    say("killing kvd with -9 and stopping vLLM; both memories are gone")
    stage.kvd.process.kill()
    stage.vllm.process.stop()
    stage.start_kvd()
    stage.start_vllm()
    stage.play(Act("new vLLM, killed kvd", expected="disk"))


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGIN:5.0f} s] {text}", flush=True)


def verdict(acts: list[Act]) -> int:
    """Prints whether everything held; the exit status."""
    problems = broken(acts)
    cold, arena, nvme = (act.answers["licence"].ttft_seconds for act in acts)
    print(f"\nfirst token of the first question: cold {cold:.2f} s, from the arena {arena:.2f} s, from NVMe {nvme:.2f} s")
    for problem in problems:
        print(f"FAILED: {problem}")
    if not problems:
        print("everything held: every answer is the cold one, and every prefix came from kvd")
    return 1 if problems else 0


def out_of_time(*_: object) -> None:
    raise Failed(f"the demo took longer than {BUDGET_SECONDS // 60} minutes")


def main() -> int:
    print(f"Takes about 8 minutes on two cores, {BUDGET_SECONDS // 60} at most.")
    signal.signal(signal.SIGALRM, out_of_time)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(BUDGET_SECONDS)
    CACHE.mkdir(parents=True, exist_ok=True)
    # Blocks need a disk that takes direct I/O, the socket a short path.
    home = Path(tempfile.mkdtemp(prefix="demo-", dir=CACHE))
    sockets = Path(tempfile.mkdtemp(prefix="kvd-"))
    stage, status = None, 1
    try:
        stage = Stage(home, sockets)
        story(stage)
        status = verdict(stage.acts)
    except Failed as failure:
        print(f"FAILED: {failure}")
    finally:
        signal.alarm(0)
        if stage is not None:
            stage.close()
        shutil.rmtree(sockets, ignore_errors=True)
        if status == 0:
            shutil.rmtree(home, ignore_errors=True)
        else:
            print(f"logs and data are kept in {home}")
    return status


BEGIN = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
