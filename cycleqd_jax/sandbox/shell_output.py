"""The beginning of what one turn of a shell printed.

Part of what runs inside: it imports little.
"""

import codecs

KEPT_BYTES = 2**16  # of the output of a script or a turn


class Output:
    """The output of one turn: its beginning, and a flag for valid UTF-8.

    Args:
      most: bytes that are kept.
      ends: whether the turn ends when there are more.

    Attributes:
      kept: the first `most` bytes.
      valid: whether all bytes so far are UTF-8.
    """

    def __init__(self, most: int = KEPT_BYTES, *, ends: bool = False):
        self._most = most
        self._ends = ends
        self.kept = b""
        self.valid = True
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def add(self, data, final=False):
        """Takes more of it, `final` if nothing follows; "output" if it ends here."""
        if self._ends and len(self.kept) + len(data) > self._most:
            self.kept += data[: self._most - len(self.kept)]
            return "output"
        if len(self.kept) < self._most:
            self.kept += data[: self._most - len(self.kept)]
        if self.valid:
            try:
                self._decoder.decode(data, final)
            except UnicodeDecodeError:
                self.valid = False
        return None
