import pickle
from itertools import chain

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_sri.data.format import Scenes, write_dataset
from pyro_sri.data.loading import SceneDataset, StepSampler, evaluation_batches, to_images, training_batches
from pyro_sri.errors import UserError

NUM, SIZE, ENTITIES = 40, 8, 2

# Forking a process that has threads draws a warning from Python 3.12 on; torch's loader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM, SIZE, SIZE, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(NUM)  # says which image it is
    inside = rng.random((NUM, 1, SIZE, SIZE, 1)) < 0.5
    return Scenes(images, np.concatenate([inside, ~inside], axis=1) * np.uint8(255))


@pytest.fixture(scope="module")
def path(scenes, tmp_path_factory):
    path = tmp_path_factory.mktemp("loading") / "scenes.h5"
    write_dataset(path, {"train": [scenes], "test": [Scenes(scenes.images[:7])]}, {})
    return path


def which(batch):
    return batch["images"][:, 0, 0, 0].tolist()


def one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@st.composite
def samplers(draw):
    world_size = draw(st.integers(1, 4))
    batch_size = world_size * draw(st.integers(1, 6))
    return {
        "num_items": draw(st.integers(batch_size, 60)),
        "batch_size": batch_size,
        "seed": draw(st.integers(0, 2**40)),
        "world_size": world_size,
    }


@settings(deadline=None, max_examples=60)
@given(samplers(), st.integers(0, 200), st.integers(0, 20))
def test_a_batch_depends_on_seed_and_step_alone(options, start, skipped):
    fresh = StepSampler(**options, start_step=start + skipped)
    used = iter(StepSampler(**options, start_step=start))
    for _ in range(skipped):
        next(used)
    for step, batch in zip(range(start + skipped, start + skipped + 5), fresh, strict=False):
        assert batch == next(used) == StepSampler(**options).batch(step)


@settings(deadline=None, max_examples=60)
@given(samplers(), st.integers(0, 50))
def test_ranks_share_the_global_batch_in_order(options, step):
    whole = StepSampler(**options | {"world_size": 1}).batch(step)
    parts = [StepSampler(**options, rank=rank).batch(step) for rank in range(options["world_size"])]
    assert len({len(part) for part in parts}) == 1
    assert list(chain(*parts)) == whole


@settings(deadline=None, max_examples=60)
@given(samplers(), st.integers(0, 5))
def test_an_epoch_visits_no_item_twice(options, epoch):
    sampler = StepSampler(**options | {"world_size": 1})
    steps = options["num_items"] // options["batch_size"]
    visited = list(chain(*(sampler.batch(epoch * steps + step) for step in range(steps))))
    assert len(visited) == len(set(visited)) == steps * options["batch_size"]
    assert set(visited) <= set(range(options["num_items"]))
    permutation = np.random.default_rng([options["seed"], epoch]).permutation(options["num_items"])
    assert visited == permutation[: len(visited)].tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_items": 10, "batch_size": 11, "seed": 0}, ["11", "10 images"]),
        ({"num_items": 10, "batch_size": 0, "seed": 0}, ["empty"]),
        ({"num_items": 10, "batch_size": 5, "seed": 0, "world_size": 2}, ["5", "2 processes"]),
        ({"num_items": 10, "batch_size": 5, "seed": -1}, ["-1", "negative"]),
        ({"num_items": 10, "batch_size": 5, "seed": 0, "start_step": -2}, ["-2", "negative"]),
    ],
)
def test_impossible_batches_are_refused(options, words):
    with pytest.raises(UserError) as caught:
        StepSampler(**options)
    one_line(caught, *words)


def test_memory_and_disk_give_the_same(path, scenes):
    memory = SceneDataset(path, "train", with_masks=True)
    disk = SceneDataset(path, "train", in_memory_limit_bytes=scenes.images.nbytes, with_masks=True)
    assert memory.in_memory
    assert not disk.in_memory
    assert len(memory) == len(disk) == NUM
    for indices in ([0], [39, 0, 17, 17, 3], list(range(NUM))[::-1]):
        for dataset in (memory, disk, pickle.loads(pickle.dumps(memory)), pickle.loads(pickle.dumps(disk))):
            batch = dataset.__getitems__(indices)
            assert batch["images"].dtype == batch["masks"].dtype == torch.uint8
            np.testing.assert_array_equal(batch["images"], scenes.images[indices])
            np.testing.assert_array_equal(batch["masks"], scenes.masks[indices])


def test_a_pickled_dataset_leaves_its_arrays_at_home(path):
    assert len(pickle.dumps(SceneDataset(path, "train"))) < 1000


def test_single_items(path, scenes):
    dataset = SceneDataset(path, "train")
    assert list(dataset[3]) == ["images"]
    np.testing.assert_array_equal(dataset[3]["images"], scenes.images[3])
    with pytest.raises(IndexError):
        dataset[NUM]


def test_masks_that_are_not_there(path):
    with pytest.raises(UserError) as caught:
        SceneDataset(path, "test", with_masks=True)
    one_line(caught, "test has no masks")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("in_memory", [True, False])
def test_training_batches_follow_the_sampler(path, num_workers, in_memory):
    state = torch.get_rng_state()
    options = {"num_workers": num_workers, "rank": 1, "world_size": 2}
    if not in_memory:
        options["in_memory_limit_bytes"] = 0
    batches = training_batches(path, "train", 8, seed=3, start_step=7, **options)
    sampler = StepSampler(NUM, 8, 3, rank=1, world_size=2)
    for step in range(7, 14):
        batch = next(batches)
        assert batch["images"].shape == (4, SIZE, SIZE, 3)
        assert which(batch) == sampler.batch(step)
    batches.close()
    assert torch.equal(torch.get_rng_state(), state)


def test_training_batches_refuse_at_once(path):
    for split, batch_size, word in (("val", 4, "no split"), ("train", NUM + 1, "smaller")):
        with pytest.raises(UserError) as caught:
            training_batches(path, split, batch_size, seed=0)
        one_line(caught, word)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damage_found_while_training_is_one_line(path, tmp_path, num_workers):
    with h5py.File(path) as file:
        offset = file["train/imgs"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 5] ^= 1
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(content)
    batches = training_batches(damaged, "train", NUM, seed=0, num_workers=num_workers, in_memory_limit_bytes=0)
    with pytest.raises(UserError) as caught:
        next(batches)
    one_line(caught, str(damaged), "train/imgs cannot be read", "data check")


def test_evaluation_batches_are_in_order(path, scenes):
    batches = list(evaluation_batches(path, "train", 8, 20))
    assert [len(batch["images"]) for batch in batches] == [8, 8, 4]
    assert list(chain(*map(which, batches))) == list(range(20))
    np.testing.assert_array_equal(torch.cat([batch["masks"] for batch in batches]), scenes.masks[:20])
    everything = list(evaluation_batches(path, "test", 8))
    assert [list(batch) for batch in everything] == [["images"]]
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
