"""What the server counts, in the text that Prometheus reads."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping

EDGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""


class Metrics:
    """Requests by route and status, and how long they took until their answer began."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._count: dict[tuple[str, str, int], int] = {}
        self._time: dict[str, list[float]] = {}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered; ``route`` is a pattern, never what a client wrote."""
        with self._guard:
            key = method, route, status
            self._count[key] = self._count.get(key, 0) + 1
            row = self._time.setdefault(route, [0.0] * (len(EDGES) + 2))
            row[bisect_left(EDGES, seconds)] += 1
            row[-1] += seconds

    def text(self, gauges: Mapping[str, float]) -> str:
        """All of it, with what is true now."""
        lines = []
        for name, value in gauges.items():
            lines += [f"# TYPE cuemark_{name} gauge", f"cuemark_{name} {value:g}"]
        with self._guard:
            lines.append("# TYPE cuemark_requests_total counter")
            for (method, route, status), count in sorted(self._count.items()):
                lines.append(f'cuemark_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}')
            lines.append("# TYPE cuemark_request_seconds histogram")
            for route, row in sorted(self._time.items()):
                total = 0.0
                for edge, inside in zip((*EDGES, "+Inf"), row[:-1]):
                    total += inside
                    lines.append(f'cuemark_request_seconds_bucket{{route="{route}",le="{edge}"}} {total:g}')
                lines += [f'cuemark_request_seconds_count{{route="{route}"}} {total:g}',
                          f'cuemark_request_seconds_sum{{route="{route}"}} {row[-1]:.6f}']
        return "\n".join(lines) + "\n"
