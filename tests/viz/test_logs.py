"""Training curves."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal

from pyro_sri.viz import PALETTE, Picture, curves
from pyro_sri.viz.logs import DASHES, LINE_COLOURS, PANELS, _draw, drawn_names, series

# What the systems log.
TERMS = {
    "sri": {
        "nll": ["segregation_nll", "nll"],
        "kl": ["segregation_kl", "kl_scene", "kl_slots", "kl_cross"],
        "beta": ["beta", "beta_segregation"],
    },
    "genesis_v2": {"nll": ["nll"], "kl": ["kl_slots", "mask_kl"], "beta": ["beta"]},
    "genesis": {"nll": ["nll"], "kl": ["kl_scene", "kl_masks", "kl_components"], "beta": ["beta"]},
    "emorl": {
        "nll": ["nll", "nll_0", "nll_1", "nll_2"],
        "kl": ["kl_slots", "kl_above", "kl_0", "kl_1", "kl_2"],
        "beta": ["beta"],
    },
    "slot_attention": {"nll": ["nll"], "kl": [], "beta": []},
    "air": {"nll": ["nll"], "kl": ["kl_pres", "kl_where", "kl_what"], "beta": ["beta"]},
}
OTHERS = ("loss", "learning_rate", "images_per_second", "squared_error", "annealing", "score", "baseline")
LINES = [{"step": step, "nll": 100.0 / step, "kl_scene": 1.0, "beta": 0.5} for step in range(10, 110, 10)]


def colours_in(picture: Picture) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


def rgb(line: int) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in LINE_COLOURS[line])


@pytest.mark.parametrize("system", TERMS)
def test_every_term_has_a_line_of_its_own(system: str) -> None:
    names = [name for panel in TERMS[system].values() for name in panel]
    log = [{"step": step} | {name: step + 5.0 * i for i, name in enumerate((*names, *OTHERS))} for step in (1, 2, 3)]
    assert [drawn_names(log, panel) for panel in PANELS] == list(TERMS[system].values())
    drawn = colours_in(curves(log))
    longest = max(map(len, TERMS[system].values()))
    assert {rgb(i) for i in range(longest)} <= drawn
    assert not {rgb(i) for i in range(longest, len(LINE_COLOURS))} & drawn
    assert longest <= len(DASHES)  # told apart without colours


def test_terms_that_vanish_or_are_negative_are_drawn() -> None:
    log = [{"step": step, "kl_slots": 50.0, "kl_above": 0.0, "kl_0": -3.0} for step in (1, 2, 3)]
    axes = Figure().add_subplot()
    _draw(axes, PANELS[1], log, None)
    assert [line.get_ydata()[0] for line in axes.lines if len(line.get_ydata())] == [50, 0, -3]
    heights = axes.transAxes.inverted().transform(axes.transData.transform([(1, y) for y in (50, 0, -3)]))[:, 1]
    assert 1 > heights[0] > heights[1] > heights[2] > 0  # all within the axes


def test_curves_draw_what_is_in_the_log() -> None:
    empty, drawn = curves([]), curves(LINES)
    assert drawn.shape == empty.shape == (360, 1200, 3)
    assert drawn.dtype == np.uint8
    assert tuple(PALETTE[4].tolist()) in colours_in(drawn)
    assert tuple(PALETTE[4].tolist()) not in colours_in(empty)
    validated = [*LINES, {"step": 100, "val_nll": 3.0, "val_kl_scene": 2.0}]
    assert not np.array_equal(curves(validated), drawn)
    assert not np.array_equal(curves(LINES, goal=-3.0), drawn)
    assert_array_equal(curves(LINES), drawn)


def test_what_is_known_from_validation_alone_is_drawn() -> None:
    log = [{"step": 1, "nll": 3.0}, {"step": 1, "val_nll": 4.0, "val_kl_scene": 2.0}]
    assert [drawn_names(log, panel) for panel in PANELS] == [["nll"], ["kl_scene"], []]
    assert curves(log).shape == (360, 1200, 3)


def test_curves_survive_odd_logs() -> None:
    odd = [{"step": 1, "nll": float("nan"), "kl_scene": -1.0, "beta": None}, {"step": 2, "nll": 5, "val_nll": 4.0}]
    assert curves(odd).shape == (360, 1200, 3)
    steps, values = series(odd, "nll")
    assert_array_equal(steps, [2])
    assert_array_equal(values, [5])
