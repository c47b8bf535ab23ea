"""Reads untrusted files of torch.save: no code runs, checksums are verified, and tensors are checked."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

PICKLE = b"\x80"  # the first byte of files in the format before PyTorch 1.6
DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.bool,
    torch.uint8,
    torch.int32,
    torch.int64,
)


def load_torch_file(path: Path) -> Any:
    """Loads a file of torch.save, to the CPU.

    torch.load does not check the checksums of zip archives, so they are verified here first, in pieces. Files in the
    format before PyTorch 1.6 have no checksums: if their tensors are damaged, the numbers are wrong.

    Raises:
        Exception: Of any type, if the file is missing, damaged or compressed, or contains code.
    """
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")  # about details of the format, which the user need not see
        source: IO[bytes] = file
        if zipfile.is_zipfile(path):
            _verify(path)
        elif file.read(1) == PICKLE:
            source = io.BytesIO(PICKLE + file.read())  # never allocates more than the file contains
        else:
            raise ValueError("it is neither a zip archive nor a pickle")
        return torch.load(source, map_location="cpu", weights_only=True)


def _verify(path: Path) -> None:
    """Raises an exception unless every member of an archive is intact, and uncompressed as by torch.save."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile("it is compressed")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise zipfile.BadZipFile("its members are larger than the file")
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def is_plain(value: object) -> bool:
    """Whether this is a dense CPU tensor with all its values in memory: not repeated, sparse or meta."""
    return (
        isinstance(value, Tensor)
        and value.dtype in DTYPES
        and not value.is_nested
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def fits(value: object, ours: Tensor) -> bool:
    """Whether a value from a file can replace a tensor: plain, with the same shape and dtype."""
    return isinstance(value, Tensor) and is_plain(value) and (value.shape, value.dtype) == (ours.shape, ours.dtype)


def is_finite(value: Tensor) -> bool:
    """Whether a plain tensor has no NaN or infinity."""
    return bool(torch.isfinite(value).all())
