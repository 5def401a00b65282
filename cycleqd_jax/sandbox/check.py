"""Checks a program before it runs in any sandbox."""

import os
import pathlib

from cycleqd_jax.sandbox._collect import MAX_PATH_BYTES, whole_pages
from cycleqd_jax.sandbox.base import Ending, Execution, Program

_MAX_NAME_BYTES = 255
_MAX_WORD_BYTES = 2**17 - 1  # MAX_ARG_STRLEN of the kernel, without the final NUL
_MAX_ARGV_BYTES = 2**20  # the kernel's limit is a quarter of the stack's, 2 MiB


def refused(program: Program) -> Execution | None:
    """The end of a program with an argument that no program can have; else None.

    Arguments may hold an answer of a model, which must not stop a run. The command is
    the task's own.
    """
    try:
        _check_words(program.argv)
    except ValueError as err:
        if program.argv and _is_word(program.argv[0]):
            return Execution(Ending.REFUSED, None, b"", f"{err}\n".encode())
    return None


def _is_word(text: object) -> bool:
    return isinstance(text, str) and text != "" and "\0" not in text


def check_program(program: Program) -> None:
    """Refuses a program that cannot run.

    Raises:
      ValueError: there is no command; a word has a NUL byte or is too long for the
        kernel; a path leaves the scratch folder, is too long, or is both a file and a
        folder; or the files exceed the scratch folder (in whole memory pages).
    """
    _check_words(program.argv)
    folders: set[str] = set()
    names: set[str] = set()
    for path, content in program.files:
        _check_path(path)
        if path.endswith("/") and content:
            raise ValueError(f"files: the folder {path!r} cannot have content")
        pure = pathlib.PurePosixPath(path)
        folders.update(str(folder) for folder in pure.parents)
        (folders if path.endswith("/") else names).add(str(pure))
    if both := sorted(folders & names):
        raise ValueError(f"files: {both[0]!r} is both a file and a folder")
    most = program.limits.scratch_entries
    if len(folders) + len(names) > most:
        raise ValueError(
            f"files: {len(folders) + len(names)} files and folders are more than "
            f"scratch_entries = {most}"
        )
    size = sum(whole_pages(len(content)) for _, content in program.files)
    if size > program.limits.scratch_bytes:
        raise ValueError(
            f"files: {size} bytes are more than scratch_bytes = "
            f"{program.limits.scratch_bytes}"
        )


def _check_words(argv: tuple[str, ...]) -> None:
    if not argv or not argv[0]:
        raise ValueError("argv: expected a command, got none")
    for word in argv:
        if "\0" in word:
            raise ValueError(f"argv: {word!r:.80} holds a NUL byte")
    try:
        sizes = [len(os.fsencode(word)) + 1 for word in argv]
    except UnicodeEncodeError as err:
        raise ValueError("argv: a word holds half of a surrogate pair") from err
    if max(sizes) > _MAX_WORD_BYTES + 1 or sum(sizes) > _MAX_ARGV_BYTES:
        raise ValueError(
            f"argv: expected at most {_MAX_WORD_BYTES} bytes in a word and "
            f"{_MAX_ARGV_BYTES} in all, got {max(sizes) - 1} and {sum(sizes)}; give "
            "long text as stdin or in files"
        )


def _check_path(path: str) -> None:
    parts = pathlib.PurePosixPath(path).parts
    if not parts or parts[0].startswith("/") or ".." in parts or "\0" in path:
        raise ValueError(
            f"files: expected a path inside the scratch folder, got {path!r}"
        )
    longest = max(len(os.fsencode(part)) for part in parts)
    if longest > _MAX_NAME_BYTES or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ValueError(f"files: the path {path[:80]!r}... is too long")
