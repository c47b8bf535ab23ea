import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image

from pyro_sri import viz
from pyro_sri.inference import Explanation, Scenes, explain, sample_scenes
from pyro_sri.report.html import Cell, Html, element, facts, hint, page, picture, table
from pyro_sri.viz.sheets import BREAK, GAP, MARGIN, PAPER, TILE_SIDE
from support.programs import build_sri


def one_hot(labels: list[list[int]], num_slots: int) -> torch.Tensor:
    """[H, W] -> [1, K, 1, H, W]."""
    return torch.nn.functional.one_hot(torch.tensor(labels), num_slots).permute(2, 0, 1)[None, :, None].float()


def solid(colour: tuple[int, int, int], side: int = TILE_SIDE) -> viz.Picture:
    return np.full((side, side, 3), colour, dtype=np.uint8)


def colours_in(picture: viz.Picture) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


def exact_explanation() -> Explanation:
    """Two images of three slots that know everything exactly: slot k is red, green, blue in the k-th third."""
    masks = one_hot([[0] * 8 + [1] * 8 + [2] * 16] * 32, 3).expand(2, -1, -1, -1, -1)
    rgb = torch.eye(3)[None, :, :, None, None].expand(2, -1, -1, 32, 32)
    images = (masks * rgb).sum(1)
    return Explanation(images, images, rgb, masks, masks, None, {}, torch.zeros(2), 0.0)


# Sheets


# How a missing kind of cone turns linear RGB (Machado et al. 2009, severity 1).
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
TRITANOPIA = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
RGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
RGB_TO_XYZ /= RGB_TO_XYZ.sum(1, keepdims=True)  # relative to white


@pytest.mark.parametrize(
    ("vision", "least"),
    [(np.eye(3), 17), (PROTANOPIA, 17), (DEUTERANOPIA, 17), (TRITANOPIA, 8)],  # the last is the rarest by far
    ids=["normal", "protanopia", "deuteranopia", "tritanopia"],
)
def test_palette_can_be_told_apart(vision: Any, least: float) -> None:
    srgb = viz.PALETTE / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(vision), 0, 1) @ RGB_TO_XYZ.T
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert viz.PALETTE.shape == (16, 3)
    assert distances[~np.eye(16, dtype=bool)].min() >= least  # 2 is just noticeable


def test_enlarge_repeats_whole_pixels() -> None:
    small = np.random.default_rng(0).integers(0, 256, (35, 35, 3), dtype=np.uint8)
    large = viz.enlarge(small)
    assert large.shape == (105, 105, 3)
    assert_array_equal(large[::3, ::3], small)
    assert_array_equal(large[2::3, 2::3], small)
    assert viz.enlarge(solid((1, 2, 3), 128)).shape == (128, 128, 3)


def test_grid_holds_the_pictures_and_nothing_else() -> None:
    pictures = np.stack([solid((10 * i, 0, 0), 32) for i in range(5)])
    sheet = viz.grid(pictures, columns=3, side=32)
    assert sheet.shape == (2 * 32 + 3 * GAP, 3 * 32 + 4 * GAP, 3)
    assert_array_equal(sheet[GAP : GAP + 32, 2 * GAP + 32 : 2 * GAP + 64], pictures[1])
    assert colours_in(sheet) == {(10 * i, 0, 0) for i in range(5)} | {PAPER}
    assert viz.grid(pictures).shape[1] == 3 * TILE_SIDE + 4 * GAP  # as square as it can be


def test_sheet_places_tiles_headers_and_labels() -> None:
    tile = solid((1, 2, 3))
    bare = viz.sheet([[tile, tile]])
    assert bare.shape == (TILE_SIDE + 2 * MARGIN, 2 * TILE_SIDE + GAP + 2 * MARGIN, 3)
    assert viz.sheet([[tile, tile]], column_breaks=[1]).shape[1] == bare.shape[1] + BREAK
    assert viz.sheet([[tile], [tile]], row_breaks=[1]).shape[0] == 2 * TILE_SIDE + GAP + 2 * MARGIN + BREAK
    headed = viz.sheet([[tile, tile]], [viz.Header("input"), viz.Header("slot 4", 4)])
    assert headed.shape[0] > bare.shape[0]
    assert viz.slot_colour(4) in colours_in(headed)
    assert viz.slot_colour(4) == viz.slot_colour(20)
    labelled = viz.sheet([[tile, tile]], labels=["a label\nof two lines"])
    assert labelled.shape[0] == bare.shape[0]
    assert labelled.shape[1] > bare.shape[1]
    captioned = viz.sheet([[tile]], caption="a caption that is far too long for so narrow a sheet")
    assert captioned.shape[1] == TILE_SIDE + 2 * MARGIN


def test_png_reads_back() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert_array_equal(np.asarray(Image.open(io.BytesIO(viz.png(picture)))), picture)
    assert viz.png(picture) == viz.png(picture)


# Scenes


def tiles_in(picture: viz.Picture, rows: int, columns: int, breaks: tuple[int, ...] = (), below: int = 0) -> Any:
    """Tiles [rows, columns, TILE_SIDE, TILE_SIDE, 3] of a sheet without row breaks: counted from its right end."""
    width = picture.shape[1] - MARGIN
    lefts = [
        width - (columns - i) * (TILE_SIDE + GAP) + GAP - BREAK * sum(b > i for b in breaks) for i in range(columns)
    ]
    bottom = picture.shape[0] - MARGIN - below
    tops = [bottom - (rows - i) * (TILE_SIDE + GAP) + GAP for i in range(rows)]
    return np.array([[picture[y : y + TILE_SIDE, x : x + TILE_SIDE] for x in lefts] for y in tops])


def test_reconstructions_show_every_column_in_order() -> None:
    explanation = exact_explanation()
    picture = viz.reconstructions(explanation)
    columns = 4 + 3  # input, reconstruction, attention, masks, slots; no imagination
    assert picture.shape[1] == columns * TILE_SIDE + (columns - 1) * GAP + BREAK + 2 * MARGIN
    image, reconstruction, attention, masks, *slots = tiles_in(picture, 2, columns, (4,))[1]
    for tile in (image, reconstruction):
        assert_array_equal(tile[5, [10, 30, 90]], 255 * np.eye(3))
    for tile in (attention, masks):
        assert_array_equal(tile[5, [10, 30, 90]], viz.PALETTE[:3])
    for k, tile in enumerate(slots):
        assert_array_equal(tile[5, (10, 30, 90)[k]], 255 * np.eye(3)[k])
    with_imagination = viz.reconstructions(explanation._replace(imagination=explanation.images))
    assert with_imagination.shape[1] == picture.shape[1] + TILE_SIDE + GAP


def test_slot_details_show_masks_in_grey_and_colours_everywhere() -> None:
    explanation = exact_explanation()
    soft = 0.75 * explanation.slot_masks
    picture = viz.slot_details(explanation._replace(slot_masks=soft), labels=["one"])
    attention, decoder, colours, painted = tiles_in(picture, 4, 5, (1, 2))
    assert_array_equal(attention[0], viz.enlarge(viz.to_uint8(explanation.images)[0]))
    for k, place in enumerate((10, 30, 90)):
        grey = attention[2 + k][:, place], decoder[2 + k][:, place]
        assert [np.unique(column).tolist() for column in grey] == [[255], [191]]
        assert_array_equal(np.unique(colours[2 + k].reshape(-1, 3), axis=0), 255 * np.eye(3, dtype=int)[k : k + 1])
        assert_array_equal(painted[2 + k], viz.enlarge(viz.slot_pictures(explanation.slot_rgb, soft)[0, k]))
    assert_array_equal(painted[1], viz.enlarge(viz.to_uint8(explanation.reconstruction)[0]))
    for blank in (decoder[0], colours[0], colours[1], painted[0]):
        assert colours_in(blank) == {PAPER}
    both = viz.slot_details(explanation._replace(attention_masks=None), labels=["one", "two"])
    assert both.shape[0] == picture.shape[0] + 2 * (TILE_SIDE + GAP) + BREAK  # three rows each


def test_imaginations_stand_below_their_images(images: torch.Tensor) -> None:
    explanation = exact_explanation()._replace(imagination=images[:2])
    image, reconstruction, imagination = tiles_in(viz.imaginations(explanation, labels=["a", "b"]), 3, 2)[:, 1]
    assert_array_equal(image, reconstruction)
    assert_array_equal(imagination, viz.enlarge(viz.to_uint8(images)[1]))


def test_samples_by_slot_follow_the_order_of_generation(sri: Any) -> None:
    scenes = sample_scenes(sri[0], 2, num_slots=5)
    sheet = viz.samples_by_slot(scenes, labels=["a", "b"], caption="samples")
    assert {viz.slot_colour(k) for k in range(5)} <= colours_in(sheet)
    last = sheet[-MARGIN - TILE_SIDE - 19 : -MARGIN - 19, -MARGIN - TILE_SIDE : -MARGIN]
    assert_array_equal(last, viz.enlarge(viz.slot_pictures(scenes.slot_rgb, scenes.slot_masks)[1, 4]))


def test_samples_in_order_end_with_the_whole_scene(sri: Any) -> None:
    scenes = sample_scenes(sri[0], 2)
    tiles = tiles_in(viz.samples_in_order(scenes, labels=["a", "b"]), 2, 4, (1,))
    first = viz.enlarge(viz.slot_pictures(scenes.slot_rgb, scenes.slot_masks)[1, 0])
    assert_array_equal(tiles[1, 0], viz.enlarge(viz.to_uint8(scenes.images)[1]))
    assert_array_equal(tiles[1, 1], first)
    assert np.abs(tiles[:, 0].astype(int) - tiles[:, 3]).max() <= 1  # masks add up to 1


def test_temperatures_share_their_draws(sri: Any) -> None:
    model = sri[0]
    sheet = viz.temperatures(model, 1, num=2, values=(0.5, 1.0), seed=3)
    assert sheet.shape[0] == 4 * TILE_SIDE + 3 * GAP + BREAK + 2 * MARGIN  # 1 and 2 slots: none has no slots
    assert_array_equal(sheet, viz.temperatures(model, 1, num=2, values=(0.5, 1.0), seed=3))
    pyro.set_rng_seed(3)
    wild = sample_scenes(model, 2, num_slots=2, temperature=1.0)
    last = sheet[-MARGIN - TILE_SIDE : -MARGIN, -MARGIN - TILE_SIDE : -MARGIN]
    assert_array_equal(last, viz.enlarge(viz.to_uint8(wild.images)[1]))


def test_tensorboard_images(sri: Any, images: torch.Tensor) -> None:
    names = ["input_reconstruction_imagination", "attention_masks", "decoder_masks", "samples", "samples_slots"]
    pictures = viz.tensorboard_images(*sri, images, 3)
    assert list(pictures) == names
    for sheet in pictures.values():
        assert sheet.dtype == np.uint8
        assert sheet.ndim == 3
        assert sheet.shape[2] == 3
    inputs = viz.to_uint8(images)
    start = MARGIN + TILE_SIDE + GAP
    shown = pictures["input_reconstruction_imagination"][MARGIN : MARGIN + TILE_SIDE, start : start + TILE_SIDE]
    assert_array_equal(shown, viz.enlarge(inputs[1]))


def test_tensorboard_images_without_masks_and_imagination(sri: Any, images: torch.Tensor, monkeypatch: Any) -> None:
    explanation = explain(*sri, images)._replace(attention_masks=None, imagination=None)
    monkeypatch.setattr("pyro_sri.viz.scenes.explain", lambda *_: explanation)
    assert "attention_masks" not in viz.tensorboard_images(*sri, images, 1)


def test_scenes_of_another_precision(images: torch.Tensor) -> None:
    model, guide = build_sri()
    explanation = explain(model.double(), guide.double(), images.double())
    assert viz.reconstructions(explanation).dtype == np.uint8
    scenes = Scenes(explanation.reconstruction, explanation.slot_rgb, explanation.slot_masks)
    assert viz.samples_by_slot(scenes).dtype == np.uint8


# Pages


class Reader(HTMLParser):
    """Checks that tags are balanced and gathers what a page refers to."""

    EMPTY = ("meta", "img")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and not {"style", "script"} & set(self.open):
            self.words.append(data)


EVIL = "<script>alert('a & b')</script>\"'"


def test_pages_escape_everything() -> None:
    body = element(
        "div",
        EVIL,
        hint(EVIL, EVIL),
        facts([(EVIL, EVIL)]),
        table([Cell(EVIL, EVIL)], [[Cell(EVIL, EVIL, EVIL, EVIL)]]),
        picture(solid((0, 0, 0), 4), EVIL, EVIL),
        title=EVIL,
    )
    source = page(EVIL, body)
    reader = Reader(source)
    assert "<script>alert" not in source
    assert reader.tags.count("script") == 1
    assert reader.words.count(EVIL) == 9


def test_pages_need_no_network() -> None:
    source = page("a page", Html(picture(solid((9, 9, 9), 4), "grey", pixelated=True)))
    links = Reader(source).links
    assert len(links) == 1
    assert links[0].startswith("data:image/png;base64,")
    assert "default-src 'none'" in source
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(http|//)", source)
    assert "@import" not in source
    assert "url(" not in source


def test_tables_carry_keys_to_sort_by_and_marks() -> None:
    rows = [[Cell("a", "a"), Cell("0.1235", 0.123456)], [Cell("b", "b"), Cell("–", note="no masks")]]
    source = table([Cell("metric", "metric"), Cell("why")], rows, marked=[False, True])
    assert 'data-value="0.123456"' in source
    assert source.count("<button") == 1
    assert source.count('class="differs"') == 1
    assert "<small>no masks</small>" in source
    assert Reader(source).words == ["metric", "why", "a", "0.1235", "b", "–", "no masks"]
