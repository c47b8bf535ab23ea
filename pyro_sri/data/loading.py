"""Batches of scenes for training and evaluation.

A training batch is a pure function of (seed, step). So a run continues exactly from any step, without stored state and
with any number of worker processes. There are two orders, and only the size of the split decides between them. A split
of at most `IN_MEMORY_LIMIT_BYTES` is kept in memory and permuted as a whole. A larger one is read from disk in blocks
and shuffled in windows.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pyro_sri.data.format import IMAGES_PER_BLOCK, DatasetFile
from pyro_sri.data.hdf5 import pieces
from pyro_sri.system.errors import UserError

# 260,000 images at 64 x 64.
IN_MEMORY_LIMIT_BYTES = 3 * 1024**3
# The share of a GPU's free memory that a split may take. The rest is for training itself.
GPU_MEMORY_SHARE = 0.25
# One read from disk: whole blocks of the file, 786 kB at 64 x 64. Much less than a window, so that windows mix well.
IMAGES_PER_READ = 4 * IMAGES_PER_BLOCK
# Images shuffled together when a split is read from disk: 10,922 at 64 x 64. Two windows are in memory at a time.
WINDOW_BYTES = 128 * 1024**2

Batch = dict[str, torch.Tensor]


def training_batches(
    path: Path | str,
    split: str,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    in_memory_limit_bytes: int = IN_MEMORY_LIMIT_BYTES,
) -> Iterator[Batch]:
    """Endless shuffled batches, from any step on.

    Every epoch visits each image once, except for an incomplete last batch, which is dropped. A split within the limit
    is read once and kept: on `device` if that is a GPU with four times as much free memory, else in host memory. Epoch
    e then visits it in the order `np.random.default_rng([seed, e]).permutation(num_images)`. A larger split is read
    from disk in the order of `WindowOrder`, at the pace of the batches and each block once per epoch. Two windows are
    in memory. The order depends on the split, the limit, `batch_size` and `seed`, but not on `device`, `num_workers` or
    `world_size`.

    Args:
        path: A dataset file.
        split: The split to train on.
        batch_size: Size of the global batch, over all ranks.
        seed: The seed of the shuffling, a whole number from 0.
        start_step: The step of the first batch; earlier windows are not read.
        num_workers: Processes that read ahead from disk. None are started for a split in memory.
        rank: The number of this process. It gets the rank-th slice of every global batch, but reads or keeps the whole
            split.
        world_size: How many processes share the batch.
        device: Where the batches will be used.
        in_memory_limit_bytes: The largest split to keep in memory, in bytes of its images.

    Returns:
        An iterator over {"images": uint8 [batch_size / world_size, H, W, 3]}: on `device` if the split is kept
        there, else in host memory, page-locked if `device` is a GPU. `to_images` takes both. The global random state
        is not changed.

    Raises:
        UserError: At once for a wrong file, split or batch size; later if the file turns out to be damaged.
    """
    device = torch.device(device)
    with DatasetFile(path) as file:
        array = file.images(split)
        (num_images, *image_shape), num_bytes = array.shape, math.prod(array.shape)
        _check(num_images, batch_size, seed, start_step, rank, world_size)
        slices = _slices(num_images, batch_size, start_step, rank, world_size)
        if num_bytes <= in_memory_limit_bytes:
            return _from_memory(_held(file, array, _home(num_bytes, device)), seed, slices, device)
    order = WindowOrder(num_images, max(WINDOW_BYTES * num_images // num_bytes, batch_size), seed)
    return _from_disk(_Blocks(path, split), image_shape, order, slices, num_workers, device)


def _check(num_images: int, batch_size: int, seed: int, start_step: int, rank: int, world_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"a batch of {batch_size} images is empty; use a batch size of at least 1")
    if batch_size > num_images:
        raise UserError(f"a batch of {batch_size} is larger than the split of {num_images} images; use a smaller one")
    if batch_size % world_size:
        raise UserError(
            f"a batch of {batch_size} cannot be shared by {world_size} processes; use a multiple of {world_size}"
        )
    if seed < 0 or start_step < 0:
        raise UserError(f"seed {seed} and step {start_step} must not be negative")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is out of range for {world_size} processes")


def _slices(
    num_images: int, batch_size: int, start_step: int, rank: int, world_size: int
) -> Iterator[tuple[int, slice]]:
    """For every step from `start_step` on: the epoch, and where in its order this rank's part of the batch lies."""
    share = batch_size // world_size
    for step in itertools.count(start_step):
        epoch, place = divmod(step, num_images // batch_size)
        start = place * batch_size + rank * share
        yield epoch, slice(start, start + share)


def _home(num_bytes: int, device: torch.device) -> torch.device:
    """The device that keeps a split of this size."""
    if device.type == "cuda" and num_bytes <= GPU_MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
        return device
    return torch.device("cpu")


def _held(file: DatasetFile, array: Any, home: torch.device) -> torch.Tensor:
    images = torch.empty(array.shape, dtype=torch.uint8, device=home)
    for piece in pieces(array):  # so that the host has no second copy
        images[piece] = torch.from_numpy(file.read(array, piece))
    return images


def _from_memory(
    images: torch.Tensor, seed: int, slices: Iterator[tuple[int, slice]], device: torch.device
) -> Iterator[Batch]:
    for epoch, steps in itertools.groupby(slices, itemgetter(0)):
        permutation = np.random.default_rng([seed, epoch]).permutation(len(images))
        indices = torch.from_numpy(permutation).to(images.device)
        for _, part in steps:
            yield {"images": _taken(images, indices[part], device)}


def held_batches(
    rows: torch.Tensor, batch_size: int, seed: int, start_step: int = 0, rank: int = 0, world_size: int = 1
) -> Iterator[torch.Tensor]:
    """Endless shuffled batches of rows in memory, in the order of `training_batches`.

    Args:
        rows: [N, ...].
        batch_size: As in `training_batches`, like all other arguments.
        seed: The seed of the shuffling.
        start_step: The step of the first batch.
        rank: The number of this process.
        world_size: How many processes share the batch.

    Returns:
        An iterator over [batch_size / world_size, ...], on the device of the rows.

    Raises:
        UserError: For a batch size that does not fit.
    """
    _check(len(rows), batch_size, seed, start_step, rank, world_size)
    slices = _slices(len(rows), batch_size, start_step, rank, world_size)
    return (batch["images"] for batch in _from_memory(rows, seed, slices, rows.device))


def _taken(images: torch.Tensor, indices: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The images [B, H, W, 3] at these indices [B]; page-locked on the host if they are for a GPU."""
    pinned = device.type == "cuda" and images.device.type == "cpu"
    batch = torch.empty((len(indices), *images.shape[1:]), dtype=images.dtype, device=images.device, pin_memory=pinned)
    return torch.index_select(images, 0, indices, out=batch)


@dataclass(frozen=True)
class WindowOrder:
    """The order in which a split is read from disk and shuffled, a pure function of (seed, epoch).

    The split is cut into blocks of `IMAGES_PER_READ` consecutive images; the last may be shorter. An epoch permutes the
    blocks, cuts them into windows of equal size (give or take a block), and permutes the images inside each window.

    Args:
        num_images: The size of the split.
        images_per_window: The fewest images in a window. A split of fewer images is one window.
        seed: The seed of the permutations.
    """

    num_images: int
    images_per_window: int
    seed: int

    @property
    def num_blocks(self) -> int:
        """Blocks in the split."""
        return -(-self.num_images // IMAGES_PER_READ)

    @property
    def num_windows(self) -> int:
        """Windows in an epoch."""
        smallest = -(-self.images_per_window // IMAGES_PER_READ) + 1  # one more, as one block may be shorter
        return max(1, self.num_blocks // smallest)

    @property
    def blocks_per_window(self) -> int:
        """Blocks in the largest window."""
        return -(-self.num_blocks // self.num_windows)

    def window(self, turn: int) -> range:
        """The turns of an epoch whose blocks are in the same window as the block of this turn."""
        window = turn * self.num_windows // self.num_blocks
        start, stop = (-(-number * self.num_blocks // self.num_windows) for number in (window, window + 1))
        return range(start, stop)

    def blocks(self, epoch: int) -> NDArray[np.int64]:
        """The number of the block that is read at each turn of an epoch, [num_blocks]."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_blocks)

    def places(self, epoch: int) -> NDArray[np.int64]:
        """The images of an epoch in the order they are visited, as places turn * IMAGES_PER_READ + offset.

        Returns:
            [num_images]; `blocks(epoch)[turn] * IMAGES_PER_READ + offset` is the index of the image in the split.
        """
        generator = np.random.default_rng([self.seed, epoch, 1])
        images = self.blocks(epoch)[:, None] * IMAGES_PER_READ + np.arange(IMAGES_PER_READ)
        present = images < self.num_images  # the last block may be shorter
        windows = []
        turn = 0
        while turn < self.num_blocks:
            window = self.window(turn)
            inside = np.flatnonzero(present[window.start : window.stop])
            windows.append(window.start * IMAGES_PER_READ + generator.permutation(inside))
            turn = window.stop
        return np.concatenate(windows)


class _Blocks(Dataset[torch.Tensor]):
    """The blocks of a split, each one contiguous read."""

    def __init__(self, path: Path | str, split: str):
        self.path = path
        self.split = split
        self._file: DatasetFile | None = None  # opened by the process that reads: HDF5 handles do not survive a fork

    def __getitem__(self, block: int) -> torch.Tensor:
        if self._file is None:
            self._file = DatasetFile(self.path)
        start = block * IMAGES_PER_READ
        return torch.from_numpy(self._file.read(self._file.images(self.split), slice(start, start + IMAGES_PER_READ)))


def _from_disk(
    source: _Blocks,
    image_shape: list[int],
    order: WindowOrder,
    slices: Iterator[tuple[int, slice]],
    num_workers: int,
    device: torch.device,
) -> Iterator[Batch]:
    # A ring of two windows: the one in use, and the next, which fills at the pace of the batches. Blocks are counted
    # from the start of epoch 0, as if all had been read.
    ring = torch.empty((2 * order.blocks_per_window * IMAGES_PER_READ, *image_shape), dtype=torch.uint8)
    epoch, part = first = next(slices)
    num_read = epoch * order.num_blocks + order.window(order.places(epoch)[part.start] // IMAGES_PER_READ).start
    blocks = _read(source, order, num_read, num_workers)
    for epoch, steps in itertools.groupby(itertools.chain([first], slices), itemgetter(0)):
        places = torch.from_numpy(order.places(epoch))
        before = epoch * order.num_blocks
        for _, part in steps:
            needed = order.window(int(places[part.stop - 1]) // IMAGES_PER_READ).stop
            ahead = part.start // IMAGES_PER_READ + order.blocks_per_window
            while num_read < before + max(needed, ahead):
                block = next(blocks)
                place = num_read * IMAGES_PER_READ % len(ring)
                ring[place : place + len(block)] = block
                num_read += 1
            yield {"images": _taken(ring, (before * IMAGES_PER_READ + places[part]) % len(ring), device)}


def _read(source: _Blocks, order: WindowOrder, num_read: int, num_workers: int) -> Iterator[torch.Tensor]:
    """The blocks uint8 [up to IMAGES_PER_READ, H, W, 3] in the order they are read, without the first `num_read`."""
    epoch, turn = divmod(num_read, order.num_blocks)
    turns = itertools.chain.from_iterable(order.blocks(number).tolist() for number in itertools.count(epoch))
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=itertools.islice(turns, turn, None),
        num_workers=num_workers,
        generator=torch.Generator(),  # the loader would otherwise draw its workers' seed from the global generator
    )
    try:
        yield from loader
    except UserError as error:
        # From a worker process, the message is the last line of a traceback.
        line = str(error).strip().splitlines()[-1]
        error.__traceback__ = None  # it would keep the loader alive, and its workers would take seconds to exit
    raise UserError(line.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: "))


def evaluation_batches(
    path: Path | str, split: str, batch_size: int, num_images: int | None = None, masks: bool = True
) -> Iterator[Batch]:
    """The first images of a split in order, with their masks if the file has them. The last batch may be smaller.

    Masks show the visible part of each entity: where they overlap in the file, the higher entity is in front.

    Args:
        path: A dataset file.
        split: The split to evaluate on.
        batch_size: Images per batch.
        num_images: How many images; None for all.
        masks: Whether to read masks if the file has them.

    Returns:
        An iterator over {"images": uint8 [B, H, W, 3], "masks": uint8 [B, O, H, W, 1]}.

    Raises:
        UserError: If there is no such split, or it has fewer images than asked for, is damaged, or has masks that would
            be misread.
    """
    with DatasetFile(path) as file:
        available = file.num_images(split)
    count = available if num_images is None else num_images
    if not 1 <= count <= available:
        raise UserError(f"{path}: {split} has {available} images, {count} were asked for; ask for 1 to {available}")
    if batch_size < 1:
        raise UserError(f"a batch of {batch_size} images is empty; use a batch size of at least 1")
    return _in_order(path, split, batch_size, count, masks)


def _in_order(path: Path | str, split: str, batch_size: int, count: int, masks: bool) -> Iterator[Batch]:
    with DatasetFile(path) as file:
        for start in range(0, count, batch_size):
            items = slice(start, min(start + batch_size, count))
            arrays = {
                "images": file.read(file.images(split), items),
                "masks": file.visible_masks(split, items) if masks else None,
            }
            yield {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}


def to_images(batch_uint8: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Move images to the device, then convert them to what models take.

    Args:
        batch_uint8: uint8 [B, H, W, 3] in 0..255.
        device: The device.

    Returns:
        float32 [B, 3, H, W] in [0, 1], contiguous.
    """
    moved = batch_uint8.to(device, non_blocking=True).permute(0, 3, 1, 2)  # [B, 3, H, W]
    return moved.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
