"""Films: GIF, and MP4 by a stand-in for ffmpeg."""

import io
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageSequence

from pyro_sri.viz import FilmError, Picture, film, find_ffmpeg, gif, mp4

STAND_IN = """#!{python}
import json, sys
video = sys.stdin.buffer.read()
with open(sys.argv[-1], "w") as file:
    json.dump([sys.argv[1:], len(video), list(video[:6])], file)
"""


def solid(colour: tuple[int, int, int], height: int = 16, width: int = 16) -> Picture:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def program(folder: Path, source: str) -> str:
    """An executable `ffmpeg`."""
    path = folder / "ffmpeg"
    path.write_text(source.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


def played(content: bytes) -> list[Picture]:
    return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(content)))]


def test_gif_plays_every_frame_endlessly() -> None:
    frames = [solid((value, 255 - value, 0)) for value in (0, 100, 200)]
    content = gif(frames, 90)
    movie = Image.open(io.BytesIO(content))
    assert movie.info["loop"] == 0
    assert movie.info["duration"] == 90
    for frame, expected in zip(played(content), frames, strict=True):
        assert np.abs(frame.astype(int) - expected).max() <= 8
    assert gif(frames, 90) == content


def test_gif_keeps_rare_colours_and_paper() -> None:
    greys = np.arange(90 * 90).reshape(90, 90, 1) % 200 + np.random.default_rng(0).integers(0, 40, (90, 90, 3))
    frames = [greys.astype(np.uint8) for _ in range(2)]
    for i, frame in enumerate(frames):
        frame[2 * i : 2 * i + 2, :3] = (250, 220, 0)
        frame[70:80] = 251  # not quite the paper's white
        frame[80:] = 255
    for frame, expected in zip(played(gif(frames)), frames, strict=True):
        assert np.abs(frame.astype(int) - expected).max() <= 40
        assert_array_equal(frame[80:], expected[80:])


def test_mp4_pipes_raw_frames_of_even_size(tmp_path: Path) -> None:
    ffmpeg = program(tmp_path, STAND_IN)
    frames = [solid((1, 2, 3), 5, 7), solid((4, 5, 6), 5, 7)]
    arguments, length, start = json.loads(mp4(frames, 80, ffmpeg))
    assert length == 2 * 6 * 8 * 3
    assert start == [1, 2, 3, 1, 2, 3]
    options = dict(itertools.pairwise(arguments))
    before = arguments.index("-i")
    assert options["-i"] == "pipe:0"
    for name, value in (
        ("-f", "rawvideo"),
        ("-pixel_format", "rgb24"),
        ("-video_size", "8x6"),
        ("-framerate", "1000/80"),
    ):
        assert options[name] == value
        assert arguments.index(name) < before  # options stand before the file that they are about
    for name, value in (("-c:v", "libx264"), ("-pix_fmt", "yuv420p")):
        assert options[name] == value
        assert arguments.index(name) > before
    assert arguments[-1].endswith(".mp4")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("#!/bin/sh\necho first >&2; echo 'Unknown encoder libx264' >&2; exit 1\n", "^Unknown encoder libx264$"),
        ("#!/bin/sh\nexit 3\n", "status 3"),
        ("#!/bin/sh\nexit 0\n", "made no file"),
        ("#!/no/such/program\n", "made no file"),
        ("#!/bin/sh\nexec sleep 9\n", "took more than"),
    ],
)
def test_mp4_fails_in_one_line(source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "FFMPEG_SECONDS", 0.3 if "sleep" in source else 60)
    ffmpeg = program(tmp_path, source)
    with pytest.raises(FilmError, match=says) as error:
        mp4([solid((0, 0, 0))] * 2, 80, ffmpeg)
    assert "\n" not in str(error.value)


def test_ffmpeg_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg() is None
    assert find_ffmpeg() != program(tmp_path, STAND_IN)
    assert find_ffmpeg() == str(tmp_path / "ffmpeg")
