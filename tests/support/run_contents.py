"""What a run folder promises to be the same, byte for byte, however it was killed."""

import json
import pathlib
import re

from cycleqd_jax.runs import sums
from cycleqd_jax.runs.folder import PARTS

# Not promised to be equal: wall times, the machine, whose lock it was.
UNPROMISED = {"timing.jsonl", "run.json", "lock"}


def contents(run: pathlib.Path) -> dict[str, bytes]:
    """Every promised file by name; wall times are taken out of the report."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and name not in UNPROMISED and not name.startswith("times/"):
            found[name] = path.read_bytes()
    report = json.loads(found["report/report.json"])
    del report["timing"]
    found["report/report.json"] = json.dumps(report).encode()
    page = found["report/report.html"].decode()
    found["report/report.html"] = re.sub(r'<[^>]*id="wall-time".*', "", page).encode()
    return found


def seal(run: pathlib.Path) -> None:
    """Gives all files their checksums, as if the run had written them as they are."""
    for folder in (run, *(run / kind for kind in PARTS if kind != "times")):
        for path in [
            *folder.glob("*.parquet"),
            run / "config.yaml",
            run / "basis.json",
        ]:
            if path.is_file():
                sums.write(path, path.read_bytes())


def differences(got: dict[str, bytes], want: dict[str, bytes]) -> list[str]:
    """One line per file that is only in one of the two, or not the same."""
    lines = []
    for name in sorted(got.keys() | want.keys()):
        if name not in got or name not in want:
            lines.append(f"{name}: {'too many' if name in got else 'missing'}")
        elif got[name] != want[name]:
            lines.append(f"{name}: other bytes")
    return lines
