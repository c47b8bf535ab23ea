"""Every way in which a reader may fail is noticed, and the next case is judged as if nothing had been."""

from pathlib import Path

from support.fuzz.misbehaving import BADLY, WELL
from support.fuzz.outcomes import FAILED
from support.fuzz.workers import Worker

WORDS = {
    "crashes": "status -11",
    "hangs": "no end",
    "leaves_the_interpreter": "SystemExit",
    "takes_memory": "MemoryError",
    "refuses_for_lack_of_memory": "memory had run out",
    "raises": "KeyError: 'step'",
    "says_two_lines": "not one plain line",
    "says_too_much": "10000 characters",
    "warns": "careful",
    "leaves_a_file_open": "left open",
    "leaves_half_an_output": "half-written",
    "runs_code": "code in the file was run",
    "reads_other_numbers": "0 became 1",
}


def test_bad_behaviour_is_noticed(tmp_path: Path) -> None:
    with Worker(tmp_path, "misbehaving") as worker:
        for number, function in enumerate(BADLY):
            if function.__name__ != "hangs":
                outcome = worker.judge(function.__name__, 0, 0)
                assert outcome.result == FAILED
                assert WORDS[function.__name__] in outcome.message
            good = WELL[number % 2].__name__
            assert worker.judge(good, 0, number).result == {"refuses": "refused", "reads": "read"}[good]


def test_a_hanging_reader_is_noticed(tmp_path: Path) -> None:
    with Worker(tmp_path, "misbehaving", seconds=3) as worker:
        outcome = worker.judge("hangs", 0, 0)
        assert outcome.result == FAILED
        assert WORDS["hangs"] in outcome.message
