"""The files of an image of Podman or Docker, in a folder of the user's cache.

A shell with an image is a shell like any other, on these files. The engine makes a
container, which never runs, hands out its files and removes it; then it is not needed
any more. A script does that, which goes on to its end when we are killed: it leaves a
whole folder or none, and no container.
"""

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import cache_folder
from cycleqd_jax.sandbox.holder import has_subordinate_ids
from cycleqd_jax.sandbox.host import is_root

ENGINES = ("podman", "docker")
ANSWER_S = 60  # in which an engine says something; it takes tenths of a second
EXPORT_S = 1800  # for each step that moves files
_EXPORT = r"""
set -o pipefail
image=$1 place=$2 limit=$3 inside=$4 owners=$5
part=$place.$$ made=
shift 5
engine=("$@")
call() {
    timeout --kill-after=9 "$limit" "${engine[@]}" "$@" && return
    [ $? != 124 ] || echo "no answer within $limit s" >&2
    return 1
}
unpack() { tar -x -p $owners --exclude={,./}dev/'*' -C "$part"; }
finish() {
    [ -z "$made" ] || call rm --force "$made" >&2
    $inside rm -rf "$part"
}
trap finish EXIT
export -f unpack
export part owners
made=$(call create --pull=never --network=none "$image" true) &&
    mkdir -p -m 700 "${place%/*}" && mkdir "$part" &&
    call export "$made" | $inside bash -c unpack && mv -T "$part" "$place"
"""
_AS_MANY = "unshare --user --map-root-user --map-auto --"


def image_folder(image: str, engine: str | None) -> tuple[str, Path]:
    """The id of an image, and the folder with its files.

    Args:
      image: name of an image that an engine has.
      engine: its command and first arguments; None for the first that has the image.

    Raises:
      BadInputError: no engine has it, or its files cannot be had; says why.
    """
    words, found = _find(image, engine)
    if is_root():
        inside, owners = "", "--numeric-owner"
    elif has_subordinate_ids():
        inside, owners = _AS_MANY, "--numeric-owner"
    else:
        inside, owners = "", "--no-same-owner"
    kind = f"{os.geteuid()}-{'many' if inside else 'own'}"
    place = cache_folder("cycleqd_jax", "images", f"{found}-{kind}")
    if not place.is_dir():
        given = (found, str(place), str(EXPORT_S), inside, owners)
        with tempfile.TemporaryFile() as errors:
            words = ["bash", "-c", _EXPORT, "bash", *given, *words]
            _run(words, stdout=errors, stderr=errors)
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
        if not place.is_dir():  # it may also be another run that made it
            # Unpacking fails, too, where the engine did.
            said = [line for line in lines if not line.startswith("tar:")] or lines
            why = said[-1] if said else "no reason is given"
            raise BadInputError(
                f"sandbox: the files of the image {image!r} could not be written to "
                f"{place} ({why}); check the engine, and the room there"
            )
    return found, place


def _find(image: str, engine: str | None) -> tuple[list[str], str]:
    """The command of an engine that has the image, and the image's id.

    Raises:
      BadInputError: none has it.
    """
    choices = [[program] for program in ENGINES]
    if engine is not None:
        try:
            given = shlex.split(engine)
        except ValueError:  # a quote without its other
            given = []
        if not given or "://" in given[0]:
            address = given[0] if given else "ADDRESS"
            raise BadInputError(
                f"sandbox: engine is {engine!r}, expected a command, like podman, or "
                f"docker --host {address}"
            )
        choices = [given]
    failures = []
    for words in choices:
        ask = [*words, "image", "inspect", "--format={{.Id}}", image]
        try:
            done = _run(ask, capture_output=True, timeout=ANSWER_S)
        except FileNotFoundError:
            failures.append(f"{words[0]} (not on PATH)")
        except (OSError, subprocess.TimeoutExpired) as error:
            failures.append(f"{words[0]} ({error})")
        else:
            said = done.stdout.decode(errors="replace").strip()
            if found := re.fullmatch(r"(?:sha256:)?([0-9a-f]{12,64})", said):
                return words, found[1]
            why = done.stderr.decode(errors="replace").strip()[-300:]
            failures.append(f"{words[0]} ({why or 'it names no id'})")
    raise BadInputError(
        f"sandbox: no engine has the image {image!r}: {', '.join(failures)}; pull or "
        "import it first, install podman or start the service of Docker, or choose the "
        "backend host"
    )


def _run(words: Sequence[str], **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        words, stdin=subprocess.DEVNULL, start_new_session=True, check=False, **more
    )
