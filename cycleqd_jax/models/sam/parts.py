"""The settings of the three parts of a Segment Anything model."""

from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import PositiveInt

Epsilon = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Activation = Literal["gelu", "relu"]
Indexes = Annotated[tuple[int, ...], pydantic.Field(strict=False)]
# The limit keeps a damaged file from asking for billions of weight names.
Count = Annotated[int, pydantic.Field(ge=1, le=1000)]


class _Part(pydantic.BaseModel, frozen=True, strict=True, extra="forbid"):
    """One of the three parts of a `config.json`; defaults are those of transformers."""

    hf_type: ClassVar[str]


class VisionConfig(_Part):
    """The image encoder.

    Attributes:
      hidden_size: width of its tokens.
      output_channels: width of the image embedding.
      num_hidden_layers: its layers.
      num_attention_heads: heads of each.
      num_channels: channels of an image.
      image_size: side of the square input, in pixels.
      patch_size: side of a patch, in pixels.
      hidden_act: activation of the MLPs.
      layer_norm_eps: added to variances in its layers.
      qkv_bias: whether queries, keys and values have biases.
      use_abs_pos: whether a position table is added to the patches.
      use_rel_pos: whether attention has decomposed relative positions.
      window_size: side of an attention window, in patches; 0 for none.
      global_attn_indexes: the layers (0-based) that have no windows.
      num_pos_feats: frequencies of the random Fourier positions.
      mlp_dim: width of the MLPs.
    """

    hf_type = "sam_vision_model"
    hidden_size: PositiveInt = 768
    output_channels: PositiveInt = 256
    num_hidden_layers: Count = 12
    num_attention_heads: PositiveInt = 12
    num_channels: PositiveInt = 3
    image_size: PositiveInt = 1024
    patch_size: PositiveInt = 16
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-6
    qkv_bias: bool = True
    use_abs_pos: bool = True
    use_rel_pos: bool = True
    window_size: pydantic.NonNegativeInt = 14
    global_attn_indexes: Indexes = (2, 5, 8, 11)
    num_pos_feats: PositiveInt = 128
    mlp_dim: PositiveInt = 3072


class PromptEncoderConfig(_Part):
    """The prompt encoder.

    Attributes:
      hidden_size: width of its embeddings.
      image_size: as in `VisionConfig`.
      patch_size: as in `VisionConfig`.
      mask_input_channels: channels of an embedded mask before the last convolution.
      num_point_embeddings: 4: negative and positive points, two corners of a box.
      hidden_act: activation of the convolutions.
      layer_norm_eps: added to variances.
    """

    hf_type = "sam_prompt_encoder"
    hidden_size: PositiveInt = 256
    image_size: PositiveInt = 1024
    patch_size: PositiveInt = 16
    mask_input_channels: PositiveInt = pydantic.Field(16, multiple_of=4)
    num_point_embeddings: int = pydantic.Field(4, ge=4, le=1000)
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-6


class MaskDecoderConfig(_Part):
    """The mask decoder.

    Attributes:
      hidden_size: width of its tokens.
      hidden_act: activation of the MLPs in its transformer.
      mlp_dim: width of these MLPs.
      num_hidden_layers: two-way layers.
      num_attention_heads: heads of each attention.
      attention_downsample_rate: divisor of the width of the last attention.
      num_multimask_outputs: masks per prompt, beside the single one.
      iou_head_depth: linear layers of the head that predicts the masks' quality.
      iou_head_hidden_dim: their width.
      layer_norm_eps: added to variances in the two-way layers.
    """

    hf_type = "sam_mask_decoder"
    hidden_size: PositiveInt = pydantic.Field(256, multiple_of=8)
    hidden_act: Activation = "relu"
    mlp_dim: PositiveInt = 2048
    num_hidden_layers: Count = 2
    num_attention_heads: PositiveInt = 8
    attention_downsample_rate: PositiveInt = 2
    num_multimask_outputs: Count = 3
    iou_head_depth: int = pydantic.Field(3, ge=2, le=1000)
    iou_head_hidden_dim: PositiveInt = 256
    layer_norm_eps: Epsilon = 1e-6


def window_of(vision: VisionConfig, layer: int) -> int:
    """The side of a layer's attention windows, in patches; 0 for none."""
    return 0 if layer in vision.global_attn_indexes else vision.window_size
