"""The reference's pickle: nothing in it is called, and what is wrong is told."""

import os
import pathlib
import pickle
import time

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.os_interaction import reference
from tests.tasks.os_interaction.reference_files import (
    CONFIGS,
    MODULE,
    OSInteractionSample,
    classes_known,
    make,
    samples,
    write,
)


class Call:
    """Pickled as a call of what may be a call itself."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call

    def __call__(self):
        raise AssertionError("only there for the pickler, which wants a function")


CALLS = {
    "system": lambda path: Call(os.system, f"touch {path}"),
    "eval": lambda path: Call(eval, f"open({str(path)!r}, 'w').close()"),
    "getattr": lambda path: Call(Call(getattr, pathlib.Path(path), "touch")),
    "in_a_field": lambda path: OSInteractionSample(
        Call(os.system, f"touch {path}"), CONFIGS[0]
    ),
}


@pytest.mark.parametrize("name", sorted(CALLS))
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_what_a_pickle_calls_is_not_called(tmp_path, name, protocol):
    touched = tmp_path / "touched"
    folder = write(tmp_path, [CALLS[name](str(touched))], protocol)
    with pytest.raises(BadInputError, match=r"samples\.pkl: expected the published"):
        make(folder)
    assert not touched.exists()
    with classes_known():
        pickle.loads((folder / "samples.pkl").read_bytes())
    assert touched.exists()


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def named(name: str) -> bytes:
    return text(MODULE) + text(name) + b"\x93"


SAMPLE = named("OSInteractionSample")
# A tuple of the same tuple twice, 60 deep: its hash would take 2 ** 60 steps.
DEEP = (
    b")"
    + b"\x94h\x00\x86"
    + b"".join(b"\x94h" + bytes([n]) + b"\x86" for n in range(1, 60))
)
HOSTILE = {
    "dotted_name": b"\x80\x04" + named("os.system") + b".",
    "dotted_class": b"\x80\x04" + named("JudgeConfig.__init__.__globals__") + b".",
    "name_no_text": b"\x80\x04]]\x93.",
    "call_of_its_class": b"\x80\x04" + SAMPLE + b")R.",
    "new_with_arguments": b"\x80\x04" + SAMPLE + text("a") + b"\x85\x81.",
    "new_of_nothing": b"\x80\x04])\x81.",
    "inst": b"\x80\x04(ios\nsystem\n.",
    "obj": b"\x80\x04(" + SAMPLE + b"o.",
    "persistent": b"\x80\x04Psomething\n.",
    "extension": b"\x80\x04\x82\x01.",
    "changes_the_class": b"\x80\x04" + SAMPLE + b"}" + text("a") + b"Nsb.",
    "state_of_two": b"\x80\x04" + SAMPLE + b")\x81}}\x86b.",
    "state_from_fields": b"\x80\x04"
    + SAMPLE
    + b")\x81}"
    + text("__setstate__")
    + SAMPLE
    + b"sb}b.",
    "memo": b"\x80\x04]r\xff\xff\xff\x7f.",
    "not_remembered": b"\x80\x04j\xff\xff\xff\x7f.",
    "long_text": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
    "long_text_32": b"\x80\x04X\xff\xff\xff\xffab.",
    "long_frame": b"\x80\x04\x95" + b"\xff" * 8 + b".",
    "long_number": b"\x80\x04\x8b\xff\xff\xff\x7f.",
    "deep_key": b"\x80\x04}(" + DEEP + b"Nu.",
    "deep_item": b"\x80\x04}" + DEEP + b"Ns.",
    "nested_key": b"\x80\x04})" + b"\x85" * 10**6 + b"Ns.",
    "long_list": b"\x80\x04](" + b"N" * 2000 + b"e.",
    "list_grown_long": b"\x80\x04]" + b"Na" * 2000 + b".",
    "half_a_character": b"\x80\x04\x8c\x03\xed\xa0\x80.",
    "empty": b"",
    "no_pickle": b"404: Not Found",
    "underflow": b"\x80\x04.",
    "no_mark": b"\x80\x04]e.",
    "odd_items": b"\x80\x04}(" + text("a") + b"u.",
    "append_to_a_text": b"\x80\x04" + text("a") + b"Na.",
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_pickle_is_refused_at_once(tmp_path, name):
    folder = write(tmp_path, HOSTILE[name])
    started = time.process_time()
    with pytest.raises(BadInputError, match=r"samples\.pkl: expected the published"):
        make(folder)
    assert time.process_time() - started < 5


def test_a_pickle_that_was_cut_off_is_refused(tmp_path):
    content = (write(tmp_path, samples()) / "samples.pkl").read_bytes()
    for length in range(len(content)):
        with pytest.raises(BadInputError, match="cut off"):
            reference.read_samples(write(tmp_path, content[:length]) / "samples.pkl")


def test_a_file_that_is_far_too_large_is_refused(tmp_path):
    folder = write(tmp_path, b"\x80\x04")
    with (folder / "samples.pkl").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadInputError, match="more than 4194304 bytes"):
        make(folder)


def myself():
    """A list that holds itself, and more: to print it would take for ever."""
    made = []
    made += [made] * 1000
    return made


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.clear(), "has no sample; .* curl "),
        (lambda s: s.__setitem__(1, None), "sample 1: expected an object of class "),
        (lambda s: s.__setitem__(1, s[0].config["config"]), "OSInteractionSample"),
        (lambda s: s[1].config.pop("config"), "sample 1, config: .*JudgeConfig"),
        (lambda s: s[1].__dict__.pop("config"), "sample 1: the field 'config'"),
        (lambda s: s[1].__dict__.pop("index"), "sample 1: the field 'index'"),
        (lambda s: s[1].__dict__.update(index=0), "the index 0 is there twice"),
        (lambda s: s[1].__dict__.update(problem=[]), "does not end with its descrip"),
        (lambda s: s[1].__dict__.update(problem=[1]), "no list of messages"),
        (lambda s: s[1].__dict__.update(problem=[{}]), "the field 'role' is missing"),
        (lambda s: s[1].problem.pop(0), "its prompt is not that of the others"),
        (lambda s: s[1].problem.pop(), "does not end with its description"),
        (
            lambda s: s[1].config["config"].__dict__.update(init_script=[("perl", "")]),
            "sample 1: expected a script",
        ),
        (
            lambda s: s[1].config["config"].__dict__.update(init_script=[myself()]),
            "sample 1: expected a script",
        ),
        (
            lambda s: s[1].config["config"].__dict__.update(start=("bash", "\0")),
            "sample 1: expected a script",
        ),
        (
            lambda s: s[1].config["config"].__dict__.update(match=None),
            "sample 1: expected either 'match' or 'check', got neither",
        ),
    ],
)
def test_what_is_wrong_in_a_sample_is_told_with_its_place(tmp_path, change, words):
    given = samples()
    change(given)
    with pytest.raises(BadInputError, match=words) as caught:
        make(write(tmp_path, given))
    assert "samples.pkl" in str(caught.value)
