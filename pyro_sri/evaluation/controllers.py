"""The final weights of GECO's controllers."""

from pyro_sri.evaluation.measures import Meaning, Meanings, Metrics, missing
from pyro_sri.inference import NO_BOUND
from pyro_sri.objectives import TermsELBO
from pyro_sri.programs import Model, record_of

ABOUT_1 = 0.01  # EMORL's controller ends at 1.0055

MEANINGS: Meanings = {
    "KL divergences, in nats per image": {
        "beta": Meaning("weight of the KLs in training (with EMORL's GECO, of nll); it is 1 in the bound"),
        "beta_segregation": Meaning("the same for the segregation's objective", detail=True),
    }
}


def weights(model: Model, elbo: TermsELBO | None) -> Metrics:
    """`beta` and `beta_segregation` at the end of training, and `beta_flag` if the first is not about 1.

    Args:
        model: A model.
        elbo: Its objective, with the state of the checkpoint, or None if it is not known.
    """
    if elbo is None:
        return missing("evaluated without its objective", "beta", "beta_segregation")
    found: Metrics = dict(elbo.weights())
    if not record_of(model).has_prior:
        found = missing(NO_BOUND, "beta")
    if "beta_segregation" not in found:
        found |= missing("there is no controller for a segregation", "beta_segregation")
    beta = found["beta"]
    if isinstance(beta, float) and abs(beta - 1) > ABOUT_1:
        found["beta_flag"] = f"beta is {beta:.3g}, not 1: training did not maximise this bound"
    return found
