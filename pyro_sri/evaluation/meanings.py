"""What each metric means, which way is better, and what belongs together: for tables, pages and readers.

Each file of measures says it of its own metrics; here all of them come together.
"""

from pyro_sri.evaluation import controllers, draws, samples
from pyro_sri.evaluation.measures import MEASURES, Meaning, Meanings

# In the order in which they are shown; others come after.
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
