"""The tables: nothing cut, nothing of a text taken for an order, published values apart."""

import csv
import io
import re
from pathlib import Path

import pytest

from pyro_sri.evaluation.summary import Spread
from pyro_sri.study.cells import latex
from pyro_sri.study.plan import Plan, make_plan
from pyro_sri.study.results import PUBLISHED, RowResult
from pyro_sri.study.specification import read_study
from pyro_sri.study.tables import to_csv, to_latex, to_markdown

TITLE = r"A & B | 100 % of #1 \evil{$x$} ~^<b>`_`"
STUDY = f"""
title: '{TITLE}'
data: {{family: towers, size: 32, train: 8}}
seeds: [3, 5]
measures: [ari_fg, frechet]
rows:
  one: {{preset: sri-quick, title: '{TITLE}', published: {{frechet: 74.7}}}}
  two: {{preset: genesis_v2-quick}}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return make_plan(read_study(path), tmp_path)


@pytest.fixture
def results(plan: Plan) -> list[RowResult]:
    one, two = plan.study.rows.values()
    good = [
        {"seed": seed, "status": "done", "reason": "", "ari_fg": value, "frechet": None, "steps": 9, "minutes": 0.5}
        for seed, value in ((3, 0.123456789), (5, 0.2))
    ]
    bad = [{**good[0], "status": "diverged", "reason": "training diverged", "ari_fg": None, "steps": 4}, good[1]]
    for record in (*good, *bad):
        record |= {"metrics": None, "command": "", "evaluate": ""}
    spread = Spread(0.16, 0.05, (0.123456789, 0.2), (3, 5), 0)
    return [
        RowResult(one, good, {"ari_fg": spread}, ""),
        RowResult(two, bad, {}, "seed 3 diverged: training diverged"),
    ]


def test_markdown(plan: Plan, results: list[RowResult]) -> None:
    text = to_markdown(plan, results)
    tables = [[line for line in part.splitlines() if line.startswith("|")] for part in text.split("\n## ")[1:]]
    for table in tables:
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in table}) == 1
    assert PUBLISHED in tables[0][0]
    assert "frechet 74.7" in tables[0][2]
    assert "0.16 ± 0.05" in tables[0][2]
    assert "diverged" in tables[0][3]
    assert "0.1235" in tables[1][2]
    assert [line.split("|")[2].strip() for line in tables[1][2:]] == ["3", "5", "3", "5"] or "seed" in tables[1][0]
    assert "generated towers" in text
    assert "<b>" not in text


def test_csv_has_every_number_in_full(plan: Plan, results: list[RowResult]) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(plan, results))))
    first = next(row for row in rows if row["row"] == "one" and row["measure"] == "ari_fg")
    assert float(first["seed 3"]) == 0.123456789
    assert float(first["mean"]) == 0.16
    assert first["title"] == TITLE
    assert "generated" in first["data"]
    published = {(row["row"], row["measure"]): row[PUBLISHED] for row in rows if row[PUBLISHED]}
    assert published == {("one", "frechet"): "74.7"}
    assert next(row for row in rows if row["row"] == "two" and row["measure"] == "ari_fg")["seed 3"] == ""


def test_latex_is_sound(plan: Plan, results: list[RowResult]) -> None:
    """As far as can be told without an engine: columns agree, groups close, no order is left but ours."""
    text = to_latex(plan, results)
    tabulars = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tabulars) == 2
    for columns, body in tabulars:
        lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        assert len(lines) > 2
        for line in lines:
            assert line.endswith(r" \\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    assert balanced(text)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert "evil" in text
    assert r"\evil" not in text


def balanced(text: str) -> bool:
    plain = re.sub(r"\\[\\{}&%$#_]", "", text)
    return plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5 % of $x$ #1 {y}", r"a\_b \& 5 \% of \$x\$ \#1 \{y\}"),
        ("\\input{secret}", r"\textbackslash{}input\{secret\}"),
        ("-2.5 ± 0.1, GENESIS-v2, x^2 ~", r"$-$2.5 $\pm$ 0.1, GENESIS-v2, x\textasciicircum{}2 \textasciitilde{}"),
        ("Türme, Fréchet, ø", "Türme, Fréchet, ø"),
        ("塔 ﬁ\n\x07", "? fi  "),
        ("[1] *", "{[}1{]} {*}"),
    ],
)
def test_latex_escapes(text: str, expected: str) -> None:
    assert latex(text) == expected
