"""What the engine did and how long it took: counters that only grow."""

import dataclasses


@dataclasses.dataclass
class EngineStats:
    """Counters of one engine, since it was made or since an earlier copy.

    Attributes:
      prefill_tokens: prompt tokens computed.
      reused_tokens: prompt tokens that were in the cache from earlier turns.
      decode_tokens: tokens produced.
      scored_tokens: tokens of continuations scored.
      prefill_calls: device calls.
      decode_calls: device calls.
      prefill_seconds: wall time in them.
      decode_seconds: wall time in them.
      busy_slots: sum over decode calls of the slots that produced something.
      all_slots: sum over decode calls of all slots.
      idle_seconds: wall time with nothing to compute, waiting for programs to end.
      evictions: conversations that gave their slot up while they waited.
    """

    prefill_tokens: int = 0
    reused_tokens: int = 0
    decode_tokens: int = 0
    scored_tokens: int = 0
    prefill_calls: int = 0
    decode_calls: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    busy_slots: int = 0
    all_slots: int = 0
    idle_seconds: float = 0.0
    evictions: int = 0

    def copy(self) -> "EngineStats":
        """The counters as they are now."""
        return dataclasses.replace(self)

    def since(self, earlier: "EngineStats") -> "EngineStats":
        """What was added since a copy."""
        return EngineStats(
            **{
                field.name: getattr(self, field.name) - getattr(earlier, field.name)
                for field in dataclasses.fields(self)
            }
        )

    @property
    def device_seconds(self) -> float:
        """Wall time in device calls."""
        return self.prefill_seconds + self.decode_seconds

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens computed per second of prefill; 0 without any."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0

    @property
    def decode_rate(self) -> float:
        """Tokens produced per second of decoding; 0 without any."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0

    @property
    def occupancy(self) -> float:
        """Share of slots that were busy in decode calls, 0-1."""
        return self.busy_slots / self.all_slots if self.all_slots else 0.0
