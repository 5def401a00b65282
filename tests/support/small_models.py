"""Random models of every family with trained tokenisers, as Hugging Face folders."""

import pathlib
from typing import Any

TEXTS = (
    "The cat sat on the mat and the other cats sat there, too.",
    "SELECT name FROM pets WHERE age > 3 ORDER BY weight; SELECT 1, 2, 30;",
    "def scale(xs):\n    return [2 * x for x in xs]  # doubled\n",
    "It's said that they'll come; naïve Größe, déjà vu!\n\n",
) * 3
SPACE = "\u2581"  # SentencePiece's
CHAT = (
    "{% if bos_token %}{{ bos_token }}{% endif %}{% for m in messages %}<|im_start|>"
    "{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
# Name -> class in transformers, kind of tokeniser, changes of the sizes.
MODELS = {
    "llama2": ("Llama", "sentencepiece", {}),
    "llama3": (
        "Llama",
        "llama-bpe",
        {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 32},
    ),
    "biases": (
        "Llama",
        "smollm",
        {"attention_bias": True, "mlp_bias": True, "rope_parameters": LINEAR},
    ),
    "mistral": ("Mistral", "metaspace", {"sliding_window": 100}),
    "nemo": ("Mistral", "tekken", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("Qwen2", "qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen3": ("Qwen3", "qwen2", {"head_dim": 32}),
}


def make_folder(folder: pathlib.Path, name: str, **changes: Any) -> pathlib.Path:
    """Writes one of `MODELS` with more rows than tokens.

    All numbers are float16's, so that a file of that type holds them exactly.
    """
    import torch
    import transformers

    family, kind, own = MODELS[name]
    settings = SIZES | own | changes
    tokenizer = make_tokenizer(settings.pop("tokenizer", kind))
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer) + 5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **settings,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases start at a constant
                parameter.add_(0.3 * torch.randn_like(parameter))
            parameter.copy_(parameter.half().float())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(kind: str, **changes: Any) -> Any:
    """A tokeniser with special tokens, one of them an ordinary added one, `<call>`."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    pieces = kind in ("sentencepiece", "metaspace")
    backend = _pieces(kind) if pieces else _byte_level(kind)
    begin = "<s>" if pieces or kind in ("llama-bpe", "tekken") else None
    special = [] if begin is None else [begin]
    special += ["<unk>", "</s>"] if pieces else ["<|endoftext|>"]
    backend.add_special_tokens(
        [
            AddedToken(token, normalized=False)
            for token in [*special, "<|im_start|>", "<|im_end|>"]
        ]
    )
    backend.add_tokens([AddedToken("<call>", normalized=False)])
    if begin:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, backend.token_to_id(begin))]
        )
    settings = {
        "bos_token": begin,
        "eos_token": "</s>" if pieces else "<|endoftext|>",
        "unk_token": "<unk>" if pieces else None,
        "chat_template": CHAT,
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(settings | changes))


def _byte_level(name: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from cycleqd_jax.models.formats.gguf_splits import SPLITS

    split = SPLITS[name]
    backend = Tokenizer(models.BPE(ignore_merges=split.ignore_merges))
    split.apply(backend)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def _pieces(kind: str) -> Any:
    """SentencePiece's BPE as transformers makes a tokenizer.json of it."""
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers.tokenization_utils_base import generate_merges

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False)
    learner.train_from_iterator(TEXTS, trainer)
    learned = sorted(learner.get_vocab(), key=learner.token_to_id)
    single = [token for token in learned if len(token) == 1]
    longer = [token for token in learned if len(token) > 1]
    base = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    vocab = {token: i for i, token in enumerate([*base, *longer, *single])}
    scores = {token: -float(i) for i, token in enumerate(longer)}
    merges = generate_merges(vocab, scores)
    backend = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    if kind == "sentencepiece":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="first", split=False
        )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return backend
