"""The learning rate of every step."""

import math

from pyro_sri.config import RunConfig

FINAL_LEARNING_RATE = 0.02  # share of the learning rate at the end of the cosine


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of a step: linear warm-up, then constant, halving, or a cosine down to a fiftieth.

    Smooth halving is EMORL's: rate * 0.5^((step - warm-up) / halving steps).
    """
    rate = config.learning_rate
    cycle = config.cycle(step)
    since = step - cycle.start
    if since < cycle.warmup:
        rate *= (since + 1) / cycle.warmup
    if config.halving_steps:
        smooth = max(step - config.warmup_steps, 0) / config.halving_steps
        rate *= 0.5 ** (smooth if config.halving == "smooth" else step // config.halving_steps)
    if cycle.decay:
        cosine = 0.5 * (1 + math.cos(math.pi * min(since / cycle.decay, 1.0)))
        rate *= FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * cosine
    return rate
