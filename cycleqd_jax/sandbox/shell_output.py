"""The beginning of what one turn of a shell printed.

Part of what runs inside: it imports little.
"""

import codecs

KEPT_BYTES = 2**16  # of the output of a script or a turn


class Output:
    """The output of one turn: its beginning, and a flag for valid UTF-8.

    Attributes:
      kept: the first `KEPT_BYTES`.
      valid: whether all bytes so far are UTF-8.
    """

    def __init__(self):
        self.kept = b""
        self.valid = True
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def add(self, data, final=False):
        """Takes more of it; `final` if nothing follows."""
        if len(self.kept) < KEPT_BYTES:
            self.kept += data[: KEPT_BYTES - len(self.kept)]
        if self.valid:
            try:
                self._decoder.decode(data, final)
            except UnicodeDecodeError:
                self.valid = False
