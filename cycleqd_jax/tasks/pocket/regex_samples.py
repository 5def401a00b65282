"""Random strings that a regular expression matches, and strings that are close to them.

The patterns are those of `regex_templates`, which are trusted. They are made of
literals, escapes, sets, groups with alternatives, and quantifiers.
"""

import random
import re
import string

_CLASSES = {"d": string.digits, "w": "abcdeilmnorst", "s": " ", "b": ""}
_ANY = "abcdeilmnorst 0123456789-."
_TOKEN = re.compile(r"\\.|\[(?:\\.|[^\]])+\]|\{\d+(?:,\d*)?\}|.")
_QUANTIFIER = re.compile(r"\{(\d+)(,?)(\d*)\}")


class _Sampler:
    """Walks over a pattern's tokens and draws as it goes."""

    def __init__(self, pattern: str, rng: random.Random):
        self._tokens, self._rng = _TOKEN.findall(pattern), rng

    def draw(self, place: int = 0) -> tuple[str, int]:
        """A string of the alternatives from `place` to the end of their group."""
        branches: list[list[tuple[str, int, int]]] = [[]]
        while place < len(self._tokens) and self._tokens[place] != ")":
            token = self._tokens[place]
            if token == "|":
                branches.append([])
                place += 1
                continue
            text, after = self._atom(place)
            least, most, after = self._repeats(after)
            branches[-1].append((text, least, most, place))
            place = after
        drawn = []
        for _, least, most, start in self._rng.choice(branches):
            times = self._rng.randint(least, most)
            drawn += [self._atom(start)[0] for _ in range(times)]
        return "".join(drawn), place

    def _atom(self, place: int) -> tuple[str, int]:
        token = self._tokens[place]
        if token == "(":
            text, end = self.draw(place + 1)
            return text, end + 1
        if token.startswith("["):
            return self._rng.choice(_members(token[1:-1])), place + 1
        if token.startswith("\\"):
            choices = _CLASSES.get(token[1], token[1])
            return (self._rng.choice(choices) if choices else ""), place + 1
        return (self._rng.choice(_ANY) if token == "." else token), place + 1

    def _repeats(self, place: int) -> tuple[int, int, int]:
        token = self._tokens[place] if place < len(self._tokens) else ""
        if counts := _QUANTIFIER.fullmatch(token):
            least = int(counts[1])
            most = int(counts[3]) if counts[3] else least + 4 * bool(counts[2])
            return least, most, place + 1
        simple = {"*": (0, 5), "+": (1, 5), "?": (0, 1)}.get(token)
        return (*simple, place + 1) if simple else (1, 1, place)


def matching(pattern: str, rng: random.Random) -> str:
    """A random string that mostly matches all of a pattern."""
    return _Sampler(pattern, rng).draw()[0]


def changed(text: str, rng: random.Random) -> str:
    """The text with one or two small changes."""
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randint(0, len(text))
        before, after = text[:place], text[place:]
        match rng.randrange(5):
            case 0:
                text = before + rng.choice("abkzBQ059 -._") + after
            case 1:
                text = before + after[1:]
            case 2:
                text = before + rng.choice("aetzAEZ0157-. ") + after[1:]
            case 3:
                text = before + after[:1] + after
            case 4:
                text = before + after[:1].swapcase() + after[1:]
    return text


def _members(inner: str) -> str:
    """The characters of a set, without its brackets; of a negated one, some others."""
    if inner.startswith("^"):
        taken = set(_members(inner[1:]))
        return "".join(c for c in _ANY if c not in taken)
    found = ""
    for one in re.findall(r"\\.|.-.|.", inner):
        if len(one) == 3:
            found += "".join(map(chr, range(ord(one[0]), ord(one[2]) + 1)))
        else:
            found += _CLASSES.get(one[1], one[1]) if one[0] == "\\" else one
    return found
