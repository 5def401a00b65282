r"""Writes what PySODMetrics says of the cases; run where it is installed.

It wants an older NumPy than this package, so it needs an environment of its own:
    python -m venv oracle && oracle/bin/pip install pysodmetrics==1.6.2
    oracle/bin/python tests/support/measure_golden.py \
        tests/tasks/segmentation/measures.json
"""

import json
import math
import pathlib
import sys

from measure_cases import cases


def oracle(prediction, mask) -> dict[str, float]:
    """S-measure and Jaccard index of one pair."""
    from py_sod_metrics import FmeasureV2, IOUHandler, Smeasure

    structure, normalize = Smeasure(), prediction.dtype == "uint8"
    jaccard = FmeasureV2({"iou": IOUHandler(False, False, with_binary=True)})
    if normalize:  # then it wants both in uint8
        mask = mask.astype("uint8") * 255
    for measure in (structure, jaccard):
        measure.step(prediction, mask, normalize=normalize)
    return {
        "structure": float(structure.get_results()["sm"]),
        "jaccard": float(jaccard.get_results()["iou"]["binary"]),
    }


def known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


if __name__ == "__main__":
    values = {name: oracle(*pair) for name, pair in cases().items()}
    # NaN where the centroid is in the last row or column: a rectangle is empty.
    values = {
        n: {m: v if v == v else None for m, v in d.items()} for n, d in values.items()
    }
    rows = (f"{json.dumps(n)}: {json.dumps(v)}" for n, v in values.items())
    pathlib.Path(sys.argv[1]).write_text("{\n" + ",\n".join(rows) + "\n}\n")
