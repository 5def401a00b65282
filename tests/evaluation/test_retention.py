"""The plain text of retention, and what is made of its log-probabilities."""

import sys
import types

import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation import retention
from cycleqd_jax.evaluation.base import ReferenceScore
from cycleqd_jax.evaluation.retention import RetentionSettings, passages
from cycleqd_jax.runs.retention import TextRetention, retention_facts


def test_passages_are_prose_of_bounded_size_and_always_the_same():
    settings = RetentionSettings(passages=32, max_bytes=300)
    texts = passages(settings)
    assert len(set(texts)) == 32 and texts == passages(settings)
    for text in texts:
        assert 100 <= len(text.encode()) <= 300
        assert text[0].isupper() and text[-1] == "." and "  " not in text
    assert passages(RetentionSettings()) == ()


def test_too_many_passages_and_a_python_without_its_reference(monkeypatch):
    with pytest.raises(BadInputError, match="set it to that or less"):
        passages(RetentionSettings(passages=100_000))
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    retention._paragraphs.cache_clear()
    with pytest.raises(BadInputError, match="installed without its reference"):
        passages(RetentionSettings(passages=1))
    odd = types.SimpleNamespace(topics={"a": "No prose\n\n" + "x" * 200})
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", odd)
    with pytest.raises(BadInputError, match="has 0 paragraphs"):
        passages(RetentionSettings(passages=1))
    retention._paragraphs.cache_clear()


def test_facts_are_means_over_tokens_bytes_and_paired_texts():
    texts = ["a" * 10, "b" * 30]
    nats = {"base": (-20.0, -30.0), "merged": (-24.0, -30.0)}
    tokens = (4, 10)
    scores = [
        ReferenceScore(name, "text", "text", f"text/{i}", own[i], tokens[i])
        for name, own in nats.items()
        for i in (1, 0)
    ]
    facts = retention_facts(scores, texts, "base")
    assert facts["base"].nats_per_token == -50 / 14
    assert facts["base"].nats_per_byte == -50 / 40
    assert facts["base"].difference == facts["base"].standard_error == 0
    gaps = np.array([-4 / 4, 0.0])
    assert facts["merged"].difference == gaps.mean()
    want = gaps.std(ddof=1) / np.sqrt(2)
    assert facts["merged"].standard_error == pytest.approx(want, abs=1e-15)
    assert retention_facts([], [], "base") == {}


def test_retention_is_the_kept_share_of_a_tokens_probability():
    nats = {"base": (-20.0, -30.0), "worse": (-24.0, -31.0), "better": (-24.0, -10.0)}
    tokens = (4, 10)
    scores = [
        ReferenceScore(name, "text", "text", f"text/{i}", own[i], tokens[i])
        for name, own in nats.items()
        for i in (0, 1)
    ]
    measure = TextRetention(["a", "b"], scores[:4])
    shares = np.exp([-4 / 4, -1 / 10])  # of a token's probability, by text
    want = {"base": 1.0, "worse": np.sqrt(shares.prod())}
    assert measure.kept() == pytest.approx(want, abs=1e-15)
    # It lost on one text and gained more on the other: nothing was lost.
    assert measure.kept(scores[4:]) == pytest.approx(want | {"better": 1.0}, abs=1e-15)


def test_a_descriptor_without_passages_is_refused():
    with pytest.raises(ValueError, match="passages is 0; expected at least 1"):
        RetentionSettings(descriptor=True)
    assert RetentionSettings(passages=1, descriptor=True).descriptor
