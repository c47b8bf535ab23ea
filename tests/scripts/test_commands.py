"""Every command once, for real, on tiny data; and every mistake as one plain line with exit status 2."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pyro_sri import __version__, load
from pyro_sri.config import flag
from pyro_sri.presets import PRESETS
from pyro_sri.runs import open_run
from pyro_sri.scripts.main import COMMANDS, main

TINY = (
    "--num-slots 3 --slot-size 8 --scene-size 8 --batch-size 4 --steps 4 --log-every 2 "
    "--validation-images 4 --device cpu"
)


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def pyro_sri(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line in this process."""

    def run(*words: object) -> Outcome:
        args = [part for word in words for part in ([str(word)] if isinstance(word, Path) else str(word).split())]
        monkeypatch.setattr("sys.argv", ["pyro-sri", *args])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tetrominoes: Path) -> Path:
    """A tiny run, through the command."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv",
            ["pyro-sri", "train", "sri-g-shapestacks", "--data", str(tetrominoes), "--out", str(path), *TINY.split()],
        )
        main()
    return path


def assert_refused(outcome: Outcome, *words: str) -> None:
    assert outcome.status == 2, outcome.err
    assert len(outcome.err.strip().splitlines()) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err


def test_version_and_help(pyro_sri: Any) -> None:
    assert __version__ in pyro_sri("--version").out
    overview = pyro_sri("--help")
    assert overview.status == 0
    assert all(name in overview.out for name in COMMANDS)


@pytest.mark.parametrize(
    "command", [*COMMANDS, "train sri-quick", "data make", "data info", "data preview", "data check"]
)
def test_every_command_explains_itself(pyro_sri: Any, command: str) -> None:
    outcome = pyro_sri(command, "--help")
    assert outcome.status == 0
    assert "pyro-sri" in outcome.out
    assert len(outcome.out.splitlines()) > 5


def test_presets(pyro_sri: Any) -> None:
    outcome = pyro_sri("presets")
    assert outcome.status == 0
    assert "sri-quick" in outcome.out


def test_train_takes_size_and_fields(trained: Path) -> None:
    text = (trained / "config.yaml").read_text()
    assert "image_size: 32" in text
    assert "num_slots: 3" in text
    model, guide = load(trained)
    assert model.num_slots == guide.num_slots == 3


def test_resume_of_a_finished_run(pyro_sri: Any, trained: Path) -> None:
    outcome = pyro_sri("train sri-g-shapestacks --resume --out", trained)
    assert outcome.status == 0
    assert "trained to step 4" in outcome.err


def test_resume_refuses_changes(pyro_sri: Any, trained: Path) -> None:
    assert_refused(pyro_sri("train sri-g-shapestacks --resume --learning-rate 0.5 --out", trained), "--learning-rate")
    assert_refused(pyro_sri("train sri-mog-clevr6 --resume --out", trained), "sri-g-shapestacks")
    assert_refused(pyro_sri("train sri-g-shapestacks --out", trained), "--resume")


QUICK = (
    "train sri-quick --num-slots 3 --slot-size 8 --scene-size 8 --batch-size 4 --steps 4 --validation-images 4 "
    "--device cpu"
)


def test_a_shorter_run_has_a_shorter_schedule(pyro_sri: Any, tetrominoes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = pyro_sri(QUICK, "--warmup-steps 2 --data", tetrominoes, "--out", out)
    assert outcome.status == 0, outcome.err
    config, quick = open_run(out).config, PRESETS["sri-quick"].config
    shared = ("decay_steps", "segregation_steps", "prior_from")
    expected = {name: round(4 * getattr(quick, name) / quick.steps) for name in shared} | {"warmup_steps": 2}
    assert config.schedule() == expected | {"geco_step": quick.geco_step * quick.steps / 4}
    said = " ".join(f"{flag(name)} {expected[name]}" for name in ("warmup_steps", *shared))
    assert f"4 steps: {said} --geco-step" in outcome.err.splitlines()[1]
    assert "untrained" not in outcome.err
    command = shlex.split(open_run(out).command())
    assert command[command.index("--steps") + 1] == "4"
    assert command[command.index("--warmup-steps") + 1] == "2"
    assert not {"--segregation-steps", "--decay-steps", "--prior-from", "--geco-step"} & set(
        command
    )  # --steps says them
    assert pyro_sri("train sri-quick --steps 5 --resume --out", out).status == 0
    assert open_run(out).config.schedule() == config.schedule()
    assert "--geco-step" in open_run(out).command()


def test_a_scene_model_that_was_never_trained_is_no_secret(pyro_sri: Any, tetrominoes: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "run", tmp_path / "page.html"
    said = "the scene model is untrained: all 4 steps train only the segregation (--segregation-steps 9)"
    trained = pyro_sri(QUICK, "--segregation-steps 9 --data", tetrominoes, "--out", out)
    lines = trained.err.splitlines()
    assert lines.count(f"warning: {said}") == 2
    assert lines.index(f"warning: {said}") < lines.index(next(line for line in lines if line.startswith("step ")))
    assert lines[-2] == f"warning: {said}"
    evaluated = pyro_sri("evaluate", out, "--num-images 4 --iwae-images 0 --num-samples 0")
    assert f"warning: {said}" in evaluated.err
    assert open_run(out).metrics()["untrained"] == said
    assert f"warning: {said}" in pyro_sri("sample", out, "--num 1 --out", tmp_path / "a.png").err
    assert pyro_sri("report", out, "--out", page).status == 0
    assert page.read_text().count(said) >= 2


def test_evaluate(pyro_sri: Any, trained: Path) -> None:
    command = ("evaluate", trained, "--num-images 4 --iwae-images 2 --iwae-samples 2")
    outcome = pyro_sri(*command)
    assert outcome.status == 0, outcome.err
    assert "ari_fg" in outcome.out
    metrics = json.loads((trained / "evaluation" / "metrics.json").read_text())
    required = (
        "ari_fg ari ari_fg_attention mse nll kl bpd bpd_with_cross iwae_bpd frechet frechet_features "
        "structure_accuracy num_images seed step"
    )
    for name in required.split():
        assert name in metrics
        assert metrics[name] is not None or f"{name}_reason" in metrics
    assert metrics["step"] == 4
    assert metrics["num_images"] == 4
    again = pyro_sri(*command)
    assert again.status == 0
    assert json.loads((trained / "evaluation" / "metrics.json").read_text()) == metrics
    assert (trained / "evaluation" / "metrics.1.json").exists()


def test_evaluate_several_seeds(pyro_sri: Any, trained: Path, tmp_path: Path) -> None:
    runs = []
    for seed in (0, 1):
        runs.append(tmp_path / f"seed{seed}")
        shutil.copytree(trained, runs[-1])
        config = (runs[-1] / "config.yaml").read_text()
        assert "\nseed: 0\n" in config
        (runs[-1] / "config.yaml").write_text(config.replace("\nseed: 0\n", f"\nseed: {seed}\n"))
    wanted = ("--num-images 8 --num-samples 8 --iwae-images 0 --only mse --only ari_fg --csv", tmp_path / "seeds.csv")
    outcome = pyro_sri("evaluate", *runs, *wanted, "--latex", tmp_path / "seeds.tex")
    assert outcome.status == 0, outcome.err
    assert "2 seeds" in outcome.out
    found = [json.loads((run / "evaluation" / "metrics.json").read_text()) for run in runs]
    assert [metrics["training_seed"] for metrics in found] == [0, 1]
    assert "kl_slots" in found[0]  # the file has all
    # The weights are the same: the mean is each value, and nothing deviates.
    rows = [line.split() for line in outcome.out.splitlines()]
    mse = f"{found[0]['mse']:.4g}"
    assert ["mse", mse, "0", mse, mse] in rows
    assert not any(row[:1] == ["nll"] for row in rows)
    lines = (tmp_path / "seeds.csv").read_text().splitlines()
    assert lines[0].startswith("configuration,metric,mean,standard deviation,")
    assert [line.split(",")[1] for line in lines[1:]] == ["mse", "ari_fg"]
    assert repr(found[0]["mse"]) in lines[1]
    assert rf"mse & {mse} $\pm$ 0" in (tmp_path / "seeds.tex").read_text()
    assert_refused(pyro_sri("evaluate", *runs, *wanted), "seeds.csv already exists", "--csv")
    assert_refused(pyro_sri("evaluate", *runs, "--latex", tmp_path / "a.csv"), "does not end in .tex")
    assert_refused(pyro_sri("evaluate", *runs, "--only ari_gf"), "there is no metric 'ari_gf'", "'ari_fg'")
    quiet = pyro_sri("evaluate", *runs, "--num-images 8 --num-samples 0 --iwae-images 0 --only mse --json")
    told = json.loads(quiet.out)
    assert [run["run"] for run in told["runs"]] == [str(run) for run in runs]
    assert set(told["runs"][0]["metrics"]) == {"mse", "mse_stderr"}
    assert told["configurations"][0]["metrics"]["mse"]["values"] == [found[0]["mse"]] * 2
    twice = pyro_sri("evaluate", runs[0], trained, "--num-images 8 --num-samples 0 --iwae-images 0")
    assert twice.status == 0
    assert "seed 0 occurs twice" in twice.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_evaluate_with_a_file_of_inception(pyro_sri: Any, trained: Path, tmp_path: Path) -> None:
    class Means(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().mean((2, 3)).repeat(1, 683)[:, :2048]

    torch.jit.script(Means()).save(tmp_path / "inception.pt")
    command = ("evaluate", trained, "--num-images 8 --num-samples 8 --iwae-images 0 --inception")
    assert pyro_sri(*command, tmp_path / "inception.pt").status == 0
    metrics = json.loads((trained / "evaluation" / "metrics.json").read_text())
    assert metrics["frechet_features"].startswith("inception-v3-pool3-2048-")
    assert metrics["frechet"] > 0
    (tmp_path / "text.pt").write_text("no network")
    assert_refused(pyro_sri(*command, tmp_path / "text.pt"), "not a TorchScript file")
    assert_refused(pyro_sri(*command, tmp_path / "none.pt"), "no file")


def test_evaluate_refuses(pyro_sri: Any, trained: Path, tmp_path: Path) -> None:
    assert_refused(pyro_sri("evaluate", tmp_path / "none"), "no run directory")
    assert_refused(pyro_sri("evaluate", trained, "--num-images 0"), "--num-images")
    assert_refused(pyro_sri("evaluate", trained, "--split nowhere"), "nowhere")
    pyro_sri("data make multi_dsprites --size 64 --train 0 --val 0 --test 2 --out", tmp_path / "big.h5")
    assert_refused(pyro_sri("evaluate", trained, "--data", tmp_path / "big.h5"), "64x64", "32x32")


def test_a_diverged_run_is_told_a_command_that_works(pyro_sri: Any, tetrominoes: Path, tmp_path: Path) -> None:
    def diverge(*_: Any) -> None:
        raise ValueError("Expected parameter loc to satisfy a constraint, but found invalid values")

    out, words, small = tmp_path / "my run", "train sri-g-shapestacks --steps", TINY.replace("--steps 4", "")
    for steps, start in ((2, None), (4, str(out))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pyro_sri.training.loop.Stepper.__call__", diverge)
            outcome = pyro_sri(words, steps, small, "--resume --data", tetrominoes, "--out", out)
        assert outcome.status == 2
        said = outcome.err.splitlines()[-1]
        assert said.startswith("pyro-sri: training diverged before step")
        advice = shlex.split(said.partition("for example: ")[2])[1:]
        assert ("--start-from" in advice) == (start is not None)
        assert "--learning-rate" in advice
        again = pyro_sri(*map(Path, advice), "--steps 1")
        assert again.status == 0, again.err
        assert open_run(tmp_path / f"my run-{2 + (steps > 2)}").config.start_from == start
        assert pyro_sri(words, steps, "--resume --out", out).status == 0


def test_the_own_preset_follows_its_data(pyro_sri: Any, tetrominoes: Path, tmp_path: Path) -> None:
    out, small = tmp_path / "run", "--slot-size 8 --scene-size 8 --steps 4 --batch-size 4 --device cpu"
    outcome = pyro_sri("train sri-own --pixel-std 0.2", small, "--data", tetrominoes, "--out", out)
    assert outcome.status == 0, outcome.err
    config = open_run(out).config
    said = outcome.err.splitlines()[0]
    assert said.startswith(f"what {tetrominoes.name} suggests, unless you say otherwise: images 32, slots 4")
    assert (config.num_slots, config.image_size, config.pixel_std) == (4, 32, 0.2)  # found, found, said
    assert (config.steps, config.segregation_steps) == (4, 2)
    assert config.goal_mse == config.geco_mse > 0  # another sigma leaves the target what it stands for
    said = pyro_sri("train sri-own --geco-target -1.1", small, "--data", tetrominoes, "--out", tmp_path / "said")
    assert said.status == 0, said.err
    assert (open_run(tmp_path / "said").config.geco_mse, open_run(tmp_path / "said").config.goal) == (0, -1.1)
    command = shlex.split(open_run(out).command())
    assert not {"--data-hash", "--dataset", "--start-from"} & set(command)
    assert command[command.index("--num-slots") + 1] == "4"  # said, so that it cannot be found otherwise
    assert pyro_sri("train sri-own --steps 5 --resume --out", out).status == 0
    assert_refused(pyro_sri("train sri-own --out", tmp_path / "other"), "needs a data file", "data convert")


def test_images_of_another_size_are_told_how_to_fit(pyro_sri: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/imgs"] = np.full((8, 48, 48, 3), 200, np.uint8)
    for preset in ("sri-own", "sri-mog-shapestacks"):
        outcome = pyro_sri("train", preset, "--data", tmp_path / "a.h5", "--out", tmp_path / "run")
        assert_refused(outcome, "holds 48x48 images", f"pyro-sri data convert {tmp_path / 'a.h5'}", "--size 32")
    advice = outcome.err.partition("convert it with: pyro-sri ")[2]
    outcome = pyro_sri(advice.replace("a-32.h5", str(tmp_path / "a-32.h5")))
    assert outcome.status == 0, outcome.err


class Payload:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code was run",))


def test_weights_never_run_code(pyro_sri: Any, tmp_path: Path) -> None:
    torch.save({"model": Payload()}, tmp_path / "evil.pth")
    outcome = pyro_sri("import-weights", tmp_path / "evil.pth", "--image-size 32 --num-slots 5 --out", tmp_path / "run")
    assert_refused(outcome, "something other than tensors")
    assert "code was run" not in outcome.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("trian", ["did you mean 'train'"]),
        ("train", ["which preset"]),
        ("train sri-mog-clevr", ["did you mean 'sri-mog-clevr6'"]),
        ("train sri-mog-shapestacks", ["needs a data file", "pyro-sri data", "--data"]),
        ("train sri-mog-shapestacks --data nowhere.h5", ["nowhere.h5"]),
        ("train sri-mog-shapestacks --num-slots 0", ["--num-slots"]),
        ("train sri-mog-shapestacks --pixel-std 0", ["--pixel-std"]),
        ("train sri-mog-shapestacks --pixel-std=-1", ["--pixel-std"]),
        ("train sri-mog-shapestacks --steps=-5", ["--steps"]),
        ("train sri-mog-shapestacks --num-slot 3", ["did you mean --num-slots?"]),
        ("train sri-mog-shapestacks --kernel square", ["gaussian"]),
        ("train sri-mog-shapestacks --batch-size many", ["many"]),
        ("train sri-mog-shapestacks --out", ["--out"]),
        ("evaluate", ["RUN"]),
        ("evaluate nowhere", ["no run directory nowhere"]),
        ("sample nowhere", ["no run directory nowhere"]),
        ("bench sri-none", ["did you mean"]),
        ("data", ["make"]),
        ("data mke", ["mke"]),
        ("import-weights nowhere.pth --image-size 32 --num-slots 3 --out x", ["nowhere.pth"]),
    ],
)
def test_mistakes_are_one_plain_line(
    pyro_sri: Any, command: str, words: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(pyro_sri(command), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(pyro_sri: Any, tetrominoes: Path, tmp_path: Path) -> None:
    outcome = pyro_sri("train sri-g-shapestacks --device cuda --out", tmp_path / "run", "--data", tetrominoes)
    assert_refused(outcome, "no GPU")
    assert not (tmp_path / "run").exists()


def test_fewer_slots_than_entities_is_a_warning(pyro_sri: Any, tetrominoes: Path, tmp_path: Path) -> None:
    outcome = pyro_sri("train sri-g-shapestacks", TINY, "--out", tmp_path / "run", "--data", tetrominoes)
    assert outcome.status == 0
    assert "warning: 3 slots are fewer than the 4 entities" in outcome.err


def test_empty_columns_of_masks_are_no_entities(pyro_sri: Any, tetrominoes: Path, tmp_path: Path) -> None:
    shutil.copy(tetrominoes, tmp_path / "wide.h5")
    with h5py.File(tmp_path / "wide.h5", "r+") as file:
        for split in file.values():
            masks = split["masks"][:]
            del split["masks"]
            split["masks"] = np.concatenate([masks, np.zeros_like(masks[:, :2])], axis=1)
    tiny = TINY.replace("--num-slots 3", "--num-slots 4")
    outcome = pyro_sri("train sri-g-shapestacks", tiny, "--out", tmp_path / "run", "--data", tmp_path / "wide.h5")
    assert outcome.status == 0, outcome.err
    assert "entities" not in outcome.err


def test_a_quick_check_takes_a_size_and_does_not_warn_of_its_few_slots(
    pyro_sri: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = pyro_sri("train sri-mog-shapestacks --tiny --image-size 64 --steps 1")
    assert outcome.status == 0, outcome.err
    assert open_run(Path("runs/sri-mog-shapestacks-tiny")).config.image_size == 64
    assert "entities" not in outcome.err


def test_an_image_size_that_is_said_must_be_that_of_the_data(pyro_sri: Any, tetrominoes: Path, tmp_path: Path) -> None:
    words = ("--data", tetrominoes, "--out", tmp_path / "run")
    for preset in ("sri-g-shapestacks", "sri-own"):  # 64 is what they would be without it
        for option in ("--image-size 64", "--image-size=64", "--image-size 96"):
            outcome = pyro_sri(f"train {preset} {option}", *words)
            assert_refused(outcome, "holds 32x32 images", "leave out --image-size")


def test_presets_make_their_data_at_the_size_that_is_said() -> None:
    quick, digits = PRESETS["sri-quick-tetrominoes"], PRESETS["air-multi_digits"]
    assert quick.sized(32) is quick
    assert (quick.sized(64).makes_data["size"], quick.sized(64).data_name) == (64, "tetrominoes-64")
    assert (digits.sized(64).makes_data["size"], digits.sized(64).data_name) == (64, "multi_digits-64")
    assert PRESETS["sri-mog-clevr6"].sized(64) is PRESETS["sri-mog-clevr6"]


def test_a_run_records_what_its_data_is(pyro_sri: Any, tetrominoes: Path, tmp_path: Path) -> None:
    shutil.copy(tetrominoes, tmp_path / "mine.h5")
    with h5py.File(tmp_path / "mine.h5", "r+") as file:
        file.attrs.clear()
    small = TINY.replace("--steps 4", "--steps 1")
    for name, data, dataset in (("a", tetrominoes, "tetrominoes"), ("b", tmp_path / "mine.h5", "own")):
        assert pyro_sri("train sri-g-shapestacks", small, "--out", tmp_path / name, "--data", data).status == 0
        assert open_run(tmp_path / name).config.dataset == dataset
    path = tmp_path / "b" / "config.yaml"
    path.write_text(path.read_text().replace("dataset: own", "dataset: stacks"))  # as earlier versions recorded it
    assert pyro_sri("train sri-g-shapestacks --resume --steps 2 --out", tmp_path / "b").status == 0
    assert open_run(tmp_path / "b").config.dataset == "own"


def test_image_size_that_the_networks_cannot_take(pyro_sri: Any, tmp_path: Path) -> None:
    pyro_sri("data make tetrominoes --train 8 --val 0 --test 0 --out", tmp_path / "t.h5")
    outcome = pyro_sri("train sri-g-shapestacks --out", tmp_path / "run", "--data", tmp_path / "t.h5")
    assert_refused(outcome, "35x35", "32, 64, 96, 128", "pyro-sri data")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "truncated"),
        (lambda path: path.write_bytes(b"PK\x03\x04 not ours"), "HDF5"),
        (lambda path: _edit(path, lambda file: file.pop("train")), "train"),
        (lambda path: _edit(path, lambda file: file["train"].pop("imgs")), "imgs"),
        (lambda path: _edit(path, lambda file: _replace(file, np.zeros((4, 32, 32, 3), np.float32))), "uint8"),
        (lambda path: _edit(path, lambda file: _replace(file, np.zeros((4, 32, 30, 3), np.uint8))), "imgs"),
        (lambda path: _edit(path, lambda file: _replace(file, np.zeros((4, 3, 32, 32), np.uint8))), "imgs"),
    ],
)
def test_bad_data_files(pyro_sri: Any, tetrominoes: Path, tmp_path: Path, damage: Any, word: str) -> None:
    path = tmp_path / "data.h5"
    shutil.copy(tetrominoes, path)
    damage(path)
    outcome = pyro_sri("train sri-g-shapestacks", TINY, "--out", tmp_path / "run", "--data", path)
    assert_refused(outcome, str(path), word)
    assert not (tmp_path / "run").exists()


def _edit(path: Path, change: Any) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def _replace(file: h5py.File, images: np.ndarray) -> None:
    for split in file:
        for name in list(file[split]):
            del file[split][name]
        file[split]["imgs"] = images


def test_a_read_only_or_missing_place_for_runs(pyro_sri: Any, tetrominoes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    outcome = pyro_sri("train sri-g-shapestacks", TINY, "--data", tetrominoes, "--out", tmp_path / "file" / "run")
    assert_refused(outcome, "cannot write")
    outcome = pyro_sri("train sri-g-shapestacks", TINY, "--data", tetrominoes, "--out /proc/run")
    assert_refused(outcome, "cannot write")
