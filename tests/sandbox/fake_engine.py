"""A program that pretends to be Podman or Docker; its state is in its own folder.

`make` puts it there. Containers are files; commands in them run on this machine. The
scripts that set up a world (`container_look`) run with a folder in place of
/run/cycleqd, and without mounting.
"""

import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import time

INFO = {
    "host": {"cgroupVersion": "v2", "security": {"rootless": False}},
    "store": {"graphDriverName": "overlay"},
}
_STEERING = (
    "ld.so.* alternatives nsswitch.conf environment locale.alias pam.* security "
    "sudo.conf python[0-9]*"
).split()
# What the scripts do with mounts and capabilities is left out.
_HARMLESS = """
mkdir() { :; }
mount() { printf '%s\\n' "$*" >>"$FAKE/mounts"; }
setpriv() { while [ "$1" != -- ]; do shift; done; shift; "$@"; }
chroot() { shift; "${@/#HOME=\\/root/HOME=$FAKE}"; }
export -f chroot
"""


def make(folder: pathlib.Path, name: str = "podman") -> "FakeEngine":
    """One in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(
        f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {folder} "$@"\n'
    )
    (folder / name).chmod(0o755)
    fake = FakeEngine(folder, name)
    fake.says("info", INFO)
    fake.says("image", [{"Config": {"Volumes": None}}])
    _copy_system(folder / "tree")
    (folder / ".bash_profile").write_text("PS1=$'\\033]0;a@b# '\n")  # as Ubuntu's
    return fake


def _copy_system(tree: pathlib.Path) -> None:
    """Makes what an episode that changed nothing leaves, as far as it matters."""
    for name in ("etc", "usr", "proc", "dev", "sys"):
        (tree / name).mkdir(parents=True)
    names = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
    paths = [f"/{name}" for name in names]
    paths += [f"/usr/{name}" for name in (*names, "libexec", "etc", "local")]
    for pattern in ("lib", "bin", "sbin", "bin/*", "sbin/*"):
        paths += map(str, pathlib.Path("/usr/local").glob(pattern))
    for pattern in _STEERING:
        paths += map(str, pathlib.Path("/etc").glob(pattern))
    for path in paths:
        place = pathlib.Path(f"{tree}{path}")
        if os.path.islink(path):
            place.symlink_to(os.readlink(path))
        elif os.path.isdir(path):
            place.mkdir()
        elif os.path.exists(path):
            place.touch()


class FakeEngine:
    """How a test sees it.

    Attributes:
      folder: where it is.
      command: that starts it.
    """

    def __init__(self, folder: pathlib.Path, name: str):
        self.folder = folder
        self.command = str(folder / name)

    def says(self, verb: str, content: object) -> None:
        """What it answers, as JSON."""
        (self.folder / f"{verb}.json").write_text(json.dumps(content))

    def fails(self, verb: str, said: str = "it is broken", late_s: float = 0) -> None:
        """Makes calls fail, after some time."""
        (self.folder / f"{verb}.fail").write_text(json.dumps([said, late_s]))

    def waits(self, verb: str, late_s: float) -> None:
        """Makes calls take some time."""
        self.fails(verb, "", late_s)

    def works(self, verb: str) -> None:
        """Makes calls work again."""
        (self.folder / f"{verb}.fail").unlink()

    def calls(self) -> list[list[str]]:
        """All calls so far."""
        log = self.folder / "log"
        return [json.loads(line) for line in log.read_text().splitlines()]

    def containers(self) -> set[str]:
        """Those that are there."""
        return {path.stem for path in self.folder.glob("*.container")}

    def add(self, name: str, label: str) -> None:
        """Adds a container with a label."""
        text = json.dumps({"label": label, "pids": [], "flags": []})
        (self.folder / f"{name}.container").write_text(text)

    def set_up(self, script: str, *words: str) -> str:
        """What a script that sets up a world says to us; `word` begins its lines."""
        done = subprocess.run(
            ["bash", "-c", _harmless(self.folder, script), "bash", "word", *words],
            env=os.environ | {"FAKE": str(self.folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return done.stderr


def _harmless(folder, script):
    script = script.replace("/run/cycleqd", str(folder))
    return _HARMLESS + script.replace("exec setpriv", "setpriv")


def main(folder, words):
    """One call."""
    words = [word for word in words if word != "--log-level=error"]
    words = words[2:] if words[0] == "--host" else words
    with open(f"{folder}/log", "a") as log:
        log.write(json.dumps(words) + "\n")
    verb, *rest = words
    if os.path.exists(f"{folder}/{verb}.fail"):
        with open(f"{folder}/{verb}.fail") as file:
            said, late_s = json.load(file)
        time.sleep(late_s)
        if said:
            sys.exit(f"Error: {said}")
    flags = [word for word in rest if word.startswith("--")]
    if verb in ("info", "image"):
        with open(f"{folder}/{verb}.json") as file:
            print(file.read())
    elif verb == "ps":
        print(*(n[:-10] for n in os.listdir(folder) if n.endswith(".container")))
    elif verb == "run":
        _run(folder, rest)
    elif verb == "exec":
        _exec(folder, rest)
    elif verb in ("pause", "inspect", "rm"):
        name = next(word for word in rest if not word.startswith("--"))
        path = f"{folder}/{name}.container"
        if not os.path.exists(path):
            sys.exit(f"Error: no container {name}: {flags}")
        with open(path) as file:
            container = json.load(file)
        if verb == "inspect":
            print(json.dumps([_known(folder, container)]))
        if verb == "rm":
            for pid in container["pids"]:
                os.killpg(pid, signal.SIGKILL)
            os.unlink(path)


def _known(folder, container):
    return {
        "Config": {"Labels": {"cycleqd.run": container["label"]}},
        "GraphDriver": {"Data": {"MergedDir": f"{folder}/tree"}},
        "HostsPath": "/etc/hosts",
        "HostnamePath": "",
        "ResolvConfPath": "",
    }


def _run(folder, words):
    given = dict(w.removeprefix("--").split("=", 1) for w in words if "=" in w[:20])
    container = {"label": given["label"].partition("=")[2], "pids": []}
    place = words.index(next(w for w in words if w.startswith("--entrypoint")))
    path = f"{folder}/{given['name']}.container"
    if "--detach" in words:
        with open(path, "w") as file:
            json.dump(container, file)
        return
    _, script, *rest = words[place + 2 :]
    process = subprocess.Popen(
        ["bash", "-c", _harmless(folder, script), *rest],
        env=os.environ | {"FAKE": folder},
        start_new_session=True,
    )
    container["pids"] = [process.pid]
    with open(path, "w") as file:
        json.dump(container, file)
    status = process.wait()
    os.unlink(path)
    sys.exit(status if status >= 0 else 128 - status)


def _exec(folder, words):
    flags = []
    while words[0].startswith("--"):
        flags.append(words.pop(0))
    _, *command = words
    given = (flag.partition("=")[2] for flag in flags if flag.startswith("--env="))
    os.environ.clear()
    os.environ.update(pair.split("=", 1) for pair in given)
    os.environ["HOME"] = folder  # a login shell reads .bash_profile there
    if "--tty" in flags:
        sys.exit(os.waitstatus_to_exitcode(pty.spawn(command)))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
