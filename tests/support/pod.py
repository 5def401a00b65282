"""Runs of the command in several processes on the CPUs of this host."""

import os
import pathlib
import socket
import subprocess
import sys

SUPPORT = pathlib.Path(__file__).parent


def start(
    folder: pathlib.Path | list[pathlib.Path],
    *arguments: str,
    processes: int = 1,
    devices: int = 1,
) -> list[subprocess.Popen]:
    """Starts the processes of one run, each with so many simulated devices.

    `python -m experiments.agent_skills *arguments` in a folder, or in one of
    its own for each; or what the first argument names if it is a script.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    script = arguments[0].endswith(".py")
    command = [] if script else ["-m", "experiments.agent_skills"]
    common = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, (SUPPORT.parents[1], SUPPORT))),
    }
    if processes > 1:
        common |= {"JAX_COORDINATOR_ADDRESS": address}
        common |= {"JAX_NUM_PROCESSES": str(processes)}
    return [
        subprocess.Popen(
            [sys.executable, "-u", *command, *arguments],
            cwd=folder[index] if isinstance(folder, list) else folder,
            env=common | ({"JAX_PROCESS_ID": str(index)} if processes > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]


def finish(processes: list[subprocess.Popen], timeout: float = 900) -> list[tuple]:
    """Exit code, standard output and standard error of each."""
    try:
        texts = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]
