"""The beginning of what one turn of a shell printed.

Part of what runs inside: it imports little.
"""

import codecs

KEPT_BYTES = 2**16  # of the output of a script or a turn


class Output:
    """The output of one turn: its first `most` bytes, and whether all of it is UTF-8.

    With `ends` the turn ends when there is more.
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
