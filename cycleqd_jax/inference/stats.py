"""Counters of what the engine did and how long it took."""

import dataclasses


@dataclasses.dataclass
class EngineStats:
    """Counters of one engine; they only grow.

    Attributes:
      prefill_tokens: tokens of prompts and of scored texts that were computed.
      reused_tokens: prompt tokens that the cache had from earlier turns.
      decode_tokens: tokens generated.
      scored_tokens: tokens that got a log-probability; also in `prefill_tokens`.
      prefill_calls: device calls.
      decode_calls: device calls.
      prefill_seconds: wall time of prefill calls.
      decode_seconds: wall time of decode calls.
      gradient_seconds: wall time of gradients, which need no slots.
      busy_slots: slots that generated tokens, summed over decode calls.
      all_slots: all slots, summed over decode calls.
      idle_seconds: wall time with nothing to compute, waiting for callers.
      evictions: conversations that lost their slot between two turns.
    """

    prefill_tokens: int = 0
    reused_tokens: int = 0
    decode_tokens: int = 0
    scored_tokens: int = 0
    prefill_calls: int = 0
    decode_calls: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    gradient_seconds: float = 0.0
    busy_slots: int = 0
    all_slots: int = 0
    idle_seconds: float = 0.0
    evictions: int = 0

    def copy(self) -> "EngineStats":
        """The counters as they are now."""
        return dataclasses.replace(self)

    def since(self, earlier: "EngineStats") -> "EngineStats":
        """Differences to an earlier copy."""
        return EngineStats(
            **{
                field.name: getattr(self, field.name) - getattr(earlier, field.name)
                for field in dataclasses.fields(self)
            }
        )

    def __add__(self, other: "EngineStats") -> "EngineStats":
        """Sums of the counters."""
        return EngineStats(
            **{
                field.name: getattr(self, field.name) + getattr(other, field.name)
                for field in dataclasses.fields(self)
            }
        )

    @property
    def device_seconds(self) -> float:
        """Wall time in device calls."""
        return self.prefill_seconds + self.decode_seconds + self.gradient_seconds

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second of prefill calls; 0 before the first."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0

    @property
    def decode_rate(self) -> float:
        """Tokens generated per second of decode calls; 0 before the first."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0

    @property
    def occupancy(self) -> float:
        """Share of slots that generated tokens in decode calls, 0 to 1."""
        return self.busy_slots / self.all_slots if self.all_slots else 0.0
