"""Fingerprints of named arrays: equal content, equal text, on every machine."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np


def hash_arrays(arrays: Mapping[str, np.ndarray], settings: object = None) -> str:
    """SHA-256 over names, dtypes, shapes and little-endian bytes of arrays.

    Args:
      arrays: name -> array of any shape and dtype (bfloat16 too); on any device.
        The order of the mapping does not matter.
      settings: anything JSON can write, hashed along; mapping order is ignored.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        head = json.dumps([name, array.dtype.name, list(np.shape(arrays[name]))])
        digest.update(head.encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
