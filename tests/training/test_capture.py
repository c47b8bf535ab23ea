"""Steps recorded once and repeated without Python are the steps that Python takes: bit for bit, for every system."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pyro
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from pyro_sri.config import RunConfig
from pyro_sri.presets import PRESETS
from pyro_sri.system.errors import UserError
from pyro_sri.training.capture import WARM_UP, Captured
from pyro_sri.training.step import Stepper, TrainingStep, new_optimizer
from support.systems import uncovered
from support.tape import CannotRecord, record

CPU = torch.device("cpu")

# float32 holds all the rates of the warm-up exactly: where the rate is a tensor, as in a recording, it is not rounded.
RATES: dict[str, Any] = {"learning_rate": 2.0**-9, "warmup_steps": 16, "decay_steps": 0, "gradient_clip": 1.0}


class Case(NamedTuple):
    """A run, and how many steps of it: those that run as they are, one that is recorded, and repetitions."""

    preset: str
    fields: Mapping[str, Any] = MappingProxyType({})
    steps: int = WARM_UP + 5


FEW = WARM_UP + 3
TWO_PHASES, THREE_PHASES = 2 * FEW, 3 * FEW  # each phase runs as it is, is recorded and is repeated
EMORL: dict[str, Any] = {"refinement_steps": 2, "later_refinement_steps": 1, "refinement_drop": FEW}

FAST = {
    "SRI in three phases": Case(
        "sri-quick", {"batch_size": 1, "segregation_steps": FEW, "prior_from": 2 * FEW}, THREE_PHASES
    ),
    "GENESIS-v2, bf16, recomputed": Case(
        "genesis_v2-g-shapestacks", {"precision": "bf16", "recompute_decoder": True}, FEW
    ),
    "Slot Attention": Case("slot_attention-multi_dsprites", {"batch_size": 1}, FEW),
    "AIR, summed out": Case("air-multi_digits", {}, FEW),
    "DAIR, score function": Case("dair-multi_digits", {"estimator": "score", "annealing_steps": 5}),
    "recurrent": Case("recurrent-mog-shapestacks", {}, FEW),
}
SLOW = {
    "SRI": Case("sri-mog-shapestacks"),
    "SRI, Gaussian": Case("sri-g-objects_room"),
    "SRI, per pixel": Case("sri-mog-clevr6", {"mixture": "pixel", "geco": "emorl"}),
    "SRI without a scene": Case("sri-mog-shapestacks", {"scene_size": 0}),
    "SRI not aligned": Case("sri-mog-shapestacks", {"align": False}),
    "SRI without KL_cross": Case("sri-mog-shapestacks", {"kl_cross": False, "geco": "none"}),
    "SRI by samples": Case("sri-mog-shapestacks", {"match_on": "samples", "kernel": "laplacian", "gate_init": 0.5}),
    "SRI in the order given": Case("sri-mog-shapestacks", {"matching": "identity", "kernel": "epanechnikov"}),
    "SRI end to end": Case("genesis_v2_scene-mog-shapestacks"),
    "SRI-EMORL": Case("sri_emorl-clevr6"),
    "SRI-SA": Case("sri_sa-shapestacks"),
    "GENESIS, recomputed": Case("genesis-shapestacks", {"recompute_decoder": True}),
    "GENESIS with a scene": Case("genesis_scene-shapestacks"),
    "GENESIS, analytic": Case("genesis-objects_room", {"analytic": True}),
    "GENESIS-v2": Case("genesis_v2-mog-shapestacks"),
    "GENESIS-v2 with a mask KL": Case("genesis_v2-mog-clevr6", {"mask_kl": "attached", "analytic": True}),
    "EMORL": Case("emorl-tetrominoes", EMORL, TWO_PHASES),
    "EMORL, other prior": Case("emorl-clevr6", EMORL | {"prior": "rev", "dual_gru": False, "geco": False}, TWO_PHASES),
    "EMORL, recomputed": Case("emorl-multi_dsprites", {"recompute_decoder": True, "refinement_steps": 1}),
    "Slot Attention, large": Case("slot_attention-clevr6"),
    "AIR, score function": Case("air-multi_digits", {"estimator": "score", "annealing_steps": 0}),
    "DAIR, summed out": Case("dair-multi_digits", {"annealing_steps": 5}),
}
SLOW |= {preset: Case(preset) for preset in uncovered(case.preset for case in (FAST | SLOW).values())}
CASES = [pytest.param(case, id=name) for name, case in FAST.items()]
CASES += [pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording on the CPU."""
    monkeypatch.setattr("pyro_sri.training.capture.record", record)
    monkeypatch.setattr("pyro_sri.training.step.records", lambda device: True)  # what the optimiser goes by


def tiny(case: Case, **fields: Any) -> RunConfig:
    return dataclasses.replace(PRESETS[case.preset].config.tiny(), **RATES | case.fields | fields)


def new_stepper(config: RunConfig) -> Stepper:
    torch.manual_seed(config.seed)
    module = TrainingStep(*config.build())
    module.train()
    return Stepper(config, Fabric(accelerator="cpu", devices=1), module, new_optimizer(module, config))


def run(config: RunConfig, steps: int) -> dict[str, Tensor]:
    """What some steps leave behind: weights, controllers, statistics, optimiser, totals, and the generator."""
    stepper = new_stepper(config)
    generator = torch.Generator().manual_seed(1)
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    with pyro.settings.context(module_local_params=True):
        for step in range(steps):
            images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            with pyro.validation_enabled(step < WARM_UP):
                stepper(images, step)
    state = stepper.module.state_dict() | {f"total {name}": total for name, total in stepper.totals.items()}
    for number, values in enumerate(stepper.optimizer.state.values()):
        state |= {f"optimiser {number}, {name}": value for name, value in values.items()}
    return state | {"finite": stepper.finite, "generator": torch.get_rng_state()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("case", CASES)
def test_repeated_steps_are_the_steps(case: Case) -> None:
    assert differing(run(tiny(case), case.steps), run(tiny(case, capture=True), case.steps)) == []


def test_a_number_in_the_recording_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimiser that takes its rate as a number keeps that of the recorded step: the comparison above sees it."""
    case = FAST["AIR, summed out"]
    monkeypatch.setattr("pyro_sri.training.capture.record", record)
    different = differing(run(tiny(case), case.steps), run(tiny(case, capture=True), case.steps))
    assert any(name.startswith("model.") for name in different)
    assert "finite" not in different


def test_on_the_cpu_capturing_changes_nothing() -> None:
    case = FAST["AIR, summed out"]
    assert differing(run(tiny(case), case.steps), run(tiny(case, capture=True), case.steps)) == []


@pytest.mark.usefixtures("graphs")
def test_a_phase_is_recorded_once_it_has_run() -> None:
    called = []
    captured = Captured(lambda inputs: called.append(inputs.item()), CPU)  # .item() cannot be recorded
    for phase in ("first", "second", "first"):
        for call in range(WARM_UP):
            captured(torch.tensor(float(call)), phase)
        with pytest.raises(CannotRecord):
            captured(torch.tensor(7.0), phase)
    assert called == 3 * [float(call) for call in range(WARM_UP)]


@pytest.mark.usefixtures("graphs")
def test_what_is_repeated_reads_new_inputs() -> None:
    total = torch.zeros(3)
    drawn = torch.zeros(3)

    def work(inputs: Tensor) -> None:
        total.add_(inputs * 2)
        drawn.copy_(torch.randn(3))

    captured = Captured(work, CPU)
    for call in range(6):
        torch.manual_seed(call)
        captured(torch.full((3,), 10.0**call))
    assert total.tolist() == 3 * [222222.0]
    assert torch.equal(drawn, torch.randn(3, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: torch.equal(x, x),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x[[0, 1]],
        lambda x: x + torch.tensor(1.0),
        lambda x: x + torch.from_numpy(x.numpy()),
        lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.long)),
        lambda x: x.unique(),
    ],
)
def test_the_tape_refuses_what_a_graph_cannot_hold(work: Callable[[Tensor], Any]) -> None:
    with pytest.raises(CannotRecord):
        record(lambda: work(torch.ones(3)), CPU)
    repeat = record(lambda: (torch.ones(3) * 2).index_select(0, torch.arange(2)), CPU)
    repeat()
    repeat()


@pytest.mark.usefixtures("graphs")
def test_matching_on_the_host_cannot_be_recorded() -> None:
    """Where it happens is said; users get one plain line from the configuration."""
    config = tiny(SLOW["SRI"], matching="hungarian", batch_size=1)
    stepper = new_stepper(config)
    stepper.work = Captured(stepper._work, CPU)
    images = torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8)
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        for step in range(WARM_UP):
            stepper(images, step)
        with pytest.raises(CannotRecord, match=r"from the host, in matching\.py, line \d+"):
            stepper(images, WARM_UP)


def test_what_cannot_be_recorded_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="--capture") as caught:
        tiny(SLOW["SRI"], matching="hungarian", capture=True)
    assert "--matching" in str(caught.value)
    assert "\n" not in str(caught.value)
