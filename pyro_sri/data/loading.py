"""Batches of scenes for training and evaluation.

Shuffling is a pure function of (seed, step), so that a run continues from any step exactly, whatever the number of
worker processes and without stored state.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from pyro_sri.data.format import DatasetFile
from pyro_sri.errors import UserError

IN_MEMORY_LIMIT_BYTES = 2 * 1024**3

Batch = dict[str, torch.Tensor]


class SceneDataset(Dataset[Batch]):
    """The scenes of one split, by index.

    A split that fits within the limit is read into memory at once, where forked workers share it; a larger one is read
    from disk, through one handle per process. Either way the object can be pickled, without its arrays.

    Args:
        path: A dataset file.
        split: "train", "val" or "test".
        in_memory_limit_bytes: The largest split to hold in memory.
        with_masks: Also give the instance masks.

    Raises:
        UserError: If the file breaks the layout, has no such split, or has no masks though they are asked for.
    """

    def __init__(
        self,
        path: Path | str,
        split: str,
        in_memory_limit_bytes: int = IN_MEMORY_LIMIT_BYTES,
        *,
        with_masks: bool = False,
    ):
        self.path = Path(path)
        self.split = split
        self.with_masks = with_masks
        self._file: DatasetFile | None = None
        self._file_owner: int | None = None  # HDF5 handles do not survive a fork: the process that opened this one
        self._memory: dict[str, NDArray[np.uint8]] | None = None
        with DatasetFile(path) as file:
            arrays = self._arrays(file)
            self._length = file.num_images(split)
            self.in_memory = sum(array.nbytes for array in arrays.values()) <= in_memory_limit_bytes
            if self.in_memory:
                self._memory = {name: file.read(array, slice(None)) for name, array in arrays.items()}

    def _arrays(self, file: DatasetFile) -> dict[str, Any]:
        arrays = {"images": file.images(self.split)}
        if self.with_masks:
            arrays["masks"] = file.masks(self.split)
            if arrays["masks"] is None:
                raise UserError(f"{self.path}: {self.split} has no masks; use a file that has them")
        return arrays

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {name: batch[0] for name, batch in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The scenes at these indices, in this order.

        Returns:
            "images", uint8 [B, H, W, 3], and where asked for "masks", uint8 [B, O, H, W, 1].

        Raises:
            UserError: If the file is damaged there.
        """
        if self.in_memory and self._memory is None:
            with DatasetFile(self.path) as file:
                self._memory = {name: file.read(array, slice(None)) for name, array in self._arrays(file).items()}
        if self._memory is not None:
            return {name: torch.from_numpy(array[indices]) for name, array in self._memory.items()}
        if self._file is None or self._file_owner != os.getpid():
            self._file, self._file_owner = DatasetFile(self.path), os.getpid()
        file = self._file
        return {name: torch.from_numpy(file.read(array, indices)) for name, array in self._arrays(file).items()}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_file_owner": None, "_memory": None}


class StepSampler(Sampler[list[int]]):
    """An endless stream of batches of indices, each a pure function of (seed, step).

    Epoch e visits the items in the order `np.random.default_rng([seed, e]).permutation(num_items)`, cut into batches;
    items left over at its end are dropped. Each rank takes its contiguous slice of the global batch.

    Args:
        num_items: The size of the split.
        batch_size: The global batch, over all ranks.
        seed: Any whole number from 0.
        start_step: The step of the first batch that iteration yields.
        rank: This process among `world_size`.
        world_size: How many processes share the batch.

    Raises:
        UserError: If the batch is larger than the split, not positive, or not divisible among the ranks.
    """

    def __init__(
        self, num_items: int, batch_size: int, seed: int, start_step: int = 0, rank: int = 0, world_size: int = 1
    ):
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} images is empty; use a batch size of at least 1")
        if batch_size > num_items:
            raise UserError(f"a batch of {batch_size} is more than the {num_items} images; use a smaller one")
        if batch_size % world_size:
            raise UserError(f"a batch of {batch_size} cannot be shared by {world_size} processes; use a multiple")
        if seed < 0 or start_step < 0:
            raise UserError(f"seed {seed} and step {start_step} must not be negative")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not among {world_size} processes")
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.rank = rank
        self.world_size = world_size
        self._epoch = -1  # the epoch whose permutation is kept, for speed alone
        self._permutation = np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> list[int]:
        """The indices of this rank's part of the batch at a step, batch_size / world_size of them."""
        epoch, place = divmod(step, self.num_items // self.batch_size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(self.num_items)
        share = self.batch_size // self.world_size
        start = place * self.batch_size + self.rank * share
        return self._permutation[start : start + share].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.batch, itertools.count(self.start_step))


def training_batches(
    path: Path | str,
    split: str,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    in_memory_limit_bytes: int = IN_MEMORY_LIMIT_BYTES,
) -> Iterator[Batch]:
    """Endless shuffled batches, from any step on, the same whatever the number of workers.

    Args:
        path: A dataset file.
        split: The split to train on.
        batch_size: The global batch, over all ranks.
        seed: The seed of the shuffling.
        start_step: The step of the first batch.
        num_workers: Processes that read ahead; a split held in memory needs none.
        rank: This process among `world_size`.
        world_size: How many processes share the batch.
        pin_memory: Copy batches to page-locked memory, for quicker transfer to a GPU; ignored without one.
        in_memory_limit_bytes: The largest split to hold in memory; a larger one is read from disk.

    Returns:
        An iterator over {"images": uint8 [batch_size / world_size, H, W, 3]}. The global random state is not touched.

    Raises:
        UserError: At once for a wrong file, split or batch size; later if the file turns out to be damaged.
    """
    dataset = SceneDataset(path, split, in_memory_limit_bytes)
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_sampler=StepSampler(len(dataset), batch_size, seed, start_step, rank, world_size),
        collate_fn=_as_is,
        num_workers=num_workers,
        pin_memory=pin_memory and torch.cuda.is_available(),
        generator=torch.Generator(),  # the loader would otherwise draw its workers' seed from the global generator
    )
    return _stream(loader)


def _as_is(batch: Any) -> Any:
    return batch


def _stream(loader: DataLoader[Batch]) -> Iterator[Batch]:
    try:
        yield from loader
    except UserError as error:
        # From a worker process the message comes wrapped in a traceback, whose last line it is.
        line = str(error).strip().splitlines()[-1]
        error.__traceback__ = None  # it would keep the loader alive, whose workers then take seconds to leave
    raise UserError(line.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: "))


def evaluation_batches(path: Path | str, split: str, batch_size: int, num_images: int | None = None) -> Iterator[Batch]:
    """The first images of a split in order, with their masks where the file has them; the last batch may be smaller.

    Args:
        path: A dataset file.
        split: The split to evaluate on.
        batch_size: Images per batch.
        num_images: How many images; None takes all.

    Returns:
        An iterator over {"images": uint8 [B, H, W, 3], "masks": uint8 [B, O, H, W, 1]}.

    Raises:
        UserError: If there is no such split, if it has fewer images than asked for, or if it is damaged.
    """
    with DatasetFile(path) as file:
        available = file.num_images(split)
    count = available if num_images is None else num_images
    if not 1 <= count <= available:
        raise UserError(f"{path}: {split} has {available} images, {count} were asked for; ask for 1 to {available}")
    if batch_size < 1:
        raise UserError(f"a batch of {batch_size} images is empty; use a batch size of at least 1")
    return _in_order(path, split, batch_size, count)


def _in_order(path: Path | str, split: str, batch_size: int, count: int) -> Iterator[Batch]:
    with DatasetFile(path) as file:
        arrays = {"images": file.images(split), "masks": file.masks(split)}
        for start in range(0, count, batch_size):
            items = slice(start, min(start + batch_size, count))
            yield {
                name: torch.from_numpy(file.read(array, items)) for name, array in arrays.items() if array is not None
            }


def to_images(batch_uint8: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Bring images to the device, then make them what models take.

    Args:
        batch_uint8: uint8 [B, H, W, 3] in 0..255.
        device: Where to.

    Returns:
        float32 [B, 3, H, W] in [0, 1], contiguous.
    """
    moved = batch_uint8.to(device, non_blocking=True).permute(0, 3, 1, 2)  # [B, 3, H, W]
    return moved.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
