"""Sheets and figures as PDF and SVG: texts stay texts, and tiles keep their pixels."""

import base64
import io
import re
import xml.etree.ElementTree as xml
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pyro_sri.viz import Header, curves, draw_vector, grid, sheet
from pyro_sri.viz.logs import compare_curves
from pyro_sri.viz.vector import save_figure

TILE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def words(svg: bytes) -> list[str]:
    return ["".join(node.itertext()) for node in xml.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_a_sheet_as_svg() -> None:
    picture = sheet([[TILE, 255 - TILE]], [Header("a $ b", 2), Header("<c>")], ["row"], caption="2")
    svg = draw_vector(picture, "svg")
    assert words(svg) == ["a $ b", "<c>", "row", "2"]
    root = xml.fromstring(svg)
    height, width = picture.shape[:2]
    assert root.attrib["viewBox"] == f"0 0 {width * 0.75:g} {height * 0.75:g}"
    pixels = []
    for encoded in re.findall(rb"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)", svg):
        pixels.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")))
    assert len(pixels) == 2
    assert any(np.array_equal(shown, TILE) or np.array_equal(shown[::-1], TILE) for shown in pixels)


def test_the_same_picture_gives_the_same_bytes() -> None:
    picture = grid(np.stack([TILE] * 4))
    for kind in ("pdf", "svg"):
        assert draw_vector(picture, kind) == draw_vector(picture, kind)  # type: ignore[arg-type]
    assert draw_vector(picture, "pdf").startswith(b"%PDF")


def test_curves_are_lines() -> None:
    picture = curves([{"step": step, "nll": 10.0 - step, "kl_scene": 1.0} for step in range(1, 5)])
    assert "negative log-likelihood (nats per image)" in words(draw_vector(picture, "svg"))


def test_copies_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="only sheets"):
        draw_vector(grid(TILE[None])[:4], "pdf")


def test_a_studys_curves() -> None:
    """A thin line for each seed and a thick one for their mean, at the steps that all of them have."""

    def log(values: dict[int, float]) -> list[dict[str, Any]]:
        return [{"step": step, "val_nll": value} for step, value in values.items()]

    logs = {"A": [log({1: 4.0, 2: 2.0}), log({1: 6.0, 2: 3.0, 3: 1.0})], "none": [[]], "$B": [log({1: 1.0})]}
    figure = compare_curves(logs, "val_nll")
    (axes,) = figure.axes
    lines = [(line.get_linewidth(), list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert lines[:3] == [(0.5, [1, 2], [4, 2]), (0.5, [1, 2, 3], [6, 3, 1]), (1.6, [1, 2], [5, 2.5])]
    svg = save_figure(figure, "svg")
    assert {"A", "$B", "val_nll"} <= set(words(svg))
    assert "none" not in words(svg)
