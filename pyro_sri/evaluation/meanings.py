"""What each metric means, which way is better, and what belongs together: for tables, pages and readers."""

from typing import Literal, NamedTuple


class Meaning(NamedTuple):
    """What a metric is.

    Attributes:
        text: One line for people.
        better: Which way is better; None where neither is.
    """

    text: str
    better: Literal["higher", "lower"] | None = None


# Group -> metric -> meaning, in the order in which they are shown.
METRICS: dict[str, dict[str, Meaning]] = {
    "segmentation": {
        "ari_fg": Meaning("adjusted Rand index over foreground pixels, decoder masks (1 is perfect)", "higher"),
        "ari_fg_attention": Meaning(
            "adjusted Rand index over foreground pixels, the guide's own (attention) masks", "higher"
        ),
        "ari": Meaning("adjusted Rand index over all pixels, decoder masks", "higher"),
        "count_accuracy": Meaning("share of images whose number of objects is found exactly", "higher"),
    },
    "reconstruction and likelihood": {
        "mse": Meaning("mean squared error of the reconstruction, per pixel and channel in [0, 1]", "lower"),
        "nll": Meaning("-log p(x | z), nats per image, normalised likelihood", "lower"),
        "nll_above_floor": Meaning("nll minus that of a perfect reconstruction, nats per image", "lower"),
        "bpd": Meaning("-ELBO in bits per dimension", "lower"),
        "bpd_with_cross": Meaning("-ELBO plus kl_cross in bits per dimension", "lower"),
        "iwae_bpd": Meaning("importance-weighted bound in bits per dimension", "lower"),
        "iwae_bpd_8": Meaning("importance-weighted bound from 8 draws", "lower"),
        "iwae_bpd_1": Meaning("importance-weighted bound from one draw: -ELBO by Monte Carlo", "lower"),
        "iwae_sample_size": Meaning("effective number of draws in iwae_bpd; near 1 the bound depends on single draws"),
        "segregation_nll": Meaning("-log p(x | z) of the segregation's own model, nats per image", "lower"),
        "squared_error": Meaning("squared error summed over an image: Slot Attention's loss", "lower"),
    },
    "KL divergences, in nats per image": {
        "kl": Meaning("all latents together"),
        "kl_scene": Meaning("KL(q(s | x) || p(s))"),
        "kl_slots": Meaning("sum over slots of KL(q(z_k | s, x) || p(z_k | z_<k, s))"),
        "kl_masks": Meaning("mask latents"),
        "kl_components": Meaning("component latents"),
        "kl_above": Meaning("layers above the refined one"),
        "kl_pres": Meaning("number of objects"),
        "kl_where": Meaning("places of objects"),
        "kl_what": Meaning("codes of objects"),
        "kl_cross": Meaning("cross-order KL; not part of the bound"),
        "segregation_kl": Meaning("the segregation's own posterior; not part of the bound"),
        "beta": Meaning("weight of these beside nll in training (EMORL's GECO: of nll beside these); 1 is the bound's"),
        "beta_segregation": Meaning("the same in the segregation's own objective"),
    },
    "generated scenes": {
        "frechet": Meaning("Fréchet distance between features of generated and of real images (0 is perfect)", "lower"),
        "precision": Meaning("share of generated images that lie among the real ones, by the same features", "higher"),
        "recall": Meaning("share of real images that lie among the generated ones", "higher"),
        "density": Meaning("how densely real images surround generated ones (about 1 is perfect)", "higher"),
        "coverage": Meaning("share of real images with a generated one nearby", "higher"),
        "structure_accuracy": Meaning("share of generated scenes that structure_rule passes", "higher"),
        "structure_accuracy_data": Meaning(
            "share of the data's scenes that stand by that rule, on true masks: the value to expect"
        ),
    },
    "order and codes": {
        "order_consistency": Meaning(
            "how well an object's role determines its slot's position (0: at random, 1: fully); without the background",
            "higher",
        ),
        "order_information": Meaning("mutual information of an object's role and its slot's position, bits", "higher"),
        "order_background": Meaning("share of images with the background at its commonest position in the sequence"),
        "dci_disentanglement": Meaning("how few factors each dimension of a slot captures (1 is perfect)", "higher"),
        "dci_completeness": Meaning("how few dimensions capture each factor (1 is perfect)", "higher"),
        "dci_informativeness": Meaning("how well factors can be predicted from slots (1 is perfect)", "higher"),
        "active_dimensions": Meaning("dimensions of a slot whose posterior mean varies: variance above 0.01"),
        "activeness": Meaning(
            "spread of the posterior means divided by the posterior's width, averaged over a slot's dimensions"
        ),
    },
    "posterior predictive checks": {
        "ppc_brightness": Meaning("P(replicates are at least as bright as the image); 0.5 is perfect"),
        "ppc_contrast": Meaning("P(replicates have at least as much contrast)"),
        "ppc_saturation": Meaning("P(replicates are at least as colourful)"),
        "ppc_roughness": Meaning("P(neighbouring pixels of replicates differ at least as much)"),
        "ppc_misfit": Meaning("P(-log p(x | z) of replicates is at least that of the image)"),
    },
}
CHECKS = METRICS["posterior predictive checks"]
CHECKS |= {
    f"{name}_surprising": Meaning(f"share of images with {name} below 0.025 or above 0.975", "lower") for name in CHECKS
}

MEANINGS: dict[str, Meaning] = {name: meaning for group in METRICS.values() for name, meaning in group.items()}
