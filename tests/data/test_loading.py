import gc
import multiprocessing
import pickle
from itertools import chain, islice

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.util import get_rng_state

from pyro_sri.data import loading
from pyro_sri.data.format import DatasetFile, SceneArrays
from pyro_sri.data.loading import (
    IMAGES_PER_READ,
    WindowOrder,
    evaluation_batches,
    held_batches,
    to_images,
    training_batches,
)
from pyro_sri.data.writing import write_dataset
from pyro_sri.system.errors import UserError
from support.mistakes import one_line

NUM, SIZE = 1003, 4  # 16 blocks, the last one of 43 images
IMAGE_BYTES = 3 * SIZE**2
SMALL_WINDOW = 2 * IMAGES_PER_READ * IMAGE_BYTES  # so that there are 5 windows of 3 or 4 blocks

# Forking a process that has threads draws a warning from Python 3.12 on; torch's loader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM, SIZE, SIZE, 3), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(NUM), 256)  # says which image it is
    inside = rng.random((NUM, 1, SIZE, SIZE, 1)) < 0.5
    return SceneArrays(images, np.concatenate([inside, ~inside], axis=1) * np.uint8(255))


@pytest.fixture(scope="module")
def path(scenes, tmp_path_factory):
    path = tmp_path_factory.mktemp("loading") / "scenes.h5"
    write_dataset(path, {"train": [scenes], "test": [SceneArrays(scenes.images[:7])]}, {})
    return path


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch):
    monkeypatch.setattr(loading, "WINDOW_BYTES", SMALL_WINDOW)


@pytest.fixture(params=["memory", "disk"])
def source(request):
    return {"memory": {}, "disk": {"in_memory_limit_bytes": 0}}[request.param]


def which(batch):
    marks = batch["images"][:, 0, 0].long()
    return (256 * marks[:, 0] + marks[:, 1]).tolist()


def random_state():
    """The state of every global generator."""
    state = get_rng_state()
    return state["torch"].tolist(), state["random"], [np.asarray(part).tolist() for part in state["numpy"]]


def visited(order, epoch):
    """The indices of the images of an epoch, in order."""
    turns, offsets = np.divmod(order.places(epoch), IMAGES_PER_READ)
    return order.blocks(epoch)[turns] * IMAGES_PER_READ + offsets


# The order of the windows


orders = st.builds(WindowOrder, st.integers(1, 5000), st.integers(1, 1000), st.integers(0, 2**40))


@settings(deadline=None, max_examples=100)
@given(orders, st.integers(0, 1000))
def test_an_epoch_is_a_permutation_of_whole_blocks_in_windows(order, epoch):
    blocks, places = order.blocks(epoch), order.places(epoch)
    assert sorted(blocks) == list(range(order.num_blocks))
    assert sorted(visited(order, epoch)) == list(range(order.num_images))
    windows = [order.window(turn) for turn in range(order.num_blocks)]
    assert all(turn in window for turn, window in enumerate(windows))
    distinct = list(dict.fromkeys(windows))
    assert list(chain(*distinct)) == list(range(order.num_blocks))
    assert len(distinct) == order.num_windows
    assert {len(window) for window in distinct} <= {order.blocks_per_window, order.blocks_per_window - 1}
    window_of_visit = [windows[turn].start for turn in places // IMAGES_PER_READ]
    assert window_of_visit == sorted(window_of_visit)
    if order.num_windows > 1:
        assert min(np.bincount(window_of_visit)[[window.start for window in distinct]]) >= order.images_per_window


def test_an_epoch_depends_on_seed_and_epoch_alone():
    order = WindowOrder(NUM, 128, 3)
    assert np.array_equal(visited(order, 2), visited(WindowOrder(NUM, 128, 3), 2))
    for other in (visited(order, 3), visited(WindowOrder(NUM, 128, 4), 2)):
        assert not np.array_equal(visited(order, 2), other)
        assert set(visited(order, 2)[:128]) != set(other[:128])  # the windows differ, not only the order inside them


def test_windows_shuffle_well():
    """Ten windows, each of as many 64 x 64 images as `WINDOW_BYTES` hold: close to a permutation of the whole."""
    order = WindowOrder(112_000, 10_922, 0)
    assert order.num_windows == 10
    epoch = visited(order, 0)
    displacement = np.abs(epoch - np.arange(len(epoch))).mean() / len(epoch)
    assert displacement == pytest.approx(1 / 3, abs=0.05)  # what a permutation of the whole has
    assert np.mean(np.abs(np.diff(epoch)) == 1) < 1e-3  # neighbours that stay neighbours
    assert np.mean(epoch[1:] // IMAGES_PER_READ == epoch[:-1] // IMAGES_PER_READ) < 0.01
    batches = epoch[: len(epoch) // 32 * 32].reshape(-1, 32) // IMAGES_PER_READ
    assert np.mean([len(set(blocks)) for blocks in batches]) > 28  # a batch of 32 comes from as many blocks, nearly
    assert abs(np.corrcoef(epoch, visited(order, 1))[0, 1]) < 0.05


# Batches for training


def test_a_split_in_memory_is_permuted_as_a_whole(path):
    """The order of all earlier results."""
    batches = training_batches(path, "train", 50, seed=3, start_step=19)
    for epoch, steps in ((0, [19]), (1, range(20)), (2, [0, 1])):
        permutation = np.random.default_rng([3, epoch]).permutation(NUM)
        for step in steps:
            assert which(next(batches)) == permutation[50 * step : 50 * step + 50].tolist()


@pytest.mark.parametrize("batch_size", [1, 32, 50, 64, 200, 700, NUM])
def test_a_split_on_disk_follows_the_windows(path, batch_size):
    """From before the end of an epoch on, with batches that lie in one window, in two, or are larger than some."""
    order = WindowOrder(NUM, max(128, batch_size), 3)
    assert batch_size > 200 or order.num_windows > 2
    steps = NUM // batch_size
    batches = training_batches(path, "train", batch_size, 3, start_step=2 * steps - 1, in_memory_limit_bytes=0)
    for step in range(2 * steps - 1, 4 * steps + 1):
        epoch, place = divmod(step, steps)
        expected = visited(order, epoch)[place * batch_size : (place + 1) * batch_size]
        assert which(next(batches)) == expected.tolist()


def test_an_epoch_visits_every_image_once(path, source):
    batches = training_batches(path, "train", 17, seed=0, **source)
    for _ in range(2):
        epoch = list(chain(*map(which, islice(batches, NUM // 17))))
        assert len(epoch) == len(set(epoch)) == NUM // 17 * 17
        assert set(epoch) <= set(range(NUM))


@pytest.mark.parametrize("start", [0, 1, 14, 30, 31, 100])
def test_a_batch_is_the_same_from_wherever_one_starts(path, source, scenes, start):
    whole = islice(training_batches(path, "train", 32, seed=1, **source), start, None)
    late = training_batches(path, "train", 32, seed=1, start_step=start, **source)
    for first, second in islice(zip(whole, late, strict=True), 40):
        assert first["images"].shape == (32, SIZE, SIZE, 3)
        assert first["images"].dtype == torch.uint8
        np.testing.assert_array_equal(first["images"], scenes.images[which(first)])
        assert torch.equal(first["images"], second["images"])


def test_batches_stay_as_they_are_given(path, source):
    batches = list(islice(training_batches(path, "train", 32, seed=1, **source), 100))
    for kept, again in zip(batches, training_batches(path, "train", 32, seed=1, **source), strict=False):
        assert torch.equal(kept["images"], again["images"])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(path, source, num_workers):
    before = random_state()
    alone = training_batches(path, "train", 40, seed=3, start_step=20, **source)
    helped = training_batches(path, "train", 40, seed=3, start_step=20, num_workers=num_workers, **source)
    for _ in range(60):
        assert which(next(helped)) == which(next(alone))
    helped.close()
    assert not multiprocessing.active_children()
    assert random_state() == before


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_the_global_batch_in_order(path, source, world_size):
    whole = training_batches(path, "train", 48, seed=3, start_step=7, **source)
    parts = [
        training_batches(path, "train", 48, 3, 7, rank=rank, world_size=world_size, **source)
        for rank in range(world_size)
    ]
    for _ in range(50):
        shares = [which(next(part)) for part in parts]
        assert {len(share) for share in shares} == {48 // world_size}
        assert list(chain(*shares)) == which(next(whole))


def test_tiny_splits(path, source):
    """Less than a block, and a batch of all there is."""
    for batch_size in (1, 3, 7):
        batches = training_batches(path, "test", batch_size, seed=0, **source)
        for _ in range(3):
            epoch = list(chain(*map(which, islice(batches, 7 // batch_size))))
            assert len(set(epoch)) == 7 // batch_size * batch_size


def test_held_rows_come_in_the_order_of_images(path):
    """Whatever is held in place of images: every epoch all of it, from any step on, shared by ranks."""
    images = torch.stack([batch["images"] for batch in islice(training_batches(path, "train", 4, seed=3), 12)])
    with DatasetFile(path) as file:
        rows = torch.from_numpy(file.read(file.images("train"), slice(None)))
    taken = torch.stack(list(islice(held_batches(rows, 4, seed=3), 12)))
    assert taken.equal(images)
    late = [next(held_batches(rows, 4, 3, start_step=7, rank=rank, world_size=2)) for rank in range(2)]
    assert torch.cat(late).equal(images[7])
    with pytest.raises(UserError, match="larger than the split"):
        held_batches(rows, len(rows) + 1, seed=3)


def test_bytes_decide_what_is_held(path, scenes, monkeypatch):
    reads = []
    read = DatasetFile.read
    monkeypatch.setattr(DatasetFile, "read", lambda *args: reads.append(args) or read(*args))
    held = training_batches(path, "train", 8, 0, in_memory_limit_bytes=scenes.images.nbytes)
    assert len(reads) == 4  # at once, in pieces
    next(held)
    assert len(reads) == 4
    reads.clear()
    training_batches(path, "train", 8, 0, in_memory_limit_bytes=scenes.images.nbytes - 1)
    assert not reads


def test_disk_is_read_evenly_and_once_an_epoch(path, monkeypatch):
    reads = []
    read = DatasetFile.read
    monkeypatch.setattr(DatasetFile, "read", lambda self, array, items: reads.append(items) or read(self, array, items))
    steps = NUM // 16
    batches = training_batches(path, "train", 16, 0, start_step=3 * steps, in_memory_limit_bytes=0)
    counts = []
    for _ in range(3 * steps):
        before = len(reads)
        next(batches)
        counts.append(len(reads) - before)
    assert counts[0] == 4  # the first window
    assert max(counts[1:]) <= 2  # then a block every four batches, or two where windows meet
    starts = [items.start for items in reads]
    assert all(items.stop - items.start == IMAGES_PER_READ for items in reads)
    for epoch in range(3):
        assert sorted(starts[16 * epoch : 16 * epoch + 16]) == list(range(0, NUM, IMAGES_PER_READ))


def test_starting_late_reads_no_earlier_window(path, monkeypatch):
    reads = []
    read = DatasetFile.read
    monkeypatch.setattr(DatasetFile, "read", lambda *args: reads.append(args) or read(*args))
    next(training_batches(path, "train", 16, 0, start_step=10**6 + 50, in_memory_limit_bytes=0))
    assert len(reads) <= 7  # at most the window of the batch, and up to where the next one would be by then


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "val"}, ["no split"]),
        ({"batch_size": NUM + 1}, [str(NUM + 1), f"{NUM} images", "smaller"]),
        ({"batch_size": 0}, ["empty"]),
        ({"batch_size": 5, "world_size": 2}, ["5", "2 processes"]),
        ({"seed": -1}, ["-1", "negative"]),
        ({"start_step": -2}, ["-2", "negative"]),
    ],
)
def test_training_refuses_at_once(path, source, options, words):
    with pytest.raises(UserError) as caught:
        training_batches(path, **{"split": "train", "batch_size": 4, "seed": 0} | options, **source)
    one_line(caught, *words)


def test_a_rank_out_of_range(path):
    with pytest.raises(ValueError, match="rank 2"):
        training_batches(path, "train", 4, 0, rank=2, world_size=2)


@pytest.fixture
def damaged(path, tmp_path):
    with h5py.File(path, locking=False) as file:
        offset = file["train/imgs"].id.get_chunk_info(40).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 5] ^= 1
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(content)
    return damaged


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damage_found_while_training_is_one_line(damaged, num_workers):
    batches = training_batches(damaged, "train", 50, 0, num_workers=num_workers, in_memory_limit_bytes=0)
    with pytest.raises(UserError) as caught:
        list(islice(batches, 20))
    one_line(caught, str(damaged), "train/imgs cannot be read", "data check")
    gc.collect()
    assert not multiprocessing.active_children()


def test_damage_is_found_at_once_in_memory(damaged):
    with pytest.raises(UserError) as caught:
        training_batches(damaged, "train", 50, 0)
    one_line(caught, str(damaged), "train/imgs cannot be read", "data check")


def test_a_file_that_vanishes_is_one_line(path, tmp_path):
    gone = tmp_path / "gone.h5"
    gone.write_bytes(path.read_bytes())
    batches = training_batches(gone, "train", 50, 0, num_workers=1, in_memory_limit_bytes=0)
    gone.unlink()
    with pytest.raises(UserError) as caught:
        next(batches)
    one_line(caught, "there is no file", str(gone))


def test_workers_may_be_spawned(path):
    """As on macOS, where what workers get is pickled."""
    assert len(pickle.dumps(loading._Blocks(path, "train"))) < 1000
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        batches = training_batches(path, "train", 50, 0, num_workers=1, in_memory_limit_bytes=0)
        images = [next(batches)["images"] for _ in range(30)]
        batches.close()
    finally:
        multiprocessing.set_start_method(before, force=True)
    again = training_batches(path, "train", 50, 0, in_memory_limit_bytes=0)
    assert all(torch.equal(batch, next(again)["images"]) for batch in images)


def test_a_gpu_holds_what_takes_a_modest_share_of_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4000, 8000))
    gpu, cpu = torch.device("cuda", 1), torch.device("cpu")
    assert loading._home(1000, gpu) == gpu
    assert loading._home(1001, gpu) == cpu
    assert loading._home(1, cpu) == cpu


@needs_gpu
@pytest.mark.parametrize(("share", "limit"), [(0.25, NUM * IMAGE_BYTES), (0.0, NUM * IMAGE_BYTES), (0.25, 0)])
def test_a_gpu_gets_the_same_batches(path, monkeypatch, share, limit):
    monkeypatch.setattr(loading, "GPU_MEMORY_SHARE", share)
    options = {"start_step": 5, "in_memory_limit_bytes": limit}
    there = training_batches(path, "train", 32, 0, device="cuda", **options)
    here = training_batches(path, "train", 32, 0, **options)
    for batch, expected in islice(zip(there, here, strict=True), 70):
        assert batch["images"].is_cuda if share and limit else batch["images"].is_pinned()
        assert torch.equal(to_images(batch["images"], "cuda").cpu(), to_images(expected["images"], "cpu"))


# Batches for evaluation


def test_evaluation_batches_are_in_order(path, scenes):
    batches = list(evaluation_batches(path, "train", 8, 20))
    assert [len(batch["images"]) for batch in batches] == [8, 8, 4]
    assert list(chain(*map(which, batches))) == list(range(20))
    np.testing.assert_array_equal(torch.cat([batch["masks"] for batch in batches]), scenes.masks[:20])
    everything = list(evaluation_batches(path, "test", 8))
    assert [list(batch) for batch in everything] == [["images"]]
    assert list(next(evaluation_batches(path, "train", 8, masks=False))) == ["images"]
    assert which(everything[0]) == list(range(7))


@pytest.mark.parametrize(
    ("split", "batch_size", "num_images", "words"),
    [
        ("test", 8, 8, ["7 images", "8 were asked"]),
        ("test", 8, 0, ["1 to 7"]),
        ("val", 8, 1, ["no split"]),
        ("test", 0, 7, ["empty"]),
    ],
)
def test_evaluation_refuses_at_once(path, split, batch_size, num_images, words):
    with pytest.raises(UserError) as caught:
        evaluation_batches(path, split, batch_size, num_images)
    one_line(caught, *words)


def test_to_images():
    batch = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(2, 4, 4, 3)
    images = to_images(batch, "cpu")
    assert images.shape == (2, 3, 4, 4)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert torch.equal(images[1, :, 2, 3], torch.tensor([0.0, 0.2, 1.0]))
