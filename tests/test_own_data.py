"""The worked example of docs/own-data.md, with fewer pictures."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.metrics import entity_labels
from pyro_sri.scripts.main import run

PAGE = (Path(__file__).parent.parent / "docs" / "own-data.md").read_text()
COMMANDS = re.findall(r"^    pyro-sri (.*)$", PAGE, re.MULTILINE)


def test_the_worked_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    exec(code[1].replace("NUM = 3000", "NUM = 40"), {})
    convert, check, preview, suggest, *_ = COMMANDS
    for command in (convert, check, preview, suggest):
        run(command.split())
    printed = capsys.readouterr().out
    for command in COMMANDS[4:]:
        assert f"  pyro-sri {command}\n" in printed
    assert check_dataset(tmp_path / "discs.h5") == []
    with DatasetFile(tmp_path / "discs.h5") as file:
        images, labels = file.images("train")[:], entity_labels(file.masks("train")[:])
        assert (file.num_images("train"), file.num_images("val"), file.num_images("test")) == (32, 4, 4)
    grey = np.abs(images.astype(int) - 128).max(-1) < 3
    assert (grey == (labels == 0)).mean() > 0.9  # each mask lies on its disc
    with Image.open(tmp_path / "discs.png") as sheet:
        assert sheet.size[0] > 200
