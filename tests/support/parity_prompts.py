"""Prompts of many kinds and lengths for the real SmolLM2, the same every time."""

import random

_TOPICS = (
    "the tides", "a lighthouse keeper", "sorting algorithms", "bread", "the number 7",
    "old maps", "a violin", "compound interest", "bees", "the moon Europa", "chess",
    "a broken bicycle", "SQL joins", "rain in October", "prime numbers",
    "a shell script",
)  # fmt: skip
_ASKS = (
    "Write two sentences about {}.",
    "What is {}?",
    "List three facts about {}.",
    "Explain {} to a child, then to an engineer.",
    "Translate to French: I like {}.",
    "Is {} important? Answer yes or no.",
    "Write a haiku about {}!",
)
_CODE = (
    "def scale(xs):\n    return [2 * x for x in xs]\n\ndef total(xs):\n",
    "SELECT name, age FROM pets WHERE kind = 'cat' ORDER BY",
    "#!/bin/sh\nfor f in *.txt; do\n  wc -l",
    'import json\n\nwith open("data.json") as f:\n    rows =',
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def",
)
_PROSE = (
    "The harbour was quiet when the last boat came in, and nobody on the pier spoke.",
    "In 1923 the town had four mills, two schools and a railway that never "
    "ran on time.",
    "Water boils at a lower temperature on a mountain because the air is "
    "thinner there.",
    "She counted the coins twice: three of ten, eleven of two, and one "
    "that was foreign.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, "
    "混ざった文字 too.",
    "Dear Sir, I write about the clock in the hall, which has struck "
    "thirteen since May.",
)


def parity_prompts(tokenizer, count: int, seed: int = 0) -> list[list[int]]:
    """Token ids of `count` prompts, chats and plain texts of 5 to about 200 tokens."""
    rng = random.Random(seed)
    return [_one(tokenizer, rng, i % 8) for i in range(count)]


def _one(tokenizer, rng: random.Random, kind: int) -> list[int]:
    topic, other = rng.sample(_TOPICS, 2)
    ask = rng.choice(_ASKS).format(topic)
    user = {"role": "user", "content": ask}
    if kind in (0, 1):
        return tokenizer.encode_chat([user])
    if kind == 2:
        system = {"role": "system", "content": f"You only talk about {other}."}
        return tokenizer.encode_chat([system, user])
    if kind == 3:
        reply = {"role": "assistant", "content": rng.choice(_PROSE)}
        again = {"role": "user", "content": rng.choice(_ASKS).format(other)}
        return tokenizer.encode_chat([user, reply, again])
    if kind == 4:
        context = " ".join(rng.choices(_PROSE, k=rng.randrange(2, 8)))
        content = f"{context}\n\nIn one word: what is this about?"
        return tokenizer.encode_chat([{"role": "user", "content": content}])
    if kind == 5:
        content = "Go on with this code:\n" + rng.choice(_CODE)
        return tokenizer.encode_chat([{"role": "user", "content": content}])
    text = rng.choice(_CODE) if kind == 6 else " ".join(rng.choices(_PROSE, k=3))
    ids = tokenizer.encode(text)
    return ids[: rng.randrange(5, len(ids) + 1)]
