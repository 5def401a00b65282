"""The settings of the endpoint."""

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from cycleqd_jax.files import PathText, Section, Text, Whole
from cycleqd_jax.inference.settings import EngineSettings

MOST_TOP = 20  # most likely tokens that a request may ask for in each place
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ServeEngine(EngineSettings):
    """The engine's settings, with defaults for few conversations at a time.

    `length: auto` takes the model's context, 1024 tokens at most. Requests of all
    kinds run the same few programs, so that all of them can be compiled at the start.
    """

    slots: Literal["auto"] | Whole = 16
    length: Literal["auto"] | Whole = "auto"
    prefill_rows: Whole = 8
    prefill_chunk: Whole = 32
    decode_steps: Whole = 8
    deterministic: bool = False

    @property
    def spans(self) -> tuple[int, ...]:
        """As in `EngineSettings`; a quarter or all."""
        if self.deterministic:
            return (self.length,)
        return tuple(sorted({max(self.length // 4, min(self.length, 64)), self.length}))

    @property
    def eviction_spans(self) -> tuple[int, ...]:
        """One, for nothing is evicted: there are as many seats as slots."""
        return (self.length,)

    def row_counts(self, largest: int) -> tuple[int, ...]:
        """As in `EngineSettings`; few or all."""
        if self.deterministic:
            return (largest,)
        return tuple(sorted({max(largest // 8, 1), largest}))

    @property
    def every_call(self) -> Mapping[str, int]:
        """All that a request may ask for."""
        return {"samples": True, "logprobs": True, "top": MOST_TOP}


class ServeSettings(Section):
    """The address, the limits and the engine of the endpoint.

    Attributes:
      host: name or address to listen on; loopback unless told otherwise.
      port: 0 takes a free one.
      api_key: what requests must bring as `Authorization: Bearer`; None asks for none.
      allowed_hosts: further names by which requests may call this server, such as that
        of a proxy. Others are refused while `host` is loopback, so that no web page
        can reach it by a name of its own.
      base_model: where the run's base model is on this machine, if elsewhere than the
        run's settings say.
      max_waiting: replies that may wait for a slot; requests beyond are refused.
      warm_up: whether programs are compiled ahead, while nobody asks.
      max_body_bytes: size of the largest request.
      engine: its sizes.
    """

    host: Text = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    api_key: Text | None = None
    allowed_hosts: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    base_model: PathText | None = None
    max_waiting: Whole = 256
    warm_up: bool = True
    max_body_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 4 * 2**20
    engine: ServeEngine = ServeEngine()

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
