"""Data that several commands want at once is made by one of them."""

import threading
from functools import partial
from pathlib import Path

import pytest

from pyro_sri.data import making
from pyro_sri.data.checking import check_dataset
from pyro_sri.data.making import make_dataset
from pyro_sri.scripts import own_data
from pyro_sri.scripts.own_data import make_or_await
from pyro_sri.system.errors import UserError


def test_those_that_start_together_wait_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, drawn, together = tmp_path / "data" / "a.h5", [], threading.Barrier(3)
    draw = making.draw
    monkeypatch.setattr(making, "draw", lambda task: drawn.append(task.start) or draw(task))
    monkeypatch.setattr(own_data, "POLL", 0.01)
    failures = []

    def start() -> None:
        together.wait()
        try:
            make_or_await(path, partial(make_dataset, "rooms", path, size=32, train=40, val=0, test=0))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(drawn) == len(set(drawn))  # each piece once
    check_dataset(path)
    assert [file.name for file in path.parent.iterdir()] == ["a.h5"]
    assert "another process is making" in capsys.readouterr().err


def test_what_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be made at size 1"):
        make_or_await(tmp_path / "a.h5", partial(make_dataset, "rooms", tmp_path / "a.h5", size=1))
