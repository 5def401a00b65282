"""The other side of the generation benchmarks: `transformers` on PyTorch."""

from collections.abc import Sequence

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.loading import LoadedModel
from experiments.benchmarks.frame import cores

try:
    import torch
    import transformers
except ImportError as err:
    raise BadInputError(
        f"{err.name}: expected it to be installed, as what is compared with; install "
        "the extra `test`."
    ) from err


class TorchModel:
    """A model with the same weights, at its best usual settings.

    SDPA attention, inference mode, a KV cache, as many threads as there are cores; the
    weights share the memory of ours where NumPy allows it.
    """

    def __init__(self, model: LoadedModel):
        torch.set_num_threads(cores())
        transformers.logging.set_verbosity_error()
        config = transformers.AutoConfig.for_model(**model.config.to_hf())
        config._attn_implementation = "sdpa"
        # Allocated without values: initialising millions of them takes long.
        with torch.device("meta"):
            twin = transformers.AutoModelForCausalLM.from_config(config)
        twin = twin.to_empty(device="cpu").eval()
        state = {n: torch.from_numpy(np.array(w)) for n, w in model.weights.items()}
        if model.config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        twin.load_state_dict(state, assign=True)
        twin.tie_weights()
        twin.model.rotary_emb = type(twin.model.rotary_emb)(config)
        # No id ends a reply: both sides make the same number of tokens.
        twin.generation_config = transformers.GenerationConfig(
            do_sample=False, use_cache=True, eos_token_id=None, pad_token_id=0
        )
        self._twin = twin

    def generate(
        self, prompts: Sequence[Sequence[int]], count: int
    ) -> list[tuple[int, ...]]:
        """Greedy continuations.

        Args:
          prompts: token ids, all of one length, so that nothing is padded.
          count: tokens of each reply.
        """
        ids = torch.tensor([list(prompt) for prompt in prompts])
        with torch.inference_mode():
            whole = self._twin.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
            )
        return [tuple(row) for row in whole[:, ids.shape[1] :].tolist()]
