"""Tells when a shell that reads from a pipe, or one on a terminal, is ready again.

Pipe: a line typed behind each command prints a mark once the shell comes to it. A
command that asks for input reads that line itself; so it hangs, as it does on a
terminal where nobody answers. The shell is interactive, as the benchmark's is on its
terminal: an error of syntax does not end it, and there are aliases; only `!` is an
ordinary character. Its prompts go to the error output, and so does the mark. They tell
a command that is not complete (a `|` or a backslash at its end), which takes the line
as its rest: that hangs, too.

Terminal: the prompt is back. Part of what runs inside: it imports little.
"""

import posix

COMMAND = ("bash", "--login", "--noediting", "-i")
FIRST_LINE = b" PS1=$'\\036$\\036' PS2=$'\\036>\\036'; set +H\n"
_PROMPT, _REST_PROMPT = b"\x1e$\x1e", b"\x1e>\x1e"
# It would put its terminal right after a command that was ended by a signal.
_NO_TERMINAL = b"] tcsetattr: "
_START = b"bash: ["
_LONGEST = 64  # bytes from its start to there


class Mark:
    """The mark of one turn.

    Attributes:
      line: what is typed.
      complete: whether the command before it was complete, once the mark was printed.
    """

    def __init__(self):
        name = posix.urandom(12).hex()
        self.complete = True
        self._seen = b"\x1e" + name.encode() + b"\x1e"
        # In a group whose errors go nowhere, so that `set -x` does not show it. `$?` is
        # what it was before, which ends nothing under `set -e` as `&&` follows; the
        # space keeps it out of most histories.
        self.line = (
            f" {{ command eval \"command printf '\\036%s\\036' {name} >&9; "
            'test $? = 0 || (exit $?)" && :; } 9>&2 2>/dev/null\n'
        ).encode()

    def split(self, data):
        """Splits `data` into (surely printed, perhaps printed: look again with more).

        The second is None where the mark was printed. Takes time in proportion to the
        data, and gives no more to look at again than one line of ours.
        """
        data = data.replace(self.line, b"")  # `set -v` shows it
        data = _without_terminal_errors(data)
        before, found, _ = data.partition(self._seen)
        prompt, rest_prompt = before.rfind(_PROMPT), before.rfind(_REST_PROMPT)
        if prompt != rest_prompt:
            self.complete = prompt > rest_prompt
        before = before.replace(_PROMPT, b"").replace(_REST_PROMPT, b"")
        if found:
            return before, None
        keep = len(self.line) - 1
        return before[:-keep], before[-keep:]


def _without_terminal_errors(data):
    """The shell says them when it would put its terminal right after a signal."""
    parts, place = [], 0
    while (sign := data.find(_NO_TERMINAL, place)) >= 0:
        start, end = data.rfind(_START, place, sign), data.find(b"\n", sign) + 1
        if end == 0:
            break
        said = 0 <= start and sign - start < _LONGEST and b"\n" not in data[start:sign]
        parts.append(data[place : start if said else end])
        place = end
    return b"".join((*parts, data[place:]))


class Prompt:
    r"""Finds the prompt of a terminal: in one line an escape, an `@`, and an end.

    The same as the pattern `\x1b.+@.+[#|$] `, but each byte is looked at once, however
    the output comes.
    """

    _SIGNS = ((b"\x1b",), (b"@",), (b"# ", b"| ", b"$ "))

    def __init__(self):
        self._begin()

    def _begin(self):
        self._stage = 0  # signs found in this line
        self._skip = 0  # bytes until the next sign may begin
        self._held = b""  # may be the first byte of the last sign

    def add(self, data):
        """Takes more output; whether the prompt has been there."""
        first, *more = data.split(b"\n")
        if self._line(first):
            return True
        for part in more:
            self._begin()
            if self._line(part):
                return True
        return False

    def _line(self, part):
        text, place = self._held + part, self._skip
        while self._stage < len(self._SIGNS):
            places = [text.find(sign, place) for sign in self._SIGNS[self._stage]]
            if max(places) < 0:
                break
            place = min(at for at in places if at >= 0) + 2  # something in between
            self._stage += 1
        last = self._stage == len(self._SIGNS) - 1 and place < len(text)
        self._held = text[-1:] if last else b""
        self._skip = max(0, place - len(text) + len(self._held))
        return self._stage == len(self._SIGNS)
