"""Counters of the endpoint, as text that Prometheus reads."""

import collections
import dataclasses
from collections.abc import Iterator

from cycleqd_jax.serving.desk import Desk

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
GONE = 499  # the status of requests whose clients did not wait for the answer


class Metrics:
    """Counts of all requests so far.

    Attributes:
      requests: (path, status) -> number of requests that have ended.
      prompt_tokens: of answered requests.
    """

    def __init__(self):
        self.requests: collections.Counter[tuple[str, int]] = collections.Counter()
        self.prompt_tokens = 0

    def answered(self, usage: dict[str, int]) -> None:
        """Counts the prompts of an answered request; the desk counts its replies."""
        self.prompt_tokens += usage["prompt_tokens"]

    def text(self, desk: Desk) -> str:
        """All numbers as they are now."""
        return "".join(f"{line}\n" for line in self._lines(desk))

    def _lines(self, desk: Desk) -> Iterator[str]:
        yield "# TYPE cycleqd_requests_total counter"
        for (path, status), count in sorted(self.requests.items()):
            labels = f'path="{path}",status="{status}"'
            yield f"cycleqd_requests_total{{{labels}}} {count}"
        counters = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": desk.generated,
        }
        stats = dataclasses.asdict(desk.engine.stats)
        counters |= {f"engine_{name}": value for name, value in stats.items()}
        gauges = {
            "seats": desk.seats,
            "replies_running": desk.running,
            "replies_waiting": desk.waiting,
            "slots_taken": desk.engine.slots_taken,
            "healthy": int(desk.failure is None),
        }
        for name, value in counters.items():
            yield f"# TYPE cycleqd_{name}_total counter"
            yield f"cycleqd_{name}_total {value}"
        for name, value in gauges.items():
            yield f"# TYPE cycleqd_{name} gauge"
            yield f"cycleqd_{name} {value}"
