"""The sizes and constants of a Segment Anything model, in and out of a `config.json`.

`SamConfig.weight_shapes` is the one list of weight names and shapes that loading,
adapters, merging and export agree on.
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal, Self

import pydantic

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.sam.parts import (
    MaskDecoderConfig,
    PromptEncoderConfig,
    VisionConfig,
    window_of,
)
from cycleqd_jax.models.validated import parse

# The two-way layers divide their width by this, whatever the config says; only the last
# attention follows `attention_downsample_rate`, as in transformers.
CROSS_DOWNSAMPLE_RATE = 2
# Attention to more tokens than this goes row by row of the image, so that its scores
# (a gigabyte per image at 64 x 64 patches and 16 heads) are never there at once.
MOST_TOKENS = 1024
SHARED = "shared_image_embedding.positional_embedding"


_PARTS = {
    "vision_config": VisionConfig,
    "prompt_encoder_config": PromptEncoderConfig,
    "mask_decoder_config": MaskDecoderConfig,
}


class SamConfig(pydantic.BaseModel, frozen=True, strict=True, extra="forbid"):
    """Sizes and constants of one Segment Anything model: a `SegmentationConfig`.

    Attributes:
      vision_config: the image encoder.
      prompt_encoder_config: the prompt encoder.
      mask_decoder_config: the mask decoder.
    """

    model_type: Literal["sam"] = "sam"
    vision_config: VisionConfig = VisionConfig()
    prompt_encoder_config: PromptEncoderConfig = PromptEncoderConfig()
    mask_decoder_config: MaskDecoderConfig = MaskDecoderConfig()

    @property
    def image_size(self) -> int:
        """The side of the square input, in pixels."""
        return self.vision_config.image_size

    @property
    def grid(self) -> int:
        """The side of the image embedding, in patches."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def image_flops(self) -> int:
        """Operations of the image encoder's products on one image."""
        vision, tokens = self.vision_config, self.grid**2
        seen = sum(
            window_of(vision, i) ** 2 or tokens for i in range(vision.num_hidden_layers)
        )
        width, layers = vision.hidden_size, vision.num_hidden_layers
        of_layer = width * (4 * width + 2 * vision.mlp_dim)
        return 2 * tokens * (layers * of_layer + 2 * width * seen)

    @property
    def image_numbers(self) -> int:
        """Activations of a layer: its tokens, and its MLP or its attention's scores."""
        vision, tokens = self.vision_config, self.grid**2
        rows = tokens if tokens <= MOST_TOKENS else self.grid
        windows = {window_of(vision, i) for i in range(vision.num_hidden_layers)}
        scores = max(tokens * w**2 if w else rows * tokens for w in windows)
        inner = max(vision.mlp_dim * tokens, 2 * vision.num_attention_heads * scores)
        return 6 * vision.hidden_size * tokens + inner

    @pydantic.model_validator(mode="after")
    def _sizes_fit_together(self) -> Self:
        vision, prompts = self.vision_config, self.prompt_encoder_config
        decoder = self.mask_decoder_config
        _must_divide("patch_size", vision.patch_size, "image_size", vision.image_size)
        _must_divide(
            "num_attention_heads",
            vision.num_attention_heads,
            "hidden_size",
            vision.hidden_size,
        )
        width = vision.output_channels
        for name, value in (
            ("prompt_encoder_config.hidden_size", prompts.hidden_size),
            ("mask_decoder_config.hidden_size", decoder.hidden_size),
            ("2 * vision_config.num_pos_feats", 2 * vision.num_pos_feats),
        ):
            if value != width:
                raise ValueError(
                    f"{name} ({value}) must equal vision_config.output_channels "
                    f"({width})"
                )
        for name in ("image_size", "patch_size"):
            if getattr(prompts, name) != getattr(vision, name):
                raise ValueError(
                    f"prompt_encoder_config.{name} ({getattr(prompts, name)}) must "
                    f"equal vision_config.{name} ({getattr(vision, name)})"
                )
        for rate in (CROSS_DOWNSAMPLE_RATE, decoder.attention_downsample_rate):
            _must_divide("the attention's downsample rate", rate, "hidden_size", width)
            _must_divide(
                "mask_decoder_config.num_attention_heads",
                decoder.num_attention_heads,
                f"hidden_size / {rate}",
                width // rate,
            )
        return self

    @classmethod
    def from_hf(cls, data: Mapping[str, Any], source: str = "config.json") -> Self:
        """Reads a parsed `config.json`; defaults are those of `transformers`.

        Args:
          data: the parsed file.
          source: where it came from, for error messages.

        Raises:
          BadInputError: if a setting is malformed or asks for arithmetic that this
            model does not do; names the setting and its value.
        """
        if data.get("quantization_config"):
            raise BadInputError(
                f"{source}: has a quantization_config; quantised weights are not read, "
                "so give the model in float32, as it was before quantisation"
            )
        if data.get("tie_word_embeddings") is False:
            raise BadInputError(
                f"{source}: tie_word_embeddings = False is not supported; this model "
                "has one positional embedding for images and prompts"
            )
        given = {}
        for name, part in _PARTS.items():
            own = data.get(name) or {}
            if not isinstance(own, Mapping):
                raise BadInputError(f"{source}: {name}: expected an object, got {own}")
            given[name] = {k: own[k] for k in part.model_fields if k in own}
            given[name] = {k: v for k, v in given[name].items() if v is not None}
        vision = data.get("vision_config") or {}
        width, ratio = vision.get("hidden_size", 768), vision.get("mlp_ratio", 4.0)
        if vision.get("mlp_dim") is None and isinstance(width, int):
            if not isinstance(ratio, int | float):
                raise BadInputError(
                    f"{source}: vision_config.mlp_ratio must be a number, got {ratio!r}"
                )
            given["vision_config"]["mlp_dim"] = int(width * ratio)
        return parse(cls, given, source)

    def to_hf(self) -> dict[str, Any]:
        """The content of a `config.json`, without dtype; `from_hf(to_hf()) == self`."""
        settings: dict[str, Any] = {
            "model_type": self.model_type,
            "architectures": ["SamModel"],
        }
        for name, part in _PARTS.items():
            own = getattr(self, name).model_dump(mode="json")
            settings[name] = own | {"model_type": part.hf_type}
        return settings

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight's Hugging Face name and shape; matrices are `[out, in]`.

        Kernels are `[out, in, height, width]`, those of transposed convolutions
        `[in, out, height, width]`.

        Returns:
          A fresh dict in the model's order.
        """
        return dict(_weight_shapes(self))


def _must_divide(name: str, value: int, of_name: str, of: int) -> None:
    if of % value:
        raise ValueError(f"{name} ({value}) must divide {of_name} ({of})")


@functools.lru_cache(maxsize=8)
def _weight_shapes(config: SamConfig) -> dict[str, tuple[int, ...]]:
    vision, decoder = config.vision_config, config.mask_decoder_config
    shapes: dict[str, tuple[int, ...]] = {SHARED: (2, vision.num_pos_feats)}

    def layer(name: str, *shape: int, bias: bool | int = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = (shape[0] if bias is True else bias,)

    width, grid = vision.hidden_size, config.grid
    if vision.use_abs_pos:
        shapes["vision_encoder.pos_embed"] = (1, grid, grid, width)
    side = vision.patch_size
    patches = (width, vision.num_channels, side, side)
    layer("vision_encoder.patch_embed.projection", *patches)
    for i in range(vision.num_hidden_layers):
        own = f"vision_encoder.layers.{i}"
        layer(f"{own}.layer_norm1", width)
        if vision.use_rel_pos:
            seen = window_of(vision, i) or grid
            for axis in "hw":
                shape = (2 * seen - 1, width // vision.num_attention_heads)
                shapes[f"{own}.attn.rel_pos_{axis}"] = shape
        layer(f"{own}.attn.qkv", 3 * width, width, bias=vision.qkv_bias)
        layer(f"{own}.attn.proj", width, width)
        layer(f"{own}.layer_norm2", width)
        layer(f"{own}.mlp.lin1", vision.mlp_dim, width)
        layer(f"{own}.mlp.lin2", width, vision.mlp_dim)
    out = vision.output_channels
    layer("vision_encoder.neck.conv1", out, width, 1, 1, bias=False)
    layer("vision_encoder.neck.layer_norm1", out)
    layer("vision_encoder.neck.conv2", out, out, 3, 3, bias=False)
    layer("vision_encoder.neck.layer_norm2", out)

    channels = config.prompt_encoder_config.mask_input_channels
    own = "prompt_encoder.mask_embed"
    layer(f"{own}.conv1", channels // 4, 1, 2, 2)
    layer(f"{own}.conv2", channels, channels // 4, 2, 2)
    layer(f"{own}.conv3", out, channels, 1, 1)
    layer(f"{own}.layer_norm1", channels // 4)
    layer(f"{own}.layer_norm2", channels)
    tables = ["no_mask_embed", "not_a_point_embed"]
    points = config.prompt_encoder_config.num_point_embeddings
    for name in [*tables, *(f"point_embed.{i}" for i in range(points))]:
        layer(f"prompt_encoder.{name}", 1, out, bias=False)

    masks = decoder.num_multimask_outputs + 1
    layer("mask_decoder.iou_token", 1, out, bias=False)
    layer("mask_decoder.mask_tokens", masks, out, bias=False)

    def attention(name: str, rate: int) -> None:
        for which in "qkv":
            layer(f"{name}.{which}_proj", out // rate, out)
        layer(f"{name}.out_proj", out, out // rate)

    for i in range(decoder.num_hidden_layers):
        own = f"mask_decoder.transformer.layers.{i}"
        attention(f"{own}.self_attn", 1)
        for way in ("token_to_image", "image_to_token"):
            attention(f"{own}.cross_attn_{way}", CROSS_DOWNSAMPLE_RATE)
        for norm in range(1, 5):
            layer(f"{own}.layer_norm{norm}", out)
        layer(f"{own}.mlp.lin1", decoder.mlp_dim, out)
        layer(f"{own}.mlp.lin2", out, decoder.mlp_dim)
    own = "mask_decoder.transformer"
    attention(f"{own}.final_attn_token_to_image", decoder.attention_downsample_rate)
    layer(f"{own}.layer_norm_final_attn", out)
    own = "mask_decoder"
    layer(f"{own}.upscale_conv1", out, out // 4, 2, 2, bias=out // 4)
    layer(f"{own}.upscale_conv2", out // 4, out // 8, 2, 2, bias=out // 8)
    layer(f"{own}.upscale_layer_norm", out // 4)

    def mlp(name: str, wide: int, last: int, depth: int) -> None:
        layer(f"{name}.proj_in", wide, out)
        layer(f"{name}.proj_out", last, wide)
        for i in range(depth - 2):
            layer(f"{name}.layers.{i}", wide, wide)

    for i in range(masks):
        mlp(f"{own}.output_hypernetworks_mlps.{i}", out, out // 8, 3)
    head = (decoder.iou_head_hidden_dim, masks, decoder.iou_head_depth)
    mlp(f"{own}.iou_prediction_head", *head)
    return shapes
