"""The demo's table, and whether everything held."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine import Answer

HEADINGS = ("", "request", "TTFT", "prompt", "computed", "vLLM", "arena", "NVMe", "same answer")
_ROW = "{:22} {:12} {:>8} {:>7} {:>9} {:>6} {:>6} {:>6}  {}"


@dataclass
class Act:
    """The same requests at one point of the story, and where their prefixes must come from."""

    title: str
    expected: str | None = None
    answers: dict[str, Answer] = field(default_factory=dict)
    arena_bytes: int = 0
    nvme_bytes: int = 0


def heading() -> str:
    return _ROW.format(*HEADINGS)


def row(act: Act, request: str, answer: Answer, cold: Answer | None) -> str:
    """One request, beside the cold run of the same request."""
    same = "-" if cold is None else "yes" if cold.text == answer.text else "NO"
    cached = [answer.cached[source] for source in ("device", "host", "disk")]
    first = act.title if request == next(iter(act.answers)) else ""
    ttft = f"{answer.ttft_seconds * 1000:.0f} ms"
    return _ROW.format(first, request, ttft, answer.prompt_tokens, answer.computed, *cached, same)


def broken(acts: list[Act]) -> list[str]:
    """What did not hold, one sentence each."""
    cold, *later = acts
    found = []
    for act in later:
        for request, answer in act.answers.items():
            if answer.text != cold.answers[request].text:
                found.append(f"{act.title}: the answer to {request} differs from the cold one")
        served = sum(answer.cached[act.expected] for answer in act.answers.values())
        prompt = sum(answer.prompt_tokens for answer in act.answers.values())
        local = sum(answer.cached["device"] for answer in act.answers.values())
        if served < 0.9 * (prompt - local):
            found.append(f"{act.title}: only {served} of {prompt - local} tokens came from {act.expected}")
    return found
