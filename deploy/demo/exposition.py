"""Reads Prometheus text: what both kvd and vLLM say about themselves."""

from __future__ import annotations

import re
import urllib.request

_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Exposition:
    """One moment of a `/metrics` page."""

    def __init__(self, text: str):
        self._samples: list[tuple[str, dict[str, str], float]] = []
        for line in text.splitlines():
            if match := _SAMPLE.match(line):
                name, labels, value = match.groups()
                self._samples.append((name, dict(_LABEL.findall(labels or "")), float(value)))

    @classmethod
    def fetch(cls, address: str) -> Exposition:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            return cls(answer.read().decode())

    def sum(self, name: str, **labels: str) -> float:
        """The sum of every sample of that name with those labels; 0 for none."""
        wanted = labels.items()
        return sum(value for sample, has, value in self._samples if sample == name and wanted <= has.items())
