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
        ("ari_fg: 0.7", "ari_fg: good", ["row 'sri'", "number"]),
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
    assert {row.config.steps for row in rows.values()} == {9000}
    assert {row.config.threads for row in rows.values()} == {1}
    assert rows["all"].runs_of == "sri-g"


def test_configure_leaves_the_schedule_where_steps_are_the_same() -> None:
    preset = find_preset("sri-quick")
    assert configure(preset, {}, "here") == preset.config
    assert configure(preset, {"steps": preset.config.steps}, "here") == preset.config
