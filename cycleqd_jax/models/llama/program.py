"""Llama as a Flax module, behind the `CausalLM` protocol.

Source: Llama (arXiv 2302.13971, 2407.21783); checked against `transformers`.
"""

import jax
import jax.numpy as jnp

from cycleqd_jax.models.attention import Kind
from cycleqd_jax.models.base import Deltas
from cycleqd_jax.models.decoder import Decoder
from cycleqd_jax.models.llama import rope
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.layers import Layer, RMSNorm
from cycleqd_jax.models.program import DecoderProgram


class Llama(Decoder):
    """The whole model; `LlamaProgram` is how it is called from outside."""

    def __init__(self, config: LlamaConfig, dtype: jnp.dtype, kind: Kind):
        layers = (
            Layer(config, f"model.layers.{i}", dtype, kind, config.window(i))
            for i in range(config.num_hidden_layers)
        )
        super().__init__(config, layers, dtype)
        self.model.norm = RMSNorm(config, "model.norm", dtype)
        self.rotary = rope.make_rotary(config)

    def rotation(
        self, places: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """As `Rotary.rotation`, which has frequencies that depend on `lengths`."""
        return self.rotary.rotation(places, lengths)

    def norm(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """The final norm, `[B, L, hidden]` to the same."""
        return self.model.norm(x, deltas)


class LlamaProgram(DecoderProgram):
    """The model as pure functions of flat weights: a `base.CausalLM`."""

    module = Llama
