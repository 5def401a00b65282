"""A program that pretends to be Podman or Docker; its state is in its own folder.

`make` puts it there. It has one image, whose files are in `root`.
"""

import pathlib

ID = "5eed" * 16
_PROGRAM = """#!/bin/bash
cd {folder}
printf '%s\\n' "$*" >>log
while [[ $1 == --* ]]; do shift 2; done
if [ -e "fail-$1" ]; then
    read -r late said <"fail-$1"
    sleep "$late"
    [ -z "$said" ] || {{ echo "Error: $said" >&2; exit 125; }}
fi
for last; do :; done
case $1 in
    image) [ "$last" = image ] || {{ echo "no such image: $last" >&2; exit 1; }}
        cat id;;
    create) made=c$RANDOM$RANDOM; touch "$made.container"; echo "$made";;
    export) tar -C root -c .;;
    rm) rm -f "$last.container";;
    *) exit 125;;
esac
"""


def make(folder: pathlib.Path, name: str = "podman") -> "FakeEngine":
    """One in this folder, with an image that is called `image`."""
    (folder / "root/etc").mkdir(parents=True)
    (folder / "root/dev").mkdir()
    (folder / "root/etc/who").write_text("the image\n")
    (folder / "id").write_text(f"sha256:{ID}\n")
    (folder / "log").touch()
    (folder / name).write_text(_PROGRAM.format(folder=folder))
    (folder / name).chmod(0o755)
    return FakeEngine(folder, name)


class FakeEngine:
    """How a test sees it.

    Attributes:
      folder: where it is.
      command: that starts it.
    """

    def __init__(self, folder: pathlib.Path, name: str):
        self.folder = folder
        self.command = str(folder / name)

    def fails(self, verb: str, said: str = "it is broken", late_s: float = 0) -> None:
        """Makes calls fail, after some time; without `said` they are only late."""
        (self.folder / f"fail-{verb}").write_text(f"{late_s} {said}\n")

    def works(self, verb: str) -> None:
        """Makes calls work again."""
        (self.folder / f"fail-{verb}").unlink()

    def calls(self) -> list[str]:
        """All calls so far."""
        return (self.folder / "log").read_text().splitlines()

    def containers(self) -> list[str]:
        """Those that are there."""
        return [path.stem for path in self.folder.glob("*.container")]
