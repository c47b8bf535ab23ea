"""What each metric means, which values are better, and which metrics belong together.

Each module of measures describes its own metrics. This module combines the descriptions.
"""

from pyro_sri.evaluation import controllers, draws, samples
from pyro_sri.evaluation.measures import MEASURES, Meaning, Meanings

# In the order in which they are shown. Others come last.
GROUPS = (
    "segmentation",
    "reconstruction and likelihood",
    "KL divergences, in nats per image",
    "generated scenes",
    "order and codes",
    "posterior predictive checks",
)


def _together(parts: list[Meanings]) -> dict[str, dict[str, Meaning]]:
    groups: dict[str, dict[str, Meaning]] = {group: {} for group in GROUPS}
    for part in parts:
        for group, meanings in part.items():
            groups.setdefault(group, {}).update(meanings)
    return groups


METRICS = _together(
    [
        *(measure.meanings for measure in MEASURES.values()),
        draws.MEANINGS,
        samples.MEANINGS,
        controllers.MEANINGS,
    ]
)
MEANINGS: dict[str, Meaning] = {name: meaning for group in METRICS.values() for name, meaning in group.items()}
