"""Hashes of the source code that decides verdicts: judges, sandbox, users' modules.

Files of this package are named relative to it and other modules by their import name,
so nothing depends on where they are installed. A hash is the first 16 hexadecimal
digits of a file's SHA-256.
"""

import functools
import hashlib
import os
import pathlib
import sys

import cycleqd_jax
from cycleqd_jax.errors import BadInputError

_PACKAGE = pathlib.Path(cycleqd_jax.__file__).parent
# Files of tasks/ and sandbox/ that do not decide a verdict: they look up tasks,
# download data, choose a sandbox, explain why there is none, or return a stored result.
_NO_JUDGES = (
    "tasks/registry.py",
    "tasks/published.py",
    "sandbox/make.py",
    "sandbox/permission.py",
    "sandbox/memo.py",
)


def shared_judges() -> dict[str, str]:
    """File -> hash of the code that all tasks share: `tasks/*.py` and `sandbox/`."""
    shared = [*(_PACKAGE / "tasks").glob("*.py"), *_files(_PACKAGE / "sandbox")]
    return _hash_files(shared)


def task_judges(kind: type) -> dict[str, str]:
    """File or module -> hash of the code that judges one task, without what is shared.

    Args:
      kind: the class of the task. For it and for each base class, the result has all
        files of its folder in `tasks/`, or its module if it is not in this package.

    Raises:
      BadInputError: a module has no file.
    """
    found = own_modules(kind)
    for base in kind.__mro__:
        if base.__module__.startswith("cycleqd_jax.tasks."):
            # A class in a file of tasks/ has no folder; `shared_judges` has the file.
            folder = _PACKAGE / "tasks" / base.__module__.split(".")[2]
            found |= _hash_files(_files(folder))
    return found


def own_modules(kind: type) -> dict[str, str]:
    """Module -> hash, for a class and its bases outside Python and this package.

    Raises:
      BadInputError: a module has no file.
    """
    found = {}
    for name in dict.fromkeys(base.__module__ for base in kind.__mro__):
        root = name.partition(".")[0]
        if root == "cycleqd_jax" or root in sys.stdlib_module_names:
            continue
        path = getattr(sys.modules.get(name), "__file__", None)
        if path is None:
            raise BadInputError(
                f"{kind.__name__}: its module {name} has no file, but a run keeps a "
                "hash of the source; put the class into a file."
            )
        found[name] = _hash_file(pathlib.Path(path))
    return found


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files below a folder, without Python's cache and hidden files."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.parent.name != "__pycache__"
        and not path.name.startswith(".")
    ]


def _hash_files(paths: list[pathlib.Path]) -> dict[str, str]:
    found = {path.relative_to(_PACKAGE).as_posix(): path for path in sorted(paths)}
    return {n: _hash_file(p) for n, p in found.items() if n not in _NO_JUDGES}


def _hash_file(path: pathlib.Path) -> str:
    status = path.stat()
    return _hash_version(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1024)
def _hash_version(path: os.PathLike[str], mtime_ns: int, size: int) -> str:
    """The hash of one version of a file, which is read once."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]
