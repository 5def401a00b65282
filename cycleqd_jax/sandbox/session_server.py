"""Starts sessions: a small process that forks one supervisor for each.

The library starts it once (see `session`), because forking a small interpreter takes a
millisecond and starting one twenty. It reads requests from a socket: one JSON object
each, with the supervisor's end of the session's own socket and, with an image, the
image's folder as descriptors. When the library is gone, so is this.

Started as root, each session gets a range of 65536 user ids of its own, none of them
root outside; started as an ordinary user, one: root inside is that user outside.
"""

import gc
import json
import os
import resource
import select
import signal
import socket
import sys

from cycleqd_jax.sandbox import session_kernel as kernel
from cycleqd_jax.sandbox.session_messages import send
from cycleqd_jax.sandbox.session_supervisor import Supervisor

MAX_REQUEST_BYTES = 2**16
FIRST_UID = 1_900_000_000  # of a range that nobody gives out
_SERVERS, _PLACES = 50, 64  # ranges for so many, and of each
RANGE = 65536
_NAMESPACES = (
    kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)


def main():
    """Serves until the socket that is standard input is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel.die_with_parent()
    kernel.rename_process("init")
    control = socket.socket(fileno=os.dup(0))
    os.set_inheritable(control.fileno(), False)
    poller = select.poll()
    poller.register(control, select.POLLIN)
    children = {}
    gc.freeze()  # so that a collection does not touch, and copy, all of these pages
    while True:
        # A child that has ended is waited for at the next request at the latest.
        poller.poll(200 if children else None)
        _reap(children)
        if not poller.poll(0):
            continue
        data, fds, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, 2)
        if not data:
            break
        request = json.loads(data)
        sock = socket.socket(fileno=fds[0])
        image_fd = fds[1] if len(fds) > 1 else None
        try:
            pid = _start(request, sock, image_fd, control)
            children[pid] = request["slot"]
        except (OSError, RuntimeError) as error:
            _say(sock, error)
        finally:
            sock.close()
            if image_fd is not None:
                os.close(image_fd)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _say(sock, error):
    try:
        send(sock, {"error": f"{error}"})
    except OSError:
        pass


def _reap(children):
    try:
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            children.pop(pid, None)
    except ChildProcessError:
        pass


def _start(request, sock, image_fd, control):
    """Forks a session's outer process, and gives it its user ids and trees."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Limits of processes count by user, so two servers should not share their users.
    place = os.getpid() % _SERVERS * _PLACES + request["slot"]
    first_uid = FIRST_UID + place * RANGE if request["as_root"] else None
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            control.close()
            here.close()
            status = _outer(request, sock, image_fd, there, first_uid)
        except BaseException as error:  # noqa: BLE001 - told to the library
            _say(sock, error)
        finally:
            os._exit(status)
    there.close()
    trees = []
    try:
        if here.recv(16) != b"unshared":
            raise RuntimeError("a user namespace could not be made")
        _map_ids(pid, first_uid)
        names = []
        if first_uid is not None:
            names, trees = _trees(request, pid, image_fd)
        socket.send_fds(here, [json.dumps(names).encode()], trees)
    except (OSError, RuntimeError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        here.close()
        for fd in trees:
            os.close(fd)
    return pid


def _map_ids(pid, first_uid):
    """Maps the user and group ids of a child's user namespace."""
    folder = f"/proc/{pid}"
    if first_uid is None:
        _write(f"{folder}/setgroups", "deny")
        _write(f"{folder}/gid_map", f"0 {os.getegid()} 1")
        _write(f"{folder}/uid_map", f"0 {os.geteuid()} 1")
        return
    _write(f"{folder}/gid_map", f"0 {first_uid} {RANGE}")
    _write(f"{folder}/uid_map", f"0 {first_uid} {RANGE}")


def _trees(request, pid, image_fd):
    """(Names, descriptors) of mounts whose owners are those of the namespace."""
    name, folder = "usr", "/usr"
    if request["image"]:
        name, folder = "image", f"/proc/self/fd/{image_fd}"
    userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return [name], [kernel.mapped_tree(folder, userns)]
    except OSError as error:
        if request["overlay"]:
            raise RuntimeError(
                f"the owners of {folder} cannot be mapped ({error}); Linux 5.19 or "
                "later and a file system like ext4, xfs or btrfs are needed"
            ) from error
        return [], []
    finally:
        os.close(userns)


def _outer(request, sock, image_fd, there, first_uid):
    """The outer process: makes the namespaces, and waits for process 1 in them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    processes = request["limits"]["processes"]
    if first_uid is not None:
        try:
            os.setgroups([])
            os.setresgid(first_uid, first_uid, first_uid)
            os.setresuid(first_uid, first_uid, first_uid)
        except OSError as error:
            raise OSError(f"setpriv: {error}") from error
        # What is set when the namespace is made bounds all of it together.
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    kernel.unshare(kernel.CLONE_NEWUSER)
    there.send(b"unshared")
    data, fds, _, _ = socket.recv_fds(there, 4096, 2)
    there.close()
    trees = dict(zip(json.loads(data), fds, strict=True))
    kernel.die_with_parent()
    kernel.unshare(_NAMESPACES)
    pid = os.fork()
    if pid:
        sock.close()
        _, status = os.waitpid(pid, 0)
        return 0 if status == 0 else 1
    kernel.die_with_parent()
    kernel.be_private(True)
    try:
        kernel.unshare(kernel.CLONE_NEWNS)
        supervisor = Supervisor(sock, request, trees, image_fd)
        send(sock, {})
    except OSError as error:
        _say(sock, error)
        return 1
    supervisor.serve()
    return 0


def _write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
    sys.exit(0)
