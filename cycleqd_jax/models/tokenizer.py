"""Text to token ids and back, and the chat format of a model.

A thin wrapper around a fast tokeniser of `transformers`: it renders chats with the
model's own template, tokenises them without adding special tokens, and knows which
tokens end a turn.
"""

import datetime
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models import chat_template

_PROBE = "Zq7probe"
_NO_SYSTEM = {"role": "system", "content": ""}


def padding_only(tokenizer: Any) -> str | None:
    """The padding token if no prompt can have it, None otherwise.

    Args:
      tokenizer: a `transformers.PreTrainedTokenizerFast`.
    """
    pad = tokenizer.pad_token
    used = (None, tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token)
    return None if pad in used or pad in str(tokenizer.chat_template) else pad


class ChatTokenizer:
    """A model's tokeniser and chat template.

    Attributes:
      stop_ids: sorted token ids that end a reply: the end-of-sequence tokens and the
        token that the chat template writes after an assistant's message.
      pad_id: the padding token, or the first stop token where there is none.
      vocab_size: number of token ids, added tokens included.
      date: what chat templates that print the day are shown.
    """

    def __init__(
        self,
        tokenizer: Any,
        eos_ids: Sequence[int] = (),
        date: datetime.date = chat_template.DATE,
        arguments: Mapping[str, Any] | None = None,
    ):
        """Wraps a fast tokeniser.

        Args:
          tokenizer: a `transformers.PreTrainedTokenizerFast`; its truncation and
            padding are switched off.
          eos_ids: more end-of-sequence ids, for example of `generation_config.json`.
          date: for chat templates that print the day.
          arguments: further ones of the chat template.

        Raises:
          BadInputError: if no end-of-sequence token is known.
        """
        self._hf, self.date, self._arguments = tokenizer, date, dict(arguments or {})
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.vocab_size: int = self._backend.get_vocab_size()
        stops = {int(i) for i in eos_ids} | self._turn_end()
        if tokenizer.eos_token_id is not None:
            stops.add(int(tokenizer.eos_token_id))
        if not stops:
            raise BadInputError(
                "tokeniser: no end-of-sequence token is known; set eos_token in "
                "tokenizer_config.json or eos_token_id in generation_config.json"
            )
        self.stop_ids: tuple[int, ...] = tuple(sorted(stops))
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.stop_ids[0] if pad is None else int(pad)

    def on(self, date: datetime.date) -> "ChatTokenizer":
        """The same tokeniser, whose chat template is shown another date."""
        return ChatTokenizer(self._hf, self.stop_ids, date, self._arguments)

    def with_arguments(self, arguments: Mapping[str, Any]) -> "ChatTokenizer":
        """The same tokeniser, whose chat template gets further arguments."""
        return ChatTokenizer(self._hf, self.stop_ids, self.date, arguments)

    @property
    def hf(self) -> Any:
        """The wrapped `transformers.PreTrainedTokenizerFast`; not to be changed."""
        return self._hf

    @property
    def bos_id(self) -> int | None:
        """The beginning-of-sequence token, if there is one."""
        return self._hf.bos_token_id

    @property
    def eos_id(self) -> int:
        """The tokeniser's end-of-sequence token, or the first stop token."""
        eos = self._hf.eos_token_id
        return self.stop_ids[0] if eos is None else int(eos)

    @property
    def begin_id(self) -> int:
        """The token that stands for what came before a text: BOS, or else EOS."""
        return self.eos_id if self.bos_id is None else self.bos_id

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token and its id, added tokens included."""
        return self._backend.get_vocab()

    @property
    def has_chat_template(self) -> bool:
        """True if the model came with a chat template."""
        return bool(self._hf.chat_template)

    @property
    def prints_date(self) -> bool:
        """True if the model's chat template asks for the day."""
        return self.has_chat_template and chat_template.prints_date(
            self._hf.get_chat_template()
        )

    @property
    def date_remark(self) -> str | None:
        """A sentence for users where prompts have a date in them, else None."""
        if not self.prints_date:
            return None
        return (
            f"the chat template prints a date, which is {self.date} in all prompts; "
            "another is chosen with date=YYYY-MM-DD"
        )

    def template_arguments(self, template: str | None = None) -> dict[str, Any]:
        """Arguments of `apply_chat_template` with which prompts never change.

        Args:
          template: Jinja text in place of the model's own.

        Raises:
          BadInputError: the template draws at random.
          jinja2.TemplateError, ValueError: it is damaged, or there is none.
        """
        text = self._hf.get_chat_template(template)
        return chat_template.pinned(text, self.date) | self._arguments

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        add_generation_prompt: bool = True,
        template: str | None = None,
    ) -> str:
        """Writes a chat as the model's template does.

        Args:
          messages: dicts with `role` and `content`. With `add_generation_prompt` the
            last may be the assistant's: its text is the beginning of the turn to
            generate. An empty system message in front is left out for a template that
            refuses it: not every one has that role.
          add_generation_prompt: whether to end with the start of an assistant's turn.
          template: Jinja text in place of the model's own.

        Returns:
          The text, special tokens written out.

        Raises:
          BadInputError: if the model has no template or it refuses these messages.
        """
        import jinja2

        if template is None and not self.has_chat_template:
            raise BadInputError(
                "tokeniser: this model has no chat template; use an instruct model or "
                "add chat_template.jinja to its folder"
            )
        beginning = ""
        if add_generation_prompt and messages and messages[-1]["role"] == "assistant":
            messages, beginning = messages[:-1], messages[-1]["content"]

        def write(given: Sequence[Mapping[str, str]]) -> str:
            return self._hf.apply_chat_template(
                [dict(message) for message in given],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.template_arguments(template),
            )

        try:
            try:
                return write(messages) + beginning
            except jinja2.TemplateError:
                if not messages or dict(messages[0]) != _NO_SYSTEM:
                    raise
                return write(messages[1:]) + beginning
        except BadInputError:
            raise
        except (jinja2.TemplateError, ValueError, TypeError, KeyError) as err:
            raise BadInputError(
                f"chat template: cannot render {len(messages)} messages with roles "
                f"{[message.get('role') for message in messages]}: {err}"
            ) from err

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> list[int]:
        """Renders a chat and tokenises it without adding special tokens.

        A beginning-of-sequence token is added only if the tokeniser's own setting asks
        for one and the template did not write it.

        Args:
          messages: as for `render`.
          add_generation_prompt: as for `render`.

        Returns:
          Token ids.

        Raises:
          BadInputError: as `render`.
        """
        return self.encode_text(self.render(messages, add_generation_prompt))

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a whole text, which begins with the beginning-of-sequence token.

        That is, if the tokeniser's own setting asks for one; it is never put in front
        of another one.
        """
        ids = self.encode(text)
        if self._adds_bos and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special tokens written in it are recognised.

        Half of a surrogate pair, which no tokeniser takes, becomes a question mark.
        """
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids, without cleaning up spaces.

        Args:
          ids: token ids; incomplete UTF-8 becomes U+FFFD.
          skip_special_tokens: whether to leave out special tokens.

        Returns:
          The text.
        """
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes tokeniser files that `transformers.AutoTokenizer` loads.

        Args:
          folder: an existing folder.
        """
        self._hf.save_pretrained(os.fspath(folder))
        path = os.path.join(folder, "tokenizer_config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        # With this class name, transformers 4 and 5 both use tokenizer.json unchanged.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        for name in ("local_files_only", "is_local", "name_or_path", "backend"):
            config.pop(name, None)  # they say how it was loaded
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file, indent=2, ensure_ascii=False, sort_keys=True)
            file.write("\n")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of everything that decides how text becomes tokens."""
        parts = [self._backend.to_str(), self._hf.chat_template, self.stop_ids]
        parts += [self.pad_id, self._adds_bos]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @functools.cached_property
    def _adds_bos(self) -> bool:
        if self.bos_id is None:
            return False
        return self._backend.encode("", add_special_tokens=True).ids[:1] == [
            self.bos_id
        ]

    def _turn_end(self) -> set[int]:
        """The special token that follows an assistant's message in the template."""
        if not self.has_chat_template:
            return set()
        chat = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": _PROBE},
        ]
        try:
            text = self.render(chat, add_generation_prompt=False)
        except BadInputError:  # the template wants other messages; eos must suffice
            return set()
        _, found, tail = text.rpartition(_PROBE)
        following = self.encode(tail.lstrip())[:1] if found else []
        special = {i for i, t in self._hf.added_tokens_decoder.items() if t.special}
        return {i for i in following if i in special}
