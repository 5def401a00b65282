"""EvalPlus's own verdicts and texts, for comparison; a program of its own.

Standard input and output are marshalled data of the tests.
"""

import marshal
import sys

_CODE = """
OUTPUTS = {!r}
INDEX = iter(range(len(OUTPUTS)))
def {}(*_):
    return OUTPUTS[next(INDEX)]
"""


def verdicts(cases):
    """Whether each output is right; a case is one set of tests of one problem."""
    from evalplus.eval import untrusted_check

    results = []
    for dataset, entry_point, atol, inputs, expected, outputs in cases:
        code = _CODE.format(outputs, entry_point)
        _, details = untrusted_check(
            dataset,
            code,
            inputs,
            entry_point,
            expected,
            atol,
            [0.1] * len(inputs),
        )
        results.append([bool(detail) for detail in details])
    return results


def inputs(cases):
    """The arguments of problems."""
    from evalplus.data.mbpp import mbpp_deserialize_inputs

    return [[list(a) for a in mbpp_deserialize_inputs(*case)] for case in cases]


def legacy(cases):
    """The legacy sanitiser's texts."""
    from evalplus.lecacy_sanitize import sanitize

    return [sanitize(*case) for case in cases]


def extract(cases):
    """The longest stretches that parse."""
    from evalplus.sanitize import code_extract

    return [code_extract(case) for case in cases]


def sanitized(cases):
    """The sanitiser's texts, None where it fails."""
    from evalplus.sanitize import sanitize

    return [sanitize(*case) for case in cases]


if __name__ == "__main__":
    output, sys.stdout = sys.stdout.buffer, sys.stderr
    function = {f.__name__: f for f in (verdicts, inputs, legacy, extract, sanitized)}
    result = function[sys.argv[1]](marshal.loads(sys.stdin.buffer.read()))
    output.write(marshal.dumps(result))
    output.flush()
