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
_LONGEST_LINE = 2**16  # bytes of a line in which a prompt is looked for


class Piped:
    """Reads one turn of a shell on pipes, until what is typed last prints a mark."""

    def __init__(self, output):
        name = posix.urandom(12).hex()
        self._output = output
        self._complete = True  # whether the command before the mark is
        self._tail = b""  # not yet known whether it begins the mark
        self._seen = b"\x1e" + name.encode() + b"\x1e"
        # In a group whose errors go nowhere, so that `set -x` does not show it. `$?` is
        # what it was before, which ends nothing under `set -e` as `&&` follows; the
        # space keeps it out of most histories.
        self.line = (
            f" {{ command eval \"command printf '\\036%s\\036' {name} >&9; "
            'test $? = 0 || (exit $?)" && :; } 9>&2 2>/dev/null\n'
        ).encode()

    def add(self, data):
        """Takes output, in time that is proportional to it; how the turn ended."""
        data = (self._tail + data).replace(self.line, b"")  # `set -v` shows it
        before, found, _ = _without_terminal_errors(data).partition(self._seen)
        prompt, rest_prompt = before.rfind(_PROMPT), before.rfind(_REST_PROMPT)
        if prompt != rest_prompt:
            self._complete = prompt > rest_prompt
        before = before.replace(_PROMPT, b"").replace(_REST_PROMPT, b"")
        sure = len(before) if found else max(0, len(before) - len(self.line) + 1)
        self._tail = before[sure:]
        self._output.add(before[:sure], final=bool(found))
        if not found:
            return None
        return "done" if self._complete else "limit"

    def end(self):
        """Nothing follows."""
        self._output.add(self._tail, final=True)


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


class OnTerminal:
    """Reads one turn of a shell on a terminal, without its echo, until a prompt."""

    line = b""

    def __init__(self, output, echo):
        self._output = output
        self._echo = echo
        self._line = b""  # the last one so far

    def add(self, data):
        """Takes output, in time that is proportional to it; how the turn ended."""
        if self._echo:
            _, newline, data = data.partition(b"\n")
            if not newline:
                return None
            self._echo = False
        lines = (self._line + data).split(b"\n")
        self._line = lines[-1][-_LONGEST_LINE:]
        self._output.add(data)
        return "done" if any(map(_has_prompt, lines)) else None

    def end(self):
        """Nothing follows."""
        self._output.add(b"", final=True)


def _has_prompt(line):
    r"""Whether the pattern `\x1b.+@.+[#|$] ` is in a line; looks at each byte once."""
    escape = line.find(b"\x1b")
    at = line.find(b"@", escape + 2)
    ends = (line.find(end, at + 2) for end in (b"# ", b"| ", b"$ "))
    return escape >= 0 and at >= 0 and max(ends) >= 0
