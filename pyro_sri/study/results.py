"""The results of a study: a record for each run, and mean and spread for each row."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyro_sri.data.format import DatasetFile
from pyro_sri.evaluation.summary import Spread, differing_conditions, summarise, why_not_summarised
from pyro_sri.study.plan import Job, Plan, State, data_file
from pyro_sri.study.specification import Row

RESULTS = "results.json"
EXTRA = ("steps", "minutes")  # columns of every table, after the measures
PUBLISHED = "published, real data"

Record = dict[str, Any]


class RowResult(NamedTuple):
    """The results of a row.

    Attributes:
        row: The row.
        records: A record for each seed.
        spreads: Mean and standard deviation by measure, over the seeds that have it.
        remark: What went wrong, or why there is no mean; may be empty.
    """

    row: Row
    records: Sequence[Record]
    spreads: dict[str, Spread]
    remark: str


def collect(plan: Plan) -> list[RowResult]:
    """The results of every row, in the study's order. Unfinished runs have no measures."""
    found = {job.path: _record(plan, job) for job in plan.jobs}
    return [_summarise(plan, row, [found[job.path] for job in plan.of_row(row)]) for row in plan.study.rows.values()]


def to_json(results: Sequence[RowResult]) -> str:
    """results.json: a list of flat records."""
    records = [{"row": result.row.key, **record} for result in results for record in _without_details(result.records)]
    return json.dumps(records, indent=2) + "\n"


def describe_data(plan: Plan, name: str) -> str:
    """A description of a data set, with the word "generated" if it is."""
    data = plan.study.data[name]
    if data.file is None:
        return f"generated {data.family}, {data.size}x{data.size}, {data.train} training images, seed {data.seed}"
    path = data_file(plan.study, name, plan.out)
    if not path.exists():
        return f"{path.name} (missing)"
    with DatasetFile(path) as file:
        origin = "generated " if file.generated else ""
        return f"{origin}{path.name}, {file.image_size}x{file.image_size}, {file.num_images('train')} training images"


def _record(plan: Plan, job: Job) -> Record:
    state = job.state()
    metrics = job.metrics() if state.name in ("done", "collapsed") else None
    measures = {name: (metrics or {}).get(name) for name in plan.study.measures}
    begun = state.step > 0
    return {
        "title": job.row.title,
        "seed": job.seed,
        "status": state.name,
        "reason": state.reason,
        **measures,
        "steps": state.step,
        "minutes": round(job.minutes(), 3) if begun else 0.0,
        "data": describe_data(plan, job.row.data),
        "command": job.command(),
        "evaluate": job.command("evaluate"),
        "metrics": metrics,
    }


def _without_details(records: Sequence[Record]) -> list[Record]:
    return [{name: value for name, value in record.items() if name != "metrics"} for record in records]


def _summarise(plan: Plan, row: Row, records: Sequence[Record]) -> RowResult:
    records = [{**record, "title": row.title} for record in records]
    metrics = [record["metrics"] for record in records if record["metrics"] is not None]
    reason = why_not_summarised(metrics) if metrics else None
    every = {} if reason or not metrics else summarise(metrics)
    spreads = {name: every[name] for name in plan.study.measures if name in every}
    for name in plan.study.measures:
        if differing := differing_conditions(metrics, name) if metrics else []:
            reason = reason or f"no mean of {name}: different {', '.join(differing)}"
    for name in EXTRA:
        values = tuple(float(record[name]) for record in records if record["steps"])
        if values:
            spreads[name] = _spread(values)
    remarks = [f"seed {r['seed']} {_status(r)}" for r in records if r["status"] != "done"]
    if {(r["status"], r["reason"]) for r in records} == {("missing", "")}:
        remarks = ["missing"]
    return RowResult(row, records, spreads, "; ".join([*remarks, *([reason] if reason else [])]))


def _status(record: Record) -> str:
    return f"{record['status']}: {record['reason']}" if record["reason"] else str(record["status"])


def _spread(values: tuple[float, ...]) -> Spread:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return Spread(mean, math.sqrt(variance) if len(values) > 1 else None, values, (None,) * len(values), 0)


def frechet_features(results: Sequence[RowResult]) -> list[str]:
    """The features with which the Fréchet distances of all runs were computed."""
    found = (record["metrics"] or {} for result in results for record in result.records)
    return list(dict.fromkeys(str(m["frechet_features"]) for m in found if m.get("frechet_features")))


def failed(plan: Plan) -> list[tuple[Job, State]]:
    """The runs that diverged or failed, with their states."""
    return [(job, state) for job in plan.jobs if (state := job.state()).name in ("diverged", "failed")]


def results_file(out: Path) -> Path:
    """The file with the records."""
    return out / RESULTS
