"""Checks GECO's goal against the data, because a goal that is met at once, or never, fails silently."""

import itertools
import math
from pathlib import Path

import numpy as np

from pyro_sri.config import RunConfig
from pyro_sri.config.shared import GoalFields
from pyro_sri.data.loading import evaluation_batches

IMAGES = 1024  # for the mean image, or all of a smaller set
AT_ONCE = 64
AS_BEFORE = 1.1  # errors that differ by a smaller factor count as the same goal


def mean_image_error(data: Path, num_images: int = IMAGES) -> float:
    """The mean squared error, in [0, 1], of the mean training image as a reconstruction of all of them."""
    total = squares = np.zeros(())
    count = 0
    batches = evaluation_batches(data, "train", AT_ONCE, masks=False)
    for batch in itertools.islice(batches, max(1, num_images // AT_ONCE)):
        images = batch["images"].numpy() / 255.0
        total, squares = total + images.sum(0), squares + np.square(images).sum(0)
        count += len(images)
    return float((squares / count - np.square(total / count)).mean())


def goal_warnings(config: RunConfig, preset: RunConfig) -> list[str]:
    """Problems with the goal of a new run, each in one line.

    Args:
        config: The run, with its data.
        preset: Its preset's configuration, whose goal the run may have lost.
    """
    if not isinstance(config, GoalFields) or not config.uses_geco:
        return []
    goal = f"GECO's goal of {config.goal:.5g} nats per pixel and channel"
    if config.goal_mse <= 0:
        floor = config.goal_floor
        return [f"{goal} can never be met (the NLL is above {floor:.5g}): the reconstruction weighs more and more"]
    warnings = []
    assert isinstance(preset, GoalFields)
    if _lost(config, preset):
        warnings.append(
            f"with this likelihood, {goal} means a mean squared error of {config.goal_mse:.2g}, but that of "
            f"{config.preset} means {preset.goal_mse:.2g}: --geco-mse {preset.goal_mse:.2g} keeps it"
        )
    if (error := mean_image_error(config.data_file)) <= config.goal_mse:
        warnings.append(
            f"{goal} is met by the data's mean image (mean squared error {error:.2g}, the goal means "
            f"{config.goal_mse:.2g}): the KL weight will only grow; use a smaller --geco-mse"
        )
    return warnings


def _lost(config: GoalFields, preset: GoalFields) -> bool:
    """Whether the preset's target, in nats, means another error with the run's likelihood."""
    if config.geco_mse or config.geco_target != preset.geco_target or preset.goal_mse <= 0:
        return False
    return abs(math.log(config.goal_mse / preset.goal_mse)) > math.log(AS_BEFORE)
