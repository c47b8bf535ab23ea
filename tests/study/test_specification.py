"""Study files: what is read, what is refused and how, and that the rows of those that ship are sound."""

import dataclasses
from pathlib import Path

import pytest

from pyro_sri import runs
from pyro_sri.presets import find_preset, train_options
from pyro_sri.scripts.preset_options import parse_fields
from pyro_sri.study.plan import make_plan
from pyro_sri.study.specification import Study, configure, find_study, read_study, shipped_studies
from pyro_sri.system.errors import UserError

STUDY = """
title: A study
data: {family: towers, size: 32, train: 8, val: 2, test: 2}
fields: {steps: 900}
seeds: [0, 1]
evaluate: {num_images: 2}
measures: [ari_fg, mse]
rows:
  sri: {preset: sri-quick, fields: {learning_rate: 1e-3}, published: {ari_fg: 0.7}}
  all: {title: d) all, same_as: sri}
"""


def read(tmp_path: Path, text: str) -> Study:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return read_study(path)


def test_what_is_read(tmp_path: Path) -> None:
    study = read(tmp_path, STUDY)
    config = study.rows["sri"].config
    assert (config.steps, config.learning_rate, config.image_size) == (900, 1e-3, 32)
    assert config.schedule()["decay_steps"] == 520  # in proportion, as `train --steps` has it
    assert study.rows["all"].runs_of == "sri"
    assert study.rows["all"].published == {}
    assert study.evaluation.words() == ["--num-images", "2"]
    assert [job.path for job in make_plan(study, tmp_path).jobs] == [tmp_path / "runs" / "sri" / s for s in "01"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title: A study", "tilte: A study", ["'tilte'", "'title'"]),
        ("measures: [ari_fg, mse]", "measures: [ari_gf]", ["'ari_gf'", "'ari_fg'"]),
        ("seeds: [0, 1]", "seeds: [0, 0]", ["twice"]),
        ("seeds: [0, 1]", "seeds: [-1]", ["out of range"]),
        ("num_images: 2", "num_imges: 2", ["evaluate", "'num_imges'", "'num_images'"]),
        ("num_images: 2", "num_images: many", ["num_images"]),
        ("family: towers", "family: tower", ["'tower'", "towers"]),
        ("size: 32,", "size: 32, trian: 4,", ["'trian'", "'train'"]),
        ("size: 32", "size: 40", ["row 'sri'", "40"]),
        ("preset: sri-quick", "preset: sri-quik", ["row 'sri'", "'sri-quick'"]),
        ("preset: sri-quick, ", "", ["row 'sri'", "preset"]),
        ("learning_rate: 1e-3", "lerning_rate: 1e-3", ["row 'sri'", "'lerning_rate'", "'learning_rate'"]),
        ("learning_rate: 1e-3", "learning_rate: fast", ["row 'sri'", "'fast'"]),
        ("learning_rate: 1e-3", "learning_rate: -1", ["row 'sri'", "positive"]),
        ("learning_rate: 1e-3", "seed: 3", ["row 'sri'", "seeds"]),
        ("learning_rate: 1e-3", "dataset: rooms", ["row 'sri'", "dataset"]),
        ("ari_fg: 0.7", "fid: 0.7", ["row 'sri'", "'fid'"]),
        ("ari_fg: 0.7", "ari_fg: good", ["row 'sri'", "float"]),
        ("ari_fg: 0.7", "ari_fg: .inf", ["row 'sri'", "number"]),
        ("ari_fg: 0.7", "ari_fg: [0.7]", ["row 'sri'", "ari_fg", "float"]),
        ("same_as: sri", "same_as: [sri]", ["row 'all'", "same_as", "text"]),
        ("preset: sri-quick", "preset: sri-own", ["row 'sri'", "sri-own", "data suggest"]),
        ("preset: sri-quick", "preset: sri-quick, data: [towers]", ["row 'sri'", "data", "text"]),
        ("preset: sri-quick", "preset: sri-quick, data: rooms", ["row 'sri'", "'rooms'"]),
        ("num_images: 2", "num_images: 0", ["evaluate: num_images is 0", "at least 1"]),
        ("num_images: 2", "batch_size: -1", ["evaluate: batch_size is -1"]),
        ("num_images: 2", "iwae_samples: 0", ["evaluate: iwae_samples is 0"]),
        ("num_images: 2", "num_samples: -1", ["evaluate: num_samples is -1"]),
        ("num_images: 2", "seed: -1", ["evaluate", "out of range"]),
        ("num_images: 2", "split: tset", ["evaluate", "'tset'", "'test'"]),
        ("num_images: 2", "checkpoint: lats", ["evaluate", "'lats'", "'last'"]),
        ("train: 8", "train: 0", ["data", "'towers' has no train images"]),
        ("test: 2", "test: 0", ["data", "'towers' has no test images"]),
        ("val: 2", "val: -1", ["data", "val -1"]),
        ("size: 32", "size: 4000", ["data", "4000"]),
        ("size: 32", "size: 32, seed: -1", ["data", "out of range"]),
        ("same_as: sri", "same_as: sir", ["row 'all'", "'sir'", "'sri'"]),
        ("same_as: sri", "same_as: sri, preset: sri-quick", ["row 'all'"]),
        ("all: {", "sri: {", ["'sri' twice"]),
        ("all: {", "../all: {", ["'../all'", "letters"]),
        ("rows:", "rows: [", ["YAML"]),
    ],
)
def test_mistakes_name_file_row_and_the_right_word(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in STUDY
    with pytest.raises(UserError) as error:
        read(tmp_path, STUDY.replace(old, new))
    message = str(error.value)
    assert "\n" not in message
    for word in ["mine.yaml", *words]:
        assert word in message


def test_numbers_that_yaml_takes_for_text(tmp_path: Path) -> None:
    study = read(tmp_path, STUDY.replace("ari_fg: 0.7", "ari_fg: 4e-1"))
    assert study.rows["sri"].published == {"ari_fg": 0.4}


def test_a_split_without_images_may_be_left_out(tmp_path: Path) -> None:
    text = STUDY.replace("test: 2", "test: 0").replace("num_images: 2", "split: val")
    assert read(tmp_path, text).data["towers"].test == 0


def test_aliases_do_not_multiply(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(UserError, match="too many"):
        read(tmp_path, "\n".join(lines))


def test_a_study_that_is_not_there() -> None:
    with pytest.raises(UserError, match="did you mean 'towers'"):
        find_study("towres")
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        find_study("nowhere.yaml")


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_what_train_makes_of_their_commands(name: str, tmp_path: Path) -> None:
    """Each command, read as `train` reads it, gives the run that the study expects; each model can be built."""
    for tiny in (False, True):
        for job in make_plan(find_study(name), tmp_path, tiny).jobs:
            if job.seed != job.config.seed or job.path.name != "0":
                continue
            preset = find_preset(job.config.preset)
            default = preset.tiny().config if tiny else preset.config.stretched(job.config.steps)
            options = train_options(job.config, tiny)

            def keep(config: runs.RunConfig) -> runs.RunConfig:
                return config

            found = parse_fields(keep, default, "", "train", options)
            assert dataclasses.replace(found, image_size=job.config.image_size) == job.config
            if tiny:
                job.config.build()


def test_towers_has_one_length_of_training() -> None:
    rows = find_study("towers").rows
    others = {key for key, row in rows.items() if row.config.steps != 9000}
    assert others == {"emorl", "sri_emorl"}  # whose steps cost several times as much
    assert all("steps" in rows[key].note for key in others)
    assert {row.config.threads for row in rows.values()} == {1}
    assert rows["all"].runs_of == "sri-g"


def test_configure_leaves_the_schedule_where_steps_are_the_same() -> None:
    preset = find_preset("sri-quick")
    assert configure(preset, {}, "here") == preset.config
    assert configure(preset, {"steps": preset.config.steps}, "here") == preset.config
