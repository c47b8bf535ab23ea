"""Several seeds of one configuration: which runs they are, and mean and standard deviation of their metrics."""

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyro_sri.runs import Run
from pyro_sri.system.errors import UserError

# Runs that differ in nothing else are repetitions; the content of the data must be the same (`data_hash`).
REPETITION_FIELDS = frozenset({"seed", "data"})
NAMES_OF_DATA = frozenset({"dataset"})  # which say nothing that the hash does not
HASH_DIGITS = 8  # of a data hash in a name

# How an evaluation was made, as opposed to what it found.
CONDITIONS = {
    "data": "the dataset file",
    "data_file": "where that file was",
    "split": "the split of it",
    "num_images": "how many images, from the start of the split",
    "num_images_without_foreground": "images left out of ARI-FG: they show no object",
    "seed": "seed of the evaluation's draws",
    "step": "training step of the weights",
    "checkpoint": "best (by validation) or last",
    "preset": "the preset that the run started from",
    "training_seed": "seed of the run",
    "iwae_images": "images for the importance-weighted bound",
    "iwae_samples": "draws per image for it",
    "frechet_features": "the features that are compared",
    "frechet_images": "how many test images the generated ones are compared with",
    "num_samples": "how many scenes are generated",
    "dci_images": "images whose objects' codes are scored",
    "structure_rule": "the rule that generated scenes are checked by",
    "collapse": "what went wrong with the slots, and what to try",
    "beta_flag": "bits per dimension compare only with those of runs that ended at 1",
    "device": "where it was computed",
    "untrained": "what was never trained: metrics that need it come from random weights",
}
COMPARABLE = ("data", "split", "num_images")  # evaluations compare only if these agree
# Some metrics need more to agree, by how their names start.
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
    """Runs that differ in nothing but their seed and where their data lies.

    Attributes:
        name: A short name, different from the other groups'.
        runs: The runs, in the order in which they were given.
        differences: The fields in which the groups differ, and this group's values; a field that its system does not
            have is missing.
    """

    name: str
    runs: tuple[Run, ...]
    differences: dict[str, Any]


class Spread(NamedTuple):
    """A metric over seeds; as a string, mean ± standard deviation.

    Attributes:
        mean: Mean of the values.
        std: Their standard deviation with n - 1 in the denominator; None for a single value.
        values: The values, in the order of the evaluations.
        seeds: The training seed of each value; None where the evaluation does not say.
        missing: How many evaluations have no value.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]
    seeds: tuple[int | None, ...]
    missing: int

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.std is None else f"{self.mean:.4g} ± {self.std:.2g}"


class Summary(NamedTuple):
    """What several seeds of a configuration have in common, or a run that stands alone.

    Attributes:
        name: The configuration's name, or the run's.
        runs: How the runs are called.
        metrics: What `evaluate` found for each of them.
        spreads: Their mean and standard deviation by metric.
        problem: Why there is no mean over this run and others of its configuration; None if there is nothing to say.
    """

    name: str
    runs: tuple[str, ...]
    metrics: tuple[Mapping[str, Any], ...]
    spreads: dict[str, Spread]
    problem: str | None = None


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Puts the seeds of a configuration together.

    Args:
        runs: Any runs.

    Returns:
        Groups in the order of their first runs. Runs on data of another content (`data_hash`) stand apart, and so does
        one that has not noted it.
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
    """Mean and standard deviation of every metric over evaluations of several seeds.

    Args:
        metrics: What `evaluate` wrote for each run; flat.

    Returns:
        A spread for each name whose value is a finite number in at least one evaluation. Conditions of the evaluation
        are left out, and so are metrics that were computed in different ways (`differing_conditions`).

    Raises:
        UserError: If the evaluations do not compare, or a seed occurs twice.
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
    """Puts the seeds of each configuration together; runs over which a mean would mislead stand alone, and say why.

    Args:
        runs: Evaluated runs.
        names: How each is called.
        metrics: What `evaluate` found for each.
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
    """Why a mean over these evaluations would mislead; None if it would not."""
    if differing := differing_conditions(metrics):
        values = [" and ".join(dict.fromkeys(str(found.get(name)) for found in metrics)) for name in differing]
        told = ", ".join(f"{name} is {value}" for name, value in zip(differing, values, strict=True))
        return f"the evaluations cannot be compared: {told}; evaluate every run in the same way"
    seeds = Counter(found["training_seed"] for found in metrics if found.get("training_seed") is not None)
    if twice := [seed for seed, count in seeds.items() if count > 1]:
        return f"training seed {twice[0]} occurs twice: it would count twice in the mean; leave one of these runs out"
    return None


def flagged(name: str, metrics: Mapping[str, Any]) -> str:
    """What a reader of a metric must know of the run, or nothing: that bits per dimension are of no finished bound."""
    return str(metrics.get("beta_flag") or "") if name in ("bpd", "bpd_with_cross", "iwae_bpd") else ""


def below_zero(metrics: Mapping[str, Any]) -> str:
    """What a reader of negative bits per dimension must know; nothing if there are none."""
    values: list[Any] = [metrics.get(name) for name in BITS]
    return BELOW_0 if any(_is_number(value) and value < 0 for value in values) else ""


def differing_conditions(metrics: Sequence[Mapping[str, Any]], name: str = "") -> list[str]:
    """The conditions that keep evaluations from being compared: those of every metric, and those of one.

    Args:
        metrics: What `evaluate` wrote for each run.
        name: A metric; evaluations that lack it need not agree on its own conditions.
    """
    having = [found for found in metrics if found.get(name) is not None]
    own = [condition for starts, names in OWN_CONDITIONS.items() if name.startswith(starts) for condition in names]
    return [c for c in COMPARABLE if _disagree(metrics, c)] + [c for c in own if _disagree(having, c)]


def _disagree(metrics: Sequence[Mapping[str, Any]], condition: str) -> bool:
    return len({str(found.get(condition)) for found in metrics}) > 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _differing(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields whose values, or whose existence, differ."""
    fields = dict.fromkeys(field for configuration in configurations for field in configuration)
    return [f for f in fields if len({repr(c[f]) if f in c else "" for c in configurations}) > 1]


def _setting(field: str, fields: Mapping[str, Any]) -> str:
    value = fields.get(field)
    shown = "none" if value is None else str(value)
    return f"{field} {shown[:HASH_DIGITS] if field == 'data_hash' else shown}"
