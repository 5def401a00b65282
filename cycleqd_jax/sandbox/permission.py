"""Explains why bubblewrap is not permitted, and how to permit it."""

import subprocess
from pathlib import Path

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.process import end_at_once

START_S = 60.0  # timeout of one start, which takes milliseconds
# Kernel settings that can forbid user namespaces: name -> (forbidding value, remedy).
SWITCHES = {
    "kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "give bwrap an AppArmor profile that allows userns, or run sudo sysctl -w "
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "kernel/unprivileged_userns_clone": (
        "0",
        "run sudo sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    "user/max_user_namespaces": (
        "0",
        "run sudo sysctl -w user.max_user_namespaces=10000",
    ),
}
# For containers whose flags are not the user's to choose, as rented GPUs often are.
_NO_WALL = (
    "; if that cannot be had, sandbox.kind=none runs programs that the model wrote "
    "without any protection, with all rights of this user: for a machine that holds "
    "nothing of value"
)
# Files by which container engines mark their containers.
_CONTAINER_SIGNS = ("/.dockerenv", "/run/.containerenv")
_PERMIT_ALL = (
    "start it with --security-opt seccomp=unconfined --security-opt "
    "apparmor=unconfined --security-opt systempaths=unconfined"
)


def start(command: list[str], content: bytes = b"") -> tuple[int, bytes, bytes]:
    """Runs a command with this input: exit status, standard output, error output.

    Raises:
      BadInputError: it cannot be started, or does not end in time.
    """
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env={}, cwd="/"
        )
    except OSError as error:
        raise BadInputError(
            f"sandbox: {command[0]} is installed but cannot be started "
            f"({error.strerror}); install it again for this machine"
        ) from error
    with process:
        try:
            output, errors = process.communicate(content, timeout=START_S)
        except subprocess.TimeoutExpired:
            end_at_once(process)
            raise BadInputError(
                f"sandbox: {command[0]} did not end within {START_S:g} s; try the "
                "command by hand, and install it again if it hangs there too"
            ) from None
    return process.returncode, output, errors


def remedy(said: str, first_uid: int) -> str:
    """Advice for a machine where bubblewrap is installed but not permitted.

    Args:
      said: the last line that it printed.
      first_uid: first user id of the workers when started as root.
    """
    if "Unknown option" in said:
        return "install bubblewrap 0.8.0 or later"
    if said.startswith("setpriv:"):
        return (
            f"as root it must change to user ids from {first_uid}, which is not "
            "permitted: start as an ordinary user, or give the container these user "
            "ids and the capabilities SETUID and SETGID"
        )
    if "mount proc" in said:
        return (
            "a container covers parts of /proc, so no other /proc may be mounted: "
            "start it with --security-opt systempaths=unconfined (Docker) or "
            f"--security-opt unmask=ALL (Podman){_NO_WALL}"
        )
    in_container = any(Path(sign).exists() for sign in _CONTAINER_SIGNS)
    for name, (forbids, what) in SWITCHES.items():
        file = Path("/proc/sys") / name
        if file.exists() and file.read_text().strip() == forbids:
            inside = f" on the machine that runs this container{_NO_WALL}"
            where = inside if in_container else ""
            return f"{name} is {forbids}, which forbids user namespaces: {what}{where}"
    if in_container:
        return (
            "the container's seccomp or AppArmor profile forbids it: "
            f"{_PERMIT_ALL}{_NO_WALL}"
        )
    return (
        "the kernel, AppArmor or a seccomp filter forbids it: allow unprivileged user "
        f"namespaces, or in a container {_PERMIT_ALL}{_NO_WALL}"
    )
