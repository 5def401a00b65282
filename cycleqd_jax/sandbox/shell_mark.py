"""How one sees that a shell which reads from a pipe is ready again.

A line typed behind each command prints a mark once the shell comes to it. A command
that asks for input reads that line itself; so it hangs, as it does on a terminal where
nobody answers.

The shell is interactive, as the benchmark's is on its terminal: an error of syntax does
not end it, and there are aliases; only `!` is an ordinary character. Its prompts go to
the error output, and so does the mark. They tell a command that is not complete (a `|`
or a backslash at its end), which takes the line as its rest: that hangs, too.
"""

import os
import re

COMMAND = ("bash", "--login", "--noediting", "-i")
FIRST_LINE = b" PS1=$'\\036$\\036' PS2=$'\\036>\\036'; set +H\n"
# It would put its terminal right after a command that was ended by a signal.
_NO_TERMINAL = re.compile(rb"bash: \[\d+: \d+ \(\d+\)\] tcsetattr: [^\n]*\n")
_PROMPT, _REST_PROMPT = b"\x1e$\x1e", b"\x1e>\x1e"


class Mark:
    """The mark of one turn.

    Attributes:
      line: what is typed.
      complete: whether the command before it was complete, once the mark was printed.
    """

    def __init__(self):
        name = os.urandom(12).hex()
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
        """What was printed of `data`: (for sure, perhaps but look again with more).

        The second is None where the mark was printed.
        """
        data = data.replace(self.line, b"")  # `set -v` shows it
        data = _NO_TERMINAL.sub(b"", data)
        before, found, _ = data.partition(self._seen)
        prompt, rest_prompt = before.rfind(_PROMPT), before.rfind(_REST_PROMPT)
        if prompt != rest_prompt:
            self.complete = prompt > rest_prompt
        before = before.replace(_PROMPT, b"").replace(_REST_PROMPT, b"")
        if found:
            return before, None
        keep = len(self.line) - 1
        return before[:-keep], before[-keep:]
