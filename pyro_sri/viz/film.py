"""Animation files: GIF always, and MP4 if the program ffmpeg is installed."""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pyro_sri.viz.sheets import PAPER, Picture

FRAME_MILLISECONDS = 80
EXACT = (PAPER, (0, 0, 0))  # colours that must be exact
LOOKUP_STEP = 8  # precision of the lookup of the nearest colour, which would confuse exact colours with neighbours
FFMPEG_SECONDS = 120  # after which it is stopped


class FilmError(RuntimeError):
    """ffmpeg could not make a film. The message is one line."""


def gif(frames: Sequence[Picture], milliseconds: int = FRAME_MILLISECONDS) -> bytes:
    """The bytes of an endless GIF, with one palette for all frames and no dithering, so that still parts stay still."""
    palette = _common_palette(frames[:: max(1, len(frames) // 8)])
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return file.getvalue()


def _common_palette(frames: Sequence[Picture]) -> Image.Image:
    """256 colours. Rare colours count as much as common ones, so that a small object keeps its own colour."""
    some = Image.fromarray(np.concatenate(frames))
    found = some.quantize(256 - len(EXACT), method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).getpalette()
    colours = np.array([*EXACT, *np.reshape(found or [], (-1, 3))])
    for exact in EXACT:
        colours[np.abs(colours - exact).max(1) <= LOOKUP_STEP] = exact
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.ravel().tolist())
    return palette


def find_ffmpeg() -> str | None:
    """The path of ffmpeg, or None."""
    return shutil.which("ffmpeg")


def mp4(frames: Sequence[Picture], milliseconds: int, ffmpeg: str) -> bytes:
    """The bytes of an MP4 file (H.264), which plays once.

    Args:
        frames: uint8 [h, w, 3] each. Odd sides get an extra line, because H.264 halves the resolution of colours.
        milliseconds: How long each frame is shown.
        ffmpeg: The program.

    Raises:
        FilmError: If the program cannot be run, fails, or takes too long.
    """
    height, width = frames[0].shape[:2]
    even = [(0, height % 2), (0, width % 2), (0, 0)]
    video = b"".join(np.pad(frame, even, constant_values=PAPER[0]).tobytes() for frame in frames)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        size = f"{width + width % 2}x{height + height % 2}"
        try:
            done = subprocess.run(
                _command(ffmpeg, size, milliseconds, path), input=video, capture_output=True, timeout=FFMPEG_SECONDS
            )
            if done.returncode:
                says = done.stderr.decode(errors="replace").strip().splitlines()
                raise FilmError(says[-1] if says else f"ffmpeg ended with status {done.returncode}")
            return path.read_bytes()
        except subprocess.TimeoutExpired:
            raise FilmError(f"ffmpeg took more than {FFMPEG_SECONDS} seconds") from None
        except OSError as error:  # it cannot be run, or left no file
            raise FilmError(f"ffmpeg made no file: {error.strerror or error}") from None


def _command(ffmpeg: str, size: str, milliseconds: int, path: Path) -> list[str]:
    raw = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", size, "-framerate", f"1000/{milliseconds}"]
    h264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    return [ffmpeg, "-hide_banner", "-loglevel", "error", "-y", *raw, "-i", "pipe:0", "-an", *h264, str(path)]
