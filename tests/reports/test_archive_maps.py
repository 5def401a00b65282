import numpy as np

from cycleqd_jax.reports import archive_maps
from cycleqd_jax.reports.run_data import Elite


def test_a_grid_has_the_first_other_task_across():
    elites = [Elite("a", (2, 0), "child/1", 0.5)]
    image = archive_maps.project(elites, [0, 1], bins=3)
    assert image.shape == (3, 3)
    assert image[0, 2] == 0.5 and np.isnan(image).sum() == 8


def test_two_tasks_make_a_strip():
    elites = [Elite("a", (1,), "child/1", 0.5), Elite("a", (0,), "child/2", 0.25)]
    image = archive_maps.project(elites, [0], bins=3)
    np.testing.assert_array_equal(image, [[0.25, 0.5, np.nan]])


def test_hidden_dimensions_show_their_best():
    elites = [
        Elite("a", (1, 2, 0), "child/1", 0.5),
        Elite("a", (1, 0, 0), "child/2", 0.75),
        Elite("a", (1, 1, 0), "child/3", 0.25),
    ]
    image = archive_maps.project(elites, [0, 2], bins=3)
    assert image[0, 1] == 0.75 and np.isnan(image).sum() == 8
