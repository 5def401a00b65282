"""Numbers of the system calls that the sandbox's filter denies or restricts."""

import platform

from cycleqd_jax.sandbox import seccomp


def call_numbers(machine=None):
    """Name -> number on a machine (this one by default); empty if it is unknown."""
    known = seccomp._MACHINES.get(machine or platform.machine())
    if known is None:
        return {}
    rules = {name: rule.numbers for name, rule in seccomp._RULES.items()}
    tables = seccomp._DENIED | seccomp._IDLE | seccomp._ABSENT | rules
    return {name: numbers[known[0]] for name, numbers in tables.items()}
