"""The settings of the inference engine, which are also its programs' static sizes."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import pydantic

from cycleqd_jax.files import Section, Whole


class MeshSettings(Section):
    """The devices that one engine runs on.

    Attributes:
      data: number of devices that the slots are divided among.
      tensor: number that heads, feed-forward layers and vocabulary are divided among.
    """

    data: Whole = 1
    tensor: Whole = 1


class EngineSettings(Section):
    """Sizes of the cache and of device calls.

    Attributes:
      slots: S, conversations in the cache at once; "auto" takes what the memory has
        room for.
      length: tokens a conversation may have, prompt and replies together; "auto" takes
        what the longest problem of the tasks needs.
      prefill_rows: conversations in one prefill call; at most `slots`, and so fewer
        than the default where only `slots` are given and are fewer.
      prefill_chunk: tokens per row of one prefill call; divides `length`.
      decode_steps: tokens per conversation of one decode call; at most `length`.
      mode: "factored" evaluates a population in one pass, "materialised" one individual
        at a time, "auto" decides from sizes.
      deterministic: every call has the same shape, so scores do not depend on the order
        in which replies arrive. Otherwise calls shrink with the work, which is faster
        where batches thin out.
      attention: which implementation; see `models.attention`.
      mesh: the devices.
    """

    slots: Literal["auto"] | Whole = 64
    length: Literal["auto"] | Whole = 192
    prefill_rows: Whole = 32
    prefill_chunk: Whole = 16
    decode_steps: Whole = 8
    mode: Literal["auto", "factored", "materialised"] = "auto"
    deterministic: bool = True
    attention: Literal["auto", "xla", "dot_product", "cudnn", "pallas"] = "auto"
    mesh: MeshSettings = MeshSettings()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fit_rows(cls, data: Any) -> Any:
        """Lowers a default of `prefill_rows` to the slots that were given."""
        if not isinstance(data, Mapping) or "prefill_rows" in data:
            return data
        slots, rows = data.get("slots"), cls.model_fields["prefill_rows"].default
        if type(slots) is int and 1 <= slots < rows:
            return {**data, "prefill_rows": slots}
        return data

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.slots != "auto" and self.prefill_rows > self.slots:
            raise ValueError(
                f"prefill_rows is {self.prefill_rows}; expected at most slots, which "
                f"is {self.slots}"
            )
        if self.length == "auto":
            return self
        if self.length % self.prefill_chunk:
            raise ValueError(
                f"prefill_chunk is {self.prefill_chunk}; expected a divisor of length, "
                f"which is {self.length}"
            )
        if self.decode_steps > self.length:
            raise ValueError(
                f"decode_steps is {self.decode_steps}; expected at most length, which "
                f"is {self.length}"
            )
        return self

    @property
    def spans(self) -> tuple[int, ...]:
        """Numbers of a slot's tokens that programs read, ascending; the last is all."""
        return (self.length,) if self.deterministic else self.eviction_spans

    @property
    def eviction_spans(self) -> tuple[int, ...]:
        """Lengths in which slots are copied to the host and back, ascending."""
        spans = {max(self.length // 8, 64), max(self.length // 2, 64), self.length}
        return tuple(sorted(span for span in spans if span <= self.length))

    def row_counts(self, largest: int) -> tuple[int, ...]:
        """Numbers of rows that calls may have, ascending; the last is `largest`."""
        if self.deterministic:
            return (largest,)
        return tuple(sorted({max(largest // 8, 1), max(largest // 2, 1), largest}))

    @property
    def every_call(self) -> Mapping[str, int] | None:
        """`samples`, `logprobs` and `top` that every call computes, asked for or not.

        None is what its rows ask for, each combination in a program of its own.
        """
        return None

    def check_sized(self) -> None:
        """Refuses settings that leave a size open.

        Raises:
          ValueError: `slots` or `length` is "auto".
        """
        for name in ("slots", "length"):
            if getattr(self, name) == "auto":
                raise ValueError(
                    f"engine.{name} is 'auto'; the engine needs a number, which "
                    "runs.engine_sizes.check_prompts and choose_slots find."
                )
