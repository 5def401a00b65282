"""Hostile programs: what each tries, and how it must end."""

from . import (
    disk,
    kernel,
    memory,
    output,
    processes,
    reading,
    shared,
    signals,
    time,
    writing,
)

THREATS = {
    threat.name: threat
    for threat in (
        *time.TIME,
        *memory.MEMORY,
        *processes.PROCESSES,
        *disk.DISK,
        *output.OUTPUT,
        *reading.READING,
        *writing.WRITING,
        *kernel.KERNEL,
        *signals.SIGNALS,
        *shared.SHARED,
    )
}
