"""Training: resumes bit for bit, never loses anything, says plainly what is wrong."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_sri import checkpoints, load, runs
from pyro_sri.data.making import make_dataset
from pyro_sri.presets import PRESETS
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically
from pyro_sri.training.loop import Diverged, train
from pyro_sri.training.schedule import learning_rate
from support.training import TINY, tiny


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["objective"]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, GECO, optimiser, and the log but for its timings."""
    first, second = (torch.load(p / "checkpoints" / "last.pt", weights_only=True) for p in (one, other))
    assert first["step"] == second["step"]
    assert first["best"] == second["best"]
    assert list(first["objective"]) == list(second["objective"])
    for name in first["objective"]:
        assert torch.equal(first["objective"][name], second["objective"][name]), name
    for number, state in first["optimizer"]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, second["optimizer"]["state"][number][name])
    logs = [
        [{k: v for k, v in line.items() if k != "images_per_second"} for line in runs.read_log(p / "metrics.jsonl")]
        for p in (one, other)
    ]
    assert logs[0] == logs[1]


def test_a_run_directory_holds_everything(tetrominoes: Path, tmp_path: Path) -> None:
    seen = []
    run = train(tiny(tetrominoes), tmp_path / "run", progress=lambda step, line: seen.append((step, line is not None)))
    assert seen == [(step, step > 0 and step % 4 == 0) for step in range(9)]
    assert {p.name for p in run.path.iterdir()} == {"config.yaml", "checkpoints", "metrics.jsonl", "tensorboard"}
    assert runs.open_run(run.path).config == run.config
    lines = run.log()
    assert [line["step"] for line in lines] == [4, 8, 8]
    assert {"loss", "nll", "kl_scene", "kl_slots", "kl_cross", "segregation_nll", "beta", "images_per_second"} <= lines[
        0
    ].keys()
    assert "val_nll" in lines[2]
    assert run.step == 8
    model, guide = load(run.path)
    assert not model.training
    assert not guide.training
    assert torch.equal(model.state_dict()["decoder.layers.13.bias"], weights(run.path)["model.decoder.layers.13.bias"])
    events = list((run.path / "tensorboard").iterdir())
    assert events
    assert sum(event.stat().st_size for event in events) > 10_000  # scalars and pictures


def test_the_log_has_the_weight_of_the_kls_without_a_controller_too(tetrominoes: Path, tmp_path: Path) -> None:
    config = PRESETS["air-multi_digits"].config.tiny()
    fields = {"data": tetrominoes, "image_size": 32, "annealing_steps": 4, "annealing_weight": 1e4}
    run = train(dataclasses.replace(config, **fields, steps=2, log_every=1, validation_images=2), tmp_path / "run")
    assert [line["beta"] for line in run.log() if "loss" in line] == pytest.approx([1000, 100], rel=1e-4)


def test_stopping_and_resuming_changes_nothing(tetrominoes: Path, tmp_path: Path) -> None:
    train(tiny(tetrominoes, steps=20), tmp_path / "whole")
    for steps in (4, 8, 12, 20):
        train(tiny(tetrominoes, steps=steps), tmp_path / "parts", resume=True)
    logs = runs.read_log(tmp_path / "parts" / "metrics.jsonl")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert logs[-1]["step"] == 20


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_log_lines_beyond_the_checkpoint_are_cut(tetrominoes: Path, tmp_path: Path) -> None:
    train(tiny(tetrominoes, steps=20), tmp_path / "whole")
    train(tiny(tetrominoes, steps=8), tmp_path / "cut")
    log = tmp_path / "cut" / "metrics.jsonl"
    with log.open("a") as file:
        file.write(json.dumps({"step": 12, "loss": 0.0}) + "\n" + '{"step": 16, "lo')
    train(tiny(tetrominoes, steps=20), tmp_path / "cut", resume=True)
    assert [line["step"] for line in runs.read_log(log)] == [4, 8, 8, 12, 16, 16, 20, 20]


@pytest.mark.slow  # tests/faults kills a run in every fast suite
def test_killed_and_resumed_equals_uninterrupted(tetrominoes: Path, tmp_path: Path) -> None:
    """40 steps at once equal 20 or so + kill -9 + the rest, through the command."""
    fields = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    command = [
        sys.executable,
        "-m",
        "pyro_sri",
        "train",
        "sri-g-shapestacks",
        "--data",
        str(tetrominoes),
        "--steps",
        "40",
        *fields,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "parts")], env=environment, stderr=subprocess.DEVNULL)
    log = tmp_path / "parts" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not any(line["step"] >= 20 for line in runs.read_log(log)):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    stopped = torch.load(tmp_path / "parts" / "checkpoints" / "last.pt", weights_only=True)["step"]
    assert 16 <= stopped < 40
    resumed = subprocess.run(
        [*command, "--out", str(tmp_path / "parts"), "--resume"], env=environment, capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_sigterm_leaves_a_checkpoint_and_says_how_to_go_on(tetrominoes: Path, tmp_path: Path) -> None:
    fields = [f"--{name.replace('_', '-')}={value}" for name, value in (TINY | {"checkpoint_every": 100_000}).items()]
    command = [sys.executable, "-m", "pyro_sri", "train", "sri-g-shapestacks", "--data", str(tetrominoes), *fields]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "run")], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "--resume" in errors.splitlines()[-1]
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["step"] >= 4


def test_small_splits_are_enough(tmp_path: Path) -> None:
    """Fewer validation images than the default asks for, and no validation split at all."""
    for name, val in (("few", 3), ("none", 0)):
        data = tmp_path / f"{name}.h5"
        make_dataset("tetrominoes", data, size=32, train=8, val=val, test=0)
        run = train(tiny(data, validation_images=256, steps=2), tmp_path / name)
        assert run.step == 2


def test_gradient_clip(tetrominoes: Path, tmp_path: Path) -> None:
    """Adam's first step does not see the size of a gradient, its second does."""
    for clip in (0.0, 1e-3, 1e9):
        train(tiny(tetrominoes, gradient_clip=clip), tmp_path / str(clip))
    assert_same_weights(tmp_path / "0.0", tmp_path / "1000000000.0")
    name = "model.slot_prior.loc.bias"
    assert not torch.equal(weights(tmp_path / "0.0")[name], weights(tmp_path / "0.001")[name])


def test_steps_never_go_back(tetrominoes: Path, tmp_path: Path) -> None:
    train(tiny(tetrominoes), tmp_path)
    with pytest.raises(UserError, match="must be at least that"):
        train(tiny(tetrominoes, steps=4), tmp_path, resume=True)
    assert "steps: 8" in (tmp_path / "config.yaml").read_text()


def test_no_steps_leave_a_run_that_loads(tetrominoes: Path, tmp_path: Path) -> None:
    run = train(tiny(tetrominoes, steps=0), tmp_path)
    assert run.step == 0
    load(tmp_path)


def test_data_may_move_but_not_change(tetrominoes: Path, tmp_path: Path) -> None:
    train(tiny(tetrominoes, steps=4), tmp_path / "run")
    moved, other = tmp_path / "moved.h5", tmp_path / "other.h5"
    shutil.copy(tetrominoes, moved)
    make_dataset("tetrominoes", other, size=32, train=48, val=16, test=16, seed=4)
    with pytest.raises(UserError, match="has different scenes than"):
        train(tiny(other), tmp_path / "run", resume=True)
    train(tiny(moved, steps=6), tmp_path / "run", resume=True)
    kept = moved.read_bytes()
    shutil.copy(other, moved)  # under the same name
    with pytest.raises(UserError, match="has different scenes than when the run to resume began"):
        train(tiny(moved), tmp_path / "run", resume=True)
    moved.write_bytes(kept)
    train(tiny(moved), tmp_path / "run", resume=True)
    train(tiny(tetrominoes), tmp_path / "whole")
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_failed_start_leaves_no_folder(tetrominoes: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for fields in ({"start_from": str(tmp_path / "empty")}, {"batch_size": 4096}):
        with pytest.raises(UserError):
            train(tiny(tetrominoes, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_log_that_cannot_be_written_is_one_plain_line(tetrominoes: Path, tmp_path: Path) -> None:
    train(tiny(tetrominoes, steps=4), tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl") as caught:
        train(tiny(tetrominoes), tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_a_finished_run_is_left_alone(tetrominoes: Path, tmp_path: Path) -> None:
    run = train(tiny(tetrominoes), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*.pt")}
    train(tiny(tetrominoes), tmp_path, resume=True)
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*.pt")} == before


def test_changed_fields_are_named(tetrominoes: Path, tmp_path: Path) -> None:
    train(tiny(tetrominoes), tmp_path)
    with pytest.raises(UserError, match=r"--learning-rate \(was 0.0001\)") as caught:
        train(tiny(tetrominoes, learning_rate=1e-3, steps=12), tmp_path, resume=True)
    assert "--steps" not in str(caught.value)


def test_a_folder_that_holds_something_is_refused(tetrominoes: Path, tmp_path: Path) -> None:
    for name in ("notes.md", "other.md"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=r"holds other files \(notes.md and 1 more\): choose another folder"):
        train(tiny(tetrominoes), tmp_path)
    with pytest.raises(UserError, match=r"notes.md is a file"):
        train(tiny(tetrominoes), tmp_path / "notes.md")
    assert (tmp_path / "notes.md").read_text() == "mine"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "slurm-7.out").write_text("what the command prints may go there")
    train(tiny(tetrominoes), tmp_path / "run")
    with pytest.raises(UserError, match="--resume"):
        train(tiny(tetrominoes), tmp_path / "run")


def test_divergence_stops_with_the_last_good_checkpoint(tetrominoes: Path, tmp_path: Path) -> None:
    train(tiny(tetrominoes, steps=4), tmp_path)
    good = weights(tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    for moments in checkpoint["optimizer"]["state"].values():  # the next updates are absurd
        moments["exp_avg"].fill_(1e38)
        moments["exp_avg_sq"].zero_()
    torch.save(checkpoint, tmp_path / "checkpoints" / "last.pt")
    with pytest.raises(Diverged, match="last good checkpoint"):
        train(tiny(tetrominoes, steps=12), tmp_path, resume=True)
    after = weights(tmp_path)
    assert all(torch.equal(good[name], after[name]) for name in good)
    assert runs.read_log(tmp_path / "metrics.jsonl")[-1]["step"] == 4


@pytest.mark.parametrize("place", ["step", "validation", "pictures"])
def test_what_torch_refuses_is_divergence_too(
    tetrominoes: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in the loop, and with finite parameters."""

    def refuse(*_: object) -> None:
        torch.distributions.Normal(torch.full((1,), torch.nan), 1.0, validate_args=True)

    names = {"step": "Stepper.__call__", "validation": "_Trainer._validate", "pictures": "_Trainer._log_pictures"}
    monkeypatch.setattr(f"pyro_sri.training.loop.{names[place]}", refuse)
    with pytest.raises(Diverged, match=r"; start a new run .* --gradient-clip$"):
        train(dataclasses.replace(tiny(tetrominoes), preset="mine"), tmp_path)


def test_errors_that_are_no_divergence_stay_what_they_are(
    tetrominoes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("pyro_sri.training.loop._Trainer._validate", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        train(tiny(tetrominoes), tmp_path)


def test_the_intervals_of_bookkeeping_may_change(tetrominoes: Path, tmp_path: Path) -> None:
    """And do not change the weights."""
    whole = train(tiny(tetrominoes), tmp_path / "whole")
    train(tiny(tetrominoes, steps=4), tmp_path / "parts")
    others = dict.fromkeys(("log_every", "validate_every", "picture_every", "checkpoint_every"), 3)
    run = train(tiny(tetrominoes, **others), tmp_path / "parts", resume=True)
    assert_same_weights(run.path, whole.path)
    assert runs.open_run(run.path).config.checkpoint_every == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "not a readable checkpoint"),
        (lambda path: path.write_bytes(b""), "not a readable checkpoint"),
        (lambda path: torch.save({"weights": torch.zeros(1)}, path), "has no step or no weights"),
        (lambda path: torch.save({"step": 4, "objective": {"model.x": torch.zeros(1)}}, path), "does not fit"),
    ],
)
def test_bad_checkpoints_are_one_plain_line(tetrominoes: Path, tmp_path: Path, damage: Any, message: str) -> None:
    train(tiny(tetrominoes, steps=4), tmp_path)
    for name in ("last", "best"):
        damage(tmp_path / "checkpoints" / f"{name}.pt")
    for attempt in (lambda: train(tiny(tetrominoes), tmp_path, resume=True), lambda: load(tmp_path)):
        with pytest.raises(UserError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_other_networks_is_refused(tetrominoes: Path, tmp_path: Path) -> None:
    train(tiny(tetrominoes, steps=4), tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("slot_size: 8", "slot_size: 16"))
    with pytest.raises(UserError, match=r"does not fit the run's config\.yaml"):
        load(tmp_path)


def test_data_that_does_not_fit(tetrominoes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fewer than --batch-size 64"):
        train(tiny(tetrominoes, batch_size=64), tmp_path)
    with pytest.raises(UserError, match="holds 32x32 images"):
        train(tiny(tetrominoes, image_size=64), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tetrominoes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no GPU"):
        train(tiny(tetrominoes, device="cuda"), tmp_path)


def test_a_full_disk_is_one_plain_line_and_keeps_the_old_checkpoint(tetrominoes: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoints.save_checkpoint(path, {"step": 1, "objective": {}})

    def full(file: Any) -> None:
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        write_atomically(path, full)
    assert checkpoints.load_checkpoint(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_same_seed_same_parameters(tetrominoes: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(tiny(tetrominoes), tmp_path / name)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    train(tiny(tetrominoes, seed=1), tmp_path / "three")
    assert not torch.equal(
        weights(tmp_path / "one")["model.slot_prior.loc.bias"], weights(tmp_path / "three")["model.slot_prior.loc.bias"]
    )


def test_start_from_another_run(tetrominoes: Path, tmp_path: Path) -> None:
    first = train(tiny(tetrominoes), tmp_path / "first")
    fields = {"start_from": str(first.path), "learning_rate": 1e-12, "steps": 4}
    train(tiny(tetrominoes, **fields), tmp_path / "second")
    for name, tensor in weights(tmp_path / "first").items():
        if not name.startswith("elbo."):
            torch.testing.assert_close(tensor, weights(tmp_path / "second")[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="no run directory"):
        train(tiny(tetrominoes, start_from="nowhere"), tmp_path / "third")
    assert not (tmp_path / "third").exists()
    with pytest.raises(UserError, match="does not fit"):
        train(tiny(tetrominoes, start_from=str(first.path), slot_size=16), tmp_path / "fourth")


def test_two_decoders_do_not_start_one(tetrominoes: Path, tmp_path: Path) -> None:
    first = train(tiny(tetrominoes, steps=1), tmp_path / "first")
    with pytest.raises(UserError, match="leave --share-decoder out"):
        train(tiny(tetrominoes, start_from=str(first.path), share_decoder=True), tmp_path / "second")


def test_the_segregation_first(tetrominoes: Path, tmp_path: Path) -> None:
    """Its steps alone move nothing else, and resuming works across the boundary."""
    fields = {"segregation_steps": 6, "steps": 12, "share_decoder": True}
    train(tiny(tetrominoes, **fields), tmp_path / "whole")
    train(tiny(tetrominoes, **fields | {"steps": 4}), tmp_path / "parts")
    alone = weights(tmp_path / "parts")
    torch.manual_seed(0)
    model, guide, _ = tiny(tetrominoes, **fields).build()
    assert torch.equal(alone["guide.scene_encoder.loc.weight"], guide.scene_encoder.loc.weight)
    assert not torch.equal(
        alone["guide.segregation.guide.encoder.mlp.1.weight"], guide.segregation.guide.encoder.mlp[1].weight
    )
    assert not torch.equal(alone["model.decoder.layers.13.bias"], model.decoder.layers[13].bias)
    train(tiny(tetrominoes, **fields), tmp_path / "parts", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    lines = runs.read_log(tmp_path / "whole" / "metrics.jsonl")
    assert "nll" not in lines[0]
    assert "nll" in lines[1]


def test_the_prior_last(tetrominoes: Path, tmp_path: Path) -> None:
    """Its steps move the prior and the scene encoder alone, on slots encoded once; resuming works before and within."""
    fields = {"prior_from": 6, "steps": 12, "prior_batch_size": 4, "log_every": 6}
    train(tiny(tetrominoes, **fields), tmp_path / "whole")
    for steps in (5, 6, 9, 12):
        train(tiny(tetrominoes, **fields | {"steps": steps}), tmp_path / "parts", resume=True)
        if steps == 6:
            before = weights(tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    after = weights(tmp_path / "whole")
    moved = {
        name.split(".")[0] + "." + name.split(".")[1] for name in after if not torch.equal(after[name], before[name])
    }
    assert moved == {"model.slot_prior", "guide.scene_encoder"}
    lines = [line for line in runs.read_log(tmp_path / "whole" / "metrics.jsonl") if "loss" in line]
    assert ["nll" in line for line in lines] == [True, False]


def test_averaged_weights(tetrominoes: Path, tmp_path: Path) -> None:
    """They are what is validated, loaded and started from, beside weights that do not notice; and they resume."""
    fields = {"ema": 0.5, "segregation_steps": 3, "share_decoder": True, "validate_every": 4}
    train(tiny(tetrominoes, **fields), tmp_path / "averaged")
    train(tiny(tetrominoes, **fields | {"ema": 0.0}), tmp_path / "plain")
    for steps in (3, 6, 8):
        train(tiny(tetrominoes, **fields, steps=steps), tmp_path / "parts", resume=True)
    assert_same_weights(tmp_path / "averaged", tmp_path / "plain")
    last = {
        name: checkpoints.load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("averaged", "parts")
    }
    averaged = last["averaged"]["averaged"]
    assert list(averaged) == list(weights(tmp_path / "averaged"))
    assert all(torch.equal(tensor, last["parts"]["averaged"][name]) for name, tensor in averaged.items())
    name = "model.decoder.layers.13.bias"
    assert not torch.equal(averaged[name], weights(tmp_path / "averaged")[name])
    assert torch.equal(averaged[name], averaged[f"guide.segregation.{name}"])
    assert torch.equal(averaged["elbo.geco.beta"], weights(tmp_path / "averaged")["elbo.geco.beta"])
    model, _ = runs.open_run(tmp_path / "averaged").load("last")
    assert torch.equal(model.state_dict()["decoder.layers.13.bias"], averaged[name])
    losses = [runs.read_log(tmp_path / run / "metrics.jsonl")[-1]["val_nll"] for run in ("averaged", "plain", "parts")]
    assert losses[0] == losses[2] != losses[1]
    train(tiny(tetrominoes, start_from=str(tmp_path / "averaged"), steps=0, share_decoder=True), tmp_path / "next")
    best = checkpoints.load_checkpoint(tmp_path / "averaged" / "checkpoints" / "best.pt")["averaged"]
    assert torch.equal(weights(tmp_path / "next")[name], best[name])
    with pytest.raises(UserError, match="--ema"):
        train(tiny(tetrominoes, **fields | {"ema": 0.0}), tmp_path / "parts", resume=True)


def test_learning_rate_schedule(tetrominoes: Path) -> None:
    config = tiny(tetrominoes, learning_rate=1.0, warmup_steps=10, decay_steps=100)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 50) == pytest.approx(0.51)
    assert learning_rate(config, 100) == learning_rate(config, 1000) == pytest.approx(0.02)
    assert learning_rate(dataclasses.replace(config, warmup_steps=0, decay_steps=0), 12345) == 1.0
    halving = dataclasses.replace(config, warmup_steps=10, decay_steps=0, halving_steps=100)
    assert [learning_rate(halving, step) for step in (9, 99, 100, 250)] == [1.0, 1.0, 0.5, 0.25]
    smooth = dataclasses.replace(halving, halving="smooth")
    expected = [1.0, 1.0, 0.5**0.5, 0.5, 0.25]
    assert [learning_rate(smooth, step) for step in (9, 10, 60, 110, 210)] == pytest.approx(expected)


def test_a_prior_that_trains_alone_has_a_warm_up_and_a_cosine_of_its_own() -> None:
    quick = PRESETS["sri-quick"].config
    fields = {"learning_rate": 1.0, "steps": 300, "warmup_steps": 0, "decay_steps": 100}
    config = dataclasses.replace(quick, **fields, segregation_steps=50, prior_from=100, prior_warmup_steps=4)
    plain = dataclasses.replace(config, prior_warmup_steps=0)
    assert learning_rate(config, 99) == learning_rate(plain, 99) < 0.03
    shares = [learning_rate(config, step) / learning_rate(plain, step) for step in (100, 101, 103, 104, 200)]
    assert shares == [0.25, 0.5, 1, 1, 1]
    assert learning_rate(plain, 200) == pytest.approx(0.51)
    constant = dataclasses.replace(config, decay_steps=0)
    assert [learning_rate(constant, step) for step in (99, 100, 104, 299)] == [1, 0.25, 1, 1]


def test_log_cadence_and_pictures_do_not_change_the_weights(tetrominoes: Path, tmp_path: Path) -> None:
    train(tiny(tetrominoes), tmp_path / "often")
    train(
        tiny(tetrominoes, log_every=100, picture_every=100, validate_every=100, checkpoint_every=100),
        tmp_path / "rarely",
    )
    assert_same_weights(tmp_path / "often", tmp_path / "rarely")
