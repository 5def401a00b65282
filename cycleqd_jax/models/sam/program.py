"""Segment Anything behind the `SegmentationModel` protocol."""

import jax
import jax.numpy as jnp

from cycleqd_jax.models.base import Deltas, Weights
from cycleqd_jax.models.sam.config import SamConfig
from cycleqd_jax.models.sam.image_encoder import encode_images
from cycleqd_jax.models.sam.layers import Parameters
from cycleqd_jax.models.sam.mask_decoder import decode_masks
from cycleqd_jax.models.sam.prompt_encoder import encode_prompts, image_positions
from cycleqd_jax.models.segmentation import NO_PROMPT, Prompts


class SamProgram:
    """The model as pure functions of flat weights: a `SegmentationModel`."""

    def __init__(self, config: SamConfig, dtype: jnp.dtype | str = "float32"):
        self.config = config
        self.dtype = jnp.dtype(dtype)

    def __eq__(self, other: object) -> bool:
        """Programs of one config and dtype are one static argument of `jax.jit`."""
        same = isinstance(other, SamProgram)
        return same and (self.config, self.dtype) == (other.config, other.dtype)

    def __hash__(self) -> int:
        """Equal for equal programs."""
        return hash((self.config, self.dtype))

    def embed_images(
        self, weights: Weights, pixels: jax.Array, deltas: Deltas | None = None
    ) -> jax.Array:
        """As `SegmentationModel.embed_images`."""
        self._check(weights)
        vision = self.config.vision_config
        size = (vision.num_channels, vision.image_size, vision.image_size)
        if pixels.ndim != 4 or pixels.shape[1:] != size:
            raise ValueError(
                f"pixels: expected shape [B, {', '.join(map(str, size))}] as in the "
                f"config, got {list(pixels.shape)}."
            )
        x = jnp.asarray(pixels, self.dtype).transpose(0, 2, 3, 1)
        parameters = Parameters(weights, deltas or Deltas())
        return encode_images(parameters, self.config, x).transpose(0, 3, 1, 2)

    def predict_masks(
        self,
        weights: Weights,
        embeddings: jax.Array,
        prompts: Prompts = NO_PROMPT,
        deltas: Deltas | None = None,
        *,
        multimask: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """As `SegmentationModel.predict_masks`."""
        self._check(weights)
        parameters = Parameters(weights, deltas or Deltas())
        tokens, dense = encode_prompts(parameters, self.config, prompts)
        places = image_positions(parameters, self.config.grid)
        image = embeddings.transpose(0, 2, 3, 1) + dense.astype(self.dtype)
        decoder = self.config.mask_decoder_config
        logits, quality = decode_masks(parameters, decoder, image, places, tokens)
        kept = slice(1, None) if multimask else slice(0, 1)
        return (
            logits[:, :, kept].astype(jnp.float32),
            quality[:, :, kept].astype(jnp.float32),
        )

    def _check(self, weights: Weights) -> None:
        names = self.config.weight_shapes().keys()
        missing, unknown = (
            sorted(names - weights.keys()),
            sorted(weights.keys() - names),
        )
        if missing or unknown:
            raise ValueError(
                f"weights: expected the {len(names)} weights of this model, but "
                f"{missing[:3]} are missing and {unknown[:3]} are unknown; load them "
                "with open_segmentation_model."
            )
