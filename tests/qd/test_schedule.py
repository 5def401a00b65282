import jax
import numpy as np
import pytest

from cycleqd_jax.qd.schedule import active_archive, generation_keys


def test_archives_take_turns():
    assert [active_archive(t, 3, 1) for t in range(1, 7)] == [1, 2, 0, 1, 2, 0]
    assert [active_archive(t, 2, 3) for t in range(1, 8)] == [0, 0, 1, 1, 1, 0, 0]


def test_keys_differ_by_seed_generation_and_purpose():
    seen = set()
    for seed in range(3):
        for t in range(1, 5):
            for key in generation_keys(jax.random.key(seed), t):
                seen.add(tuple(np.asarray(jax.random.key_data(key)).tolist()))
    assert len(seen) == 3 * 4 * 4


@pytest.mark.parametrize("t", [1, 5])
def test_keys_are_the_same_under_vmap(t):
    alone = generation_keys(jax.random.key(0), t)
    together = jax.vmap(lambda s: generation_keys(jax.random.key(0), s))(
        np.arange(1, 6, dtype=np.int32)
    )
    for one, many in zip(alone, together, strict=True):
        assert (jax.random.key_data(one) == jax.random.key_data(many[t - 1])).all()
