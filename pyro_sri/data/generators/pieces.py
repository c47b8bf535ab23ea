"""Finished pieces of an unfinished data set, kept in a folder so that an interrupted run can continue."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyro_sri.data.generators.family import Drawn
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import lock_folder

RECIPE = "recipe.json"
EXPLANATION = "explanation"


class InUse(UserError):
    """Another process is making the file."""


class Pieces:
    """The folder F.h5.parts next to the file F.h5 that is being made.

    Args:
        folder: The folder, which must exist.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, split: str, start: int) -> Path:
        """The path of the piece that begins with this scene of a split."""
        return self.folder / f"{split}-{start:09d}.npz"

    def save(self, split: str, start: int, drawn: Drawn) -> None:
        """Save a piece, complete or not at all.

        Raises:
            UserError: If it cannot be written.
        """
        path = self.path(split, start)
        # A worker may outlive its killed main process for a while. What a kill leaves is removed with the folder.
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                np.savez(file, **drawn._asdict())
            temporary.rename(path)
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); check the folder and the free space") from None

    def load(self, split: str, start: int) -> Drawn | None:
        """A saved piece; None if it is missing or damaged."""
        try:
            with self.path(split, start).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return Drawn(**arrays)
        except Exception:  # missing, or damaged, which can fail in many ways
            return None

    def count(self) -> int:
        """How many pieces there are."""
        return sum(1 for _ in self.folder.glob("*.npz"))


def folder_of(out: Path) -> Path:
    """The folder with the pieces of an unfinished file."""
    return out.with_name(f"{out.name}.parts")


@contextmanager
def pieces_of(out: Path, recipe: Mapping[str, Any]) -> Iterator[Pieces]:
    """The pieces of an unfinished file, which are removed when it is complete and kept after an interruption.

    Args:
        out: The file.
        recipe: Everything that determines the content of the file, as plain JSON values.

    Raises:
        InUse: If another process is making the file.
        UserError: If the folder cannot be written, or has pieces of another recipe.
    """
    folder = folder_of(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}); check the folder and the free space") from None
    try:
        _lock(lock, folder)
        _agree(folder, out, recipe)
        pieces = Pieces(folder)
        try:
            yield pieces
        except BaseException:
            if not pieces.count():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        lock_folder(descriptor)
    except BlockingIOError:
        raise InUse(f"{folder} is in use: another process is making this file; wait for it") from None


def _agree(folder: Path, out: Path, recipe: Mapping[str, Any]) -> None:
    path = folder / RECIPE
    text = json.dumps({EXPLANATION: _explanation(out), **recipe}, indent=2)
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    if found is None and not any(folder.glob("*.npz")):
        try:
            path.write_text(text)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(f"cannot write {path} ({error.strerror}); check the folder and the free space") from None
    elif found != json.loads(text):
        different = [
            name for name in recipe if not isinstance(found, dict) or found.get(name) != json.loads(text)[name]
        ]
        raise UserError(
            f"{folder} contains part of a data set made with other values of {', '.join(different)}; "
            "use the same values to finish it, or remove the folder"
        )


def _explanation(out: Path) -> str:
    return (
        f"finished pieces of {out.name}, which was interrupted: run the same command to continue, or remove this folder"
    )
