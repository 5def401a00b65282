import types

import numpy as np
import pytest

from cycleqd_jax.reports import archive_maps, drawing
from cycleqd_jax.reports.candidates import Elite


def test_a_grid_has_the_first_other_task_across():
    elites = [Elite("a", (2, 0), "child/1", 0.5)]
    image = archive_maps.project(elites, [0, 1], bins=3)
    assert image.shape == (3, 3)
    assert image[0, 2] == 0.5 and np.isnan(image).sum() == 8


def test_two_tasks_make_a_strip():
    elites = [Elite("a", (1,), "child/1", 0.5), Elite("a", (0,), "child/2", 0.25)]
    image = archive_maps.project(elites, [0], bins=3)
    np.testing.assert_array_equal(image, [[0.25, 0.5, np.nan]])


@pytest.mark.parametrize("num_tasks, wide, high", [(2, 7.1, 3.5), (3, 9.5, 8.7)])
def test_retention_is_on_the_maps_as_one_more_skill(num_tasks, wide, high, monkeypatch):
    tasks = tuple("abc"[:num_tasks])
    search = {"bins": 4, "ranges": dict.fromkeys(tasks, (0.0, 1.0))}
    places = {task: (0,) * (num_tasks - 1) + (3,) for task in tasks}
    facts = types.SimpleNamespace(search=search, aggregation={})
    data = types.SimpleNamespace(
        tasks=tasks,
        facts=facts,
        elites=[Elite(task, place, "child/1", 0.5) for task, place in places.items()],
    )
    figures = []
    monkeypatch.setattr(drawing, "to_png", lambda figure: figures.append(figure))
    archive_maps.draw_archives(data)  # bins of retention, but no axis for it
    search["retention"] = [0.8, 1.0]
    archive_maps.draw_archives(data)
    plain, figure = figures
    assert figure.get_size_inches().tolist() == pytest.approx([wide, high])
    last = figure.axes[num_tasks - 1]  # of the first archive, if it has a row
    assert last.get_ylabel() == "retention"
    assert [label.get_text() for label in last.get_yticklabels()][-1] == "1.00"
    image = last.images[0].get_array()
    assert image[3, 0] == 0.5 and np.isfinite(np.ma.filled(image, np.nan)).sum() == 1
    assert all(axes.get_ylabel() != "retention" for axes in plain.axes)


def test_hidden_dimensions_show_their_best():
    elites = [
        Elite("a", (1, 2, 0), "child/1", 0.5),
        Elite("a", (1, 0, 0), "child/2", 0.75),
        Elite("a", (1, 1, 0), "child/3", 0.25),
    ]
    image = archive_maps.project(elites, [0, 2], bins=3)
    assert image[0, 1] == 0.75 and np.isnan(image).sum() == 8
