"""Groups runs that differ only in the seed, and computes the mean and standard deviation of their metrics."""

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyro_sri.runs import Run
from pyro_sri.system.errors import UserError

# Runs that differ only in these are repetitions. The content of the data must be the same (`data_hash`).
REPETITION_FIELDS = frozenset({"seed", "data"})
NAMES_OF_DATA = frozenset({"dataset"})  # redundant if there is a hash
HASH_DIGITS = 8  # of a data hash in a name

# Entries that describe how an evaluation was made, as opposed to its results.
CONDITIONS = {
    "data": "the dataset file",
    "data_file": "path of that file",
    "split": "the split of that file",
    "num_images": "number of images, from the start of the split",
    "num_images_without_foreground": "images without any object, which are left out of ARI-FG",
    "seed": "seed of the evaluation's draws",
    "step": "training step of the weights",
    "checkpoint": "best (by validation) or last",
    "preset": "the preset that the run started from",
    "training_seed": "seed of the run",
    "iwae_images": "images for the importance-weighted bound",
    "iwae_samples": "draws per image for this bound",
    "frechet_features": "the features used to compare images",
    "frechet_images": "number of real images that the generated ones are compared with",
    "num_samples": "number of generated scenes",
    "dci_images": "number of images used for DCI",
    "structure_rule": "the rule that generated scenes are checked by",
    "collapse": "how the slots have collapsed, and what to try",
    "beta_flag": "compare bits per dimension only with runs whose beta ended at 1",
    "device": "the device of the evaluation",
    "untrained": "the parts that were never trained, so that metrics that need them come from random weights",
}
COMPARABLE = ("data", "split", "num_images")  # evaluations can be compared only if these agree
# Additional conditions for some metrics, by the prefix of their name.
OWN_CONDITIONS = {
    ("iwae_", "ppc_"): ("iwae_images", "iwae_samples"),
    ("frechet", "precision", "recall", "density", "coverage"): ("frechet_features", "frechet_images", "num_samples"),
    ("structure_",): ("structure_rule",),
    ("dci_",): ("dci_images",),
}


BITS = ("bpd", "bpd_with_cross", "iwae_bpd", "iwae_bpd_8", "iwae_bpd_1")
BELOW_0 = (
    "Negative bits per dimension are normal: p(x) is a density, and it exceeds 1 if sigma is small. "
    "Lower is better, for models of the same data."
)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed and the path of the data.

    Attributes:
        name: A short name, different from the other groups'.
        runs: The runs, in the order in which they were given.
        differences: The fields in which the groups differ, with this group's values. A field that the system does not
            have is missing.
    """

    name: str
    runs: tuple[Run, ...]
    differences: dict[str, Any]


class Spread(NamedTuple):
    """A metric over several seeds. As a string, it is mean ± standard deviation.

    Attributes:
        mean: Mean of the values.
        std: Their standard deviation with n - 1 in the denominator; None for a single value.
        values: The values, in the order of the evaluations.
        seeds: The training seed of each value, or None if the evaluation does not contain it.
        missing: The number of evaluations without a value.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]
    seeds: tuple[int | None, ...]
    missing: int

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.std is None else f"{self.mean:.4g} ± {self.std:.2g}"


class Summary(NamedTuple):
    """The metrics of several seeds of a configuration, or of a single run.

    Attributes:
        name: The name of the configuration or of the run.
        runs: The names of the runs.
        metrics: The results of `evaluate` for each of them.
        spreads: Mean and standard deviation of each metric.
        problem: Why there is no mean over this run and others of its configuration, or None.
    """

    name: str
    runs: tuple[str, ...]
    metrics: tuple[Mapping[str, Any], ...]
    spreads: dict[str, Spread]
    problem: str | None = None


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups runs that differ only in the seed.

    Args:
        runs: Any runs.

    Returns:
        Groups in the order of their first runs. Runs on data of different content (`data_hash`) are in different
        groups, and so are runs with and without a hash.
    """
    members: dict[str, list[Run]] = {}
    configurations: dict[str, dict[str, Any]] = {}
    for run in runs:
        fields = {"system": run.config.system, **dataclasses.asdict(run.config)}
        fields = {name: value for name, value in fields.items() if name not in REPETITION_FIELDS}
        names = frozenset[str]() if run.config.data_hash is None else NAMES_OF_DATA
        key = repr({name: value for name, value in fields.items() if name not in names})
        members.setdefault(key, []).append(run)
        configurations.setdefault(key, fields)
    differing = _differing(list(configurations.values()))
    groups = []
    for key, fields in configurations.items():
        alike = [other for other in configurations.values() if other["preset"] == fields["preset"]]
        name = ", ".join([fields["preset"], *(_setting(field, fields) for field in _differing(alike))])
        differences = {field: fields[field] for field in differing if field in fields}
        groups.append(Group(name, tuple(members[key]), differences))
    return groups


def summarise(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    """Computes the mean and standard deviation of every metric over several seeds.

    Args:
        metrics: The metrics.json of each run.

    Returns:
        A spread for each name whose value is a finite number in at least one evaluation. Conditions of the evaluation
        are left out, and so are metrics that were computed in different ways (`differing_conditions`).

    Raises:
        UserError: If the evaluations cannot be compared, or a seed occurs twice.
    """
    if reason := why_not_summarised(metrics):
        raise UserError(reason)
    spreads = {}
    for name in dict.fromkeys(name for found in metrics for name in found):
        pairs = [(float(found[name]), found.get("training_seed")) for found in metrics if _is_number(found.get(name))]
        if name in CONDITIONS or not pairs or differing_conditions(metrics, name):
            continue
        values, seeds = zip(*pairs, strict=True)
        std = statistics.stdev(values) if len(values) > 1 else None
        spreads[name] = Spread(statistics.fmean(values), std, values, seeds, len(metrics) - len(values))
    return spreads


def summaries(runs: Sequence[Run], names: Sequence[str], metrics: Sequence[Mapping[str, Any]]) -> list[Summary]:
    """Summarises the seeds of each configuration, or each run by itself if a mean would mislead.

    Args:
        runs: Evaluated runs.
        names: The names of the runs.
        metrics: The results of `evaluate` for each run.
    """
    result = []
    for group in group_runs(runs):
        members = [i for i, run in enumerate(runs) if any(run is member for member in group.runs)]
        found = tuple(metrics[i] for i in members)
        problem = why_not_summarised(found)
        if problem or len(members) == 1:
            result += [Summary(names[i], (names[i],), (metrics[i],), summarise([metrics[i]]), problem) for i in members]
        else:
            result.append(Summary(group.name, tuple(names[i] for i in members), found, summarise(found)))
    return result


def why_not_summarised(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a mean over these evaluations would mislead, or None if it would not."""
    if differing := differing_conditions(metrics):
        values = [" and ".join(dict.fromkeys(str(found.get(name)) for found in metrics)) for name in differing]
        told = ", ".join(f"{name} is {value}" for name, value in zip(differing, values, strict=True))
        return f"the evaluations cannot be compared: {told}; evaluate all runs in the same way"
    seeds = Counter(found["training_seed"] for found in metrics if found.get("training_seed") is not None)
    if twice := [seed for seed, count in seeds.items() if count > 1]:
        return f"training seed {twice[0]} occurs twice and would count twice in the mean; leave out one of these runs"
    return None


def flagged(name: str, metrics: Mapping[str, Any]) -> str:
    """A warning about a metric of a run, or nothing: bits per dimension of a bound that training did not maximise."""
    return str(metrics.get("beta_flag") or "") if name in ("bpd", "bpd_with_cross", "iwae_bpd") else ""


def below_zero(metrics: Mapping[str, Any]) -> str:
    """A remark about negative bits per dimension, or nothing if there are none."""
    values: list[Any] = [metrics.get(name) for name in BITS]
    return BELOW_0 if any(_is_number(value) and value < 0 for value in values) else ""


def differing_conditions(metrics: Sequence[Mapping[str, Any]], name: str = "") -> list[str]:
    """The conditions that differ, so that evaluations cannot be compared.

    Args:
        metrics: The metrics.json of each run.
        name: A metric, whose additional conditions are checked for the evaluations that have it.
    """
    having = [found for found in metrics if found.get(name) is not None]
    own = [condition for starts, names in OWN_CONDITIONS.items() if name.startswith(starts) for condition in names]
    return [c for c in COMPARABLE if _disagree(metrics, c)] + [c for c in own if _disagree(having, c)]


def _disagree(metrics: Sequence[Mapping[str, Any]], condition: str) -> bool:
    return len({str(found.get(condition)) for found in metrics}) > 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _differing(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields that differ, or that only some configurations have."""
    fields = dict.fromkeys(field for configuration in configurations for field in configuration)
    return [f for f in fields if len({repr(c[f]) if f in c else "" for c in configurations}) > 1]


def _setting(field: str, fields: Mapping[str, Any]) -> str:
    value = fields.get(field)
    shown = "none" if value is None else str(value)
    return f"{field} {shown[:HASH_DIGITS] if field == 'data_hash' else shown}"
