"""Chat templates that write equal prompts on every day and in every process.

A template may print the day, as Llama 3.2's does, or draw at random. It is shown one
date, which its caller chooses, and refused if it draws.
"""

import datetime
import functools
import itertools

import jinja2

from cycleqd_jax.errors import BadInputError

# The default date of the template of meta-llama/Llama-3.1-8B-Instruct.
DATE = datetime.date(2024, 7, 26)
_CLOCKS = ("strftime_now", "date_string")  # names by which templates ask for the day
_DIRECTIVES = "aAbBcCdDeFgGhHIjklmMpPrRsSTuUVwWxXyYzZ"  # of strftime


def pinned(template: str, date: datetime.date) -> dict[str, str]:
    """Arguments of `apply_chat_template` with which a template prints one date.

    Args:
      template: Jinja text.
      date: what its clock shows, at midnight.

    Raises:
      BadInputError: it draws at random.
      jinja2.TemplateError: it is not Jinja.
    """
    tokens = _tokens(template)
    if _draws(tokens):
        raise BadInputError(
            "chat template: it draws at random, so that equal chats give other "
            "prompts; use one without the filter random and without lipsum."
        )
    if ("name", "strftime_now") in tokens:
        template = _clock(date) + template
    return {"chat_template": template, "date_string": date.strftime("%d %b %Y")}


def prints_date(template: str) -> bool:
    """True if a template asks for the day; False if it is not Jinja."""
    try:
        tokens = _tokens(template)
    except jinja2.TemplateError:  # it is refused when it writes a prompt
        return False
    return any(("name", clock) in tokens for clock in _CLOCKS)


@functools.lru_cache(maxsize=32)
def _tokens(template: str) -> tuple[tuple[str, str], ...]:
    """Kind and text of the template's tokens, texts and comments left out."""
    lexed = jinja2.Environment().lex(template)
    return tuple(
        (kind, text)
        for _, kind, text in lexed
        if kind in ("name", "operator", "string")
    )


def _draws(tokens: tuple[tuple[str, str], ...]) -> bool:
    texts = [text.strip("'\"") for _, text in tokens]
    filters = (("|", "random"), ("filter", "random"))
    return (
        ("name", "lipsum") in tokens
        or any(pair in filters for pair in itertools.pairwise(texts))
        or any(
            three == ("map", "(", "random")
            for three in zip(texts, texts[1:], texts[2:], strict=False)
        )
    )


@functools.lru_cache(maxsize=32)
def _clock(date: datetime.date) -> str:
    """A macro in front of a template, in place of transformers' `strftime_now`.

    It is a macro because transformers hands texts to a template and no functions. The
    line break behind it is trimmed.
    """
    midnight = datetime.datetime.combine(date, datetime.time())
    shown = {f"%{d}": midnight.strftime(f"%{d}") for d in _DIRECTIVES}
    shown |= {f"%-{d}": midnight.strftime(f"%-{d}") for d in _DIRECTIVES}
    steps = [("%%", "\0"), *shown.items(), ("\0", "%")]
    filters = "".join(f"|replace({old!r}, {new!r})" for old, new in steps)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{filters} }}}}" + (
        "{%- endmacro %}\n"
    )
