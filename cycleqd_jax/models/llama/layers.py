"""The layers of a Llama as Flax modules.

`program` puts them together. B and L are as in `models.base`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cycleqd_jax.models.attention import Kind
from cycleqd_jax.models.base import Deltas
from cycleqd_jax.models.cached_attention import KeysValues, LayerView, attend_cached
from cycleqd_jax.models.layers import Linear, parameter, vector_of_rows
from cycleqd_jax.models.llama import rope
from cycleqd_jax.models.llama.config import LlamaConfig


class RMSNorm(nnx.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype):
        self.name = name
        self.epsilon = config.rms_norm_eps
        self.weight = parameter(config, f"{name}.weight", dtype)

    def __call__(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, ..., n]` to the same; the last dimension is normed."""
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = (wide * jax.lax.rsqrt(mean_square + self.epsilon)).astype(x.dtype)
        return normed * vector_of_rows(self.weight, f"{self.name}.weight", x, deltas)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions.

    Attributes:
      kind: the implementation.
      window: how many tokens a query sees, its own included; None for all.
    """

    def __init__(
        self,
        config: LlamaConfig,
        name: str,
        dtype: jnp.dtype,
        kind: Kind,
        window: int | None,
    ):
        self.kind, self.window = kind, window
        self.head_dim = config.head_dim
        self.q_proj = Linear(config, f"{name}.q_proj", dtype)
        self.k_proj = Linear(config, f"{name}.k_proj", dtype)
        self.v_proj = Linear(config, f"{name}.v_proj", dtype)
        self.o_proj = Linear(config, f"{name}.o_proj", dtype)
        if config.head_norms:
            self.q_norm = RMSNorm(config, f"{name}.q_norm", dtype)
            self.k_norm = RMSNorm(config, f"{name}.k_norm", dtype)

    def __call__(
        self,
        x: jax.Array,
        deltas: Deltas,
        rotation: tuple[jax.Array, jax.Array],
        seen: LayerView,
    ) -> tuple[jax.Array, KeysValues]:
        """Mixes the tokens of each row.

        Args:
          x: `[B, L, hidden]`.
          deltas: additions per row.
          rotation: cosines and sines of the positions, from `Rotary.rotation`.
          seen: the tokens' places, and the layer's cache.

        Returns:
          `[B, L, hidden]`, and keys and values as from `attend_cached`.
        """
        batch, length, _ = x.shape
        split = (batch, length, -1, self.head_dim)
        queries = self.q_proj(x, deltas).reshape(split)
        keys = self.k_proj(x, deltas).reshape(split)
        if hasattr(self, "q_norm"):
            queries, keys = self.q_norm(queries, deltas), self.k_norm(keys, deltas)
        queries, keys = rope.rotate(queries, *rotation), rope.rotate(keys, *rotation)
        values = self.v_proj(x, deltas).reshape(split)
        mixed, cached = attend_cached(
            queries, keys, values, seen, kind=self.kind, window=self.window
        )
        return self.o_proj(mixed, deltas), cached


class MLP(nnx.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype):
        self.gate_proj = Linear(config, f"{name}.gate_proj", dtype)
        self.up_proj = Linear(config, f"{name}.up_proj", dtype)
        self.down_proj = Linear(config, f"{name}.down_proj", dtype)

    def __call__(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, hidden]` to the same."""
        gate = jax.nn.silu(self.gate_proj(x, deltas))
        return self.down_proj(gate * self.up_proj(x, deltas), deltas)


class Layer(nnx.Module):
    """One transformer layer; arguments and results as for `Attention`."""

    def __init__(
        self,
        config: LlamaConfig,
        name: str,
        dtype: jnp.dtype,
        kind: Kind,
        window: int | None = None,
    ):
        self.self_attn = Attention(config, f"{name}.self_attn", dtype, kind, window)
        self.mlp = MLP(config, f"{name}.mlp", dtype)
        self.input_layernorm = RMSNorm(config, f"{name}.input_layernorm", dtype)
        self.post_attention_layernorm = RMSNorm(
            config, f"{name}.post_attention_layernorm", dtype
        )

    def __call__(self, x, deltas, rotation, seen):
        """See `Attention`."""
        normed = self.input_layernorm(x, deltas)
        mixed, cached = self.self_attn(normed, deltas, rotation, seen)
        x = x + mixed
        x = x + self.mlp(self.post_attention_layernorm(x, deltas), deltas)
        return x, cached
