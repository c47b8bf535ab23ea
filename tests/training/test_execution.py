"""How networks are run changes speed and memory, never what is computed, beyond the rounding that is asked for."""

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from lightning_fabric import Fabric
from pyro import poutine
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_sri import load
from pyro_sri.config import RunConfig
from pyro_sri.presets import PRESETS
from pyro_sri.system.errors import UserError
from pyro_sri.training import execution
from pyro_sri.training.execution import compile_networks, decoders, recompute_decoders, set_precision
from pyro_sri.training.loop import train
from pyro_sri.training.step import Stepper, TrainingStep, new_optimizer
from support.golden import assert_relative
from support.systems import uncovered

CPU = torch.device("cpu")

# One of each decoder: with group normalisation, batch normalisation, none; used once, twice, several times.
PAIRS = {
    "sri-quick": {},
    "genesis_v2-mog-shapestacks": {"analytic": True},
    "genesis-shapestacks": {"batch_size": 2},
    "slot_attention-multi_dsprites": {},
    "emorl-tetrominoes": {"refinement_steps": 1},
    "dair-multi_digits": {},
}
PAIRS |= {preset: {} for preset in uncovered(PAIRS)}


@pytest.fixture(autouse=True)
def _process_settings() -> Iterator[None]:
    threads = torch.get_num_threads()
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])
    torch.set_num_threads(threads)


def tiny(preset: str, **fields: Any) -> RunConfig:
    return dataclasses.replace(PRESETS[preset].config.tiny(), **PAIRS.get(preset, {}) | fields)


def new_module(config: RunConfig) -> TrainingStep:
    torch.manual_seed(0)
    return TrainingStep(*config.build())


def images_for(config: RunConfig) -> Tensor:
    size = config.image_size
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@dataclasses.dataclass
class Result:
    """What a forward and a backward pass leave."""

    loss: Tensor
    terms: dict[str, Tensor]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def run(module: TrainingStep, config: RunConfig) -> Result:
    torch.manual_seed(2)
    with pyro.settings.context(module_local_params=True):
        loss, terms = module(images_for(config))
        loss.backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return Result(loss.detach(), terms, gradients, dict(module.named_buffers()))


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def assert_equal(one: Result, other: Result) -> None:
    assert torch.equal(one.loss, other.loss)
    for before, after in ((one.terms, other.terms), (one.gradients, other.gradients), (one.buffers, other.buffers)):
        assert before.keys() == after.keys()
        assert [name for name in before if not torch.equal(before[name], after[name])] == []


def sites(module: TrainingStep, config: RunConfig) -> list[tuple[str, torch.Size, torch.dtype]]:
    torch.manual_seed(3)
    traces = module.elbo.trace(module.model, module.guide, images_for(config))
    found = []
    for trace in (traces.guide, traces.model, poutine.trace(module.model).get_trace(num_scenes=2)):
        nodes = ((name, site["value"]) for name, site in trace.nodes.items() if site["type"] == "sample")
        found += [(name, value.shape, value.dtype) for name, value in nodes]
    return found


class Types(TorchDispatchMode):
    """The types of floating point numbers that convolutions and normalisations work with, and sizes of kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: set[tuple[bool, torch.dtype]] = set()  # whether larger than 1x1, type
        self.others: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        given = {t.dtype for t in tree_leaves(args) if isinstance(t, Tensor) and t.is_floating_point()}
        if name == "aten::convolution":
            self.convolutions |= {(max(args[1].shape[2:]) > 1, dtype) for dtype in given}
        elif name != "aten::convolution_backward":
            self.others.setdefault(name, set()).update(given)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("preset", ["sri-quick", "genesis-shapestacks", "slot_attention-clevr6"])
def test_bfloat16_is_for_convolutions_alone(preset: str) -> None:
    config = tiny(preset)
    module = new_module(config)
    set_precision(module, "bf16")
    with Types() as types:
        result = run(module, config)
    one_by_one = any(isinstance(layer, nn.Conv2d) and max(layer.kernel_size) == 1 for layer in module.modules())
    assert types.convolutions == {(True, torch.bfloat16)} | ({(False, torch.float32)} if one_by_one else set())
    # What surrounds them: casts, sums of convolutions and with biases, and the gradients of those.
    others = {name for name, dtypes in types.others.items() if torch.bfloat16 in dtypes}
    views = {"detach", "t", "transpose", "view", "_unsafe_view", "split", "slice", "split_with_sizes", "expand"}
    allowed = {"_to_copy", "add_", "add", "sum", "copy_", "empty_like", "clone"} | views
    assert {name.removeprefix("aten::") for name in others} <= allowed
    assert {tensor.dtype for tensor in [result.loss, *result.terms.values(), *result.gradients.values()]} == {
        torch.float32
    }
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    plain = new_module(config)
    assert result.gradients.keys() == run(plain, config).gradients.keys()
    assert all(gradient.isfinite().all() for gradient in result.gradients.values())


@pytest.mark.parametrize(
    ("preset", "depth"), [("genesis_v2-mog-shapestacks", 14), ("slot_attention-multi_dsprites", 8)]
)
def test_bfloat16_computes_the_same_up_to_its_rounding(preset: str, depth: int) -> None:
    """Each of the convolutions that lie one behind the other rounds with 8 bits: 2^-8 of its values, at most."""
    config = tiny(preset)
    module = new_module(config)
    set_precision(module, "bf16")
    rounded, plain = run(module, config), run(new_module(config), config)
    noise = depth * 2.0**-8
    for name, term in plain.terms.items():
        assert_relative(rounded.terms[name], term, noise)
    assert not torch.equal(rounded.loss, plain.loss)
    difference = (flat(rounded.gradients) - flat(plain.gradients)).norm() / flat(plain.gradients).norm()
    assert 0 < difference < 2 * noise  # there and back


def test_convolutions_of_gpus_add_in_a_fixed_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    set_precision(nn.Linear(1, 1), "float32")
    assert torch.backends.cudnn.deterministic


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        ("sri-quick", {"SceneEncoder", "UNet", "ConvBlock", "SlotHead"}),
        ("slot_attention-multi_dsprites", {"PixelFeatures"}),
        ("dair-multi_digits", {"WindowEncoder"}),
    ],
)
def test_encoders_are_compiled_too(preset: str, names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "can_compile", lambda device: True)
    module = new_module(tiny(preset))
    assert {type(network).__name__ for network in execution.encoders(module)} == names
    compile_networks(module, CPU)
    for network in execution.encoders(module) + decoders(module):
        assert network.forward.func is execution._compiled


def test_float32_and_tf32_are_settings_of_the_process() -> None:
    module = nn.Conv2d(3, 3, 3)
    expected = module(torch.ones(1, 3, 4, 4))
    for precision, allowed, matmul in (
        ("tf32", True, "high"),
        ("float32", False, "highest"),
        ("bf16", False, "highest"),
    ):
        set_precision(nn.Linear(1, 1), precision)
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.get_float32_matmul_precision() == matmul
    assert torch.equal(module(torch.ones(1, 3, 4, 4)), expected)
    with pytest.raises(ValueError, match="unknown precision 'half': it must be one of float32, tf32, bf16"):
        set_precision(module, "half")


@pytest.mark.parametrize("preset", PAIRS)
def test_decoding_again_changes_nothing(preset: str) -> None:
    """Not the statistics of batch normalisation either, which sees everything twice."""
    config = tiny(preset)
    again, plain = new_module(config), new_module(config)
    names = list(plain.state_dict())
    recompute_decoders(again)
    assert_equal(run(again, config), run(plain, config))
    assert list(again.state_dict()) == names
    assert sites(again.eval(), config) == sites(plain.eval(), config)


def saved_bytes(module: TrainingStep, config: RunConfig) -> int:
    """What the forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = module(images_for(config))  # kept until here, so that addresses are not used twice
    assert loss.requires_grad
    return sum(kept.values())


def test_decoding_again_saves_memory() -> None:
    """At least the outputs of the decoder's hidden layers, which are larger than all that it is given."""
    config = tiny("genesis_v2-mog-shapestacks")
    again, plain = new_module(config), new_module(config)
    recompute_decoders(again)
    outputs: list[int] = []
    for layer in plain.model.decoder.layers[1:-1]:
        if isinstance(layer, nn.GroupNorm):  # its input and output are both kept: count the latter
            layer.register_forward_hook(lambda module, given, made: outputs.append(made.nbytes))
    before = saved_bytes(plain, config)
    assert saved_bytes(again, config) <= before - sum(outputs)
    assert len(outputs) == 4


def test_a_shared_decoder_is_decoded_again_once() -> None:
    """For the segregation and for the scene model: two passes forward, and once more each."""
    config = tiny("sri-quick")
    module = new_module(config)
    (decoder,) = decoders(module)
    recompute_decoders(module)
    calls: list[None] = []
    decoder.layers[1].register_forward_hook(lambda *args: calls.append(None))
    run(module, config)
    assert len(calls) == 4


def test_the_decoders_are_found() -> None:
    kinds = {preset: [type(network).__name__ for network in decoders(new_module(tiny(preset)))] for preset in PAIRS}
    assert all(kinds.values())
    assert kinds == kinds | {
        "sri-quick": ["SlotDecoder"],
        "genesis_v2-mog-shapestacks": ["SlotDecoder"],
        "genesis-shapestacks": ["MaskDecoder", "ComponentDecoder"],
        "slot_attention-multi_dsprites": ["PositionDecoder"],
        "emorl-tetrominoes": ["PositionDecoder"],
        "dair-multi_digits": ["WindowDecoder"],
    }


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("recompute", [False, True])
def test_decoders_are_compiled(recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also inside what decodes again; by a stand-in for the compiler, which runs what it is given."""
    graphs = []

    def take(graph: Any, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=take))
    execution._compiled_forward.cache_clear()
    torch._dynamo.reset()
    config = tiny("genesis_v2-mog-shapestacks", compile=True, recompute_decoder=recompute)
    module = new_module(config)
    Stepper(config, Fabric(accelerator="cpu", devices=1), module, new_optimizer(module, config))
    graphs.clear()
    result = run(module, config)
    assert sum("conv" in str(node.target) for graph in graphs for node in graph.graph.nodes) >= 4
    assert_equal(result, run(new_module(config), config))
    execution._compiled_forward.cache_clear()
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "preset", ["genesis_v2-mog-shapestacks", "genesis-shapestacks", "slot_attention-multi_dsprites"]
)
def test_compiled_decoders_compute_the_same(preset: str, recompute: bool) -> None:
    """Up to the order of float32 sums, of up to 25 x 64 products: sqrt(1600) roundings of 2^-24, in each direction."""
    if not execution.can_compile(CPU):
        pytest.skip("there is no compiler")
    torch._dynamo.reset()
    config = tiny(preset)
    compiled, plain = new_module(config), new_module(config)
    names = list(plain.state_dict())
    compile_networks(compiled, CPU)
    if recompute:
        recompute_decoders(compiled)
    one, other = run(compiled, config), run(plain, config)
    rounding = 2 * 1600**0.5 * 2.0**-24
    assert_relative(one.loss, other.loss.double(), rounding)
    assert_relative(flat(one.gradients), flat(other.gradients).double(), rounding)
    for name, buffer in other.buffers.items():
        if name.endswith("running_mean"):  # of numbers that cancel: beside their spread
            spread = other.buffers[name.replace("running_mean", "running_var")].sqrt()
            assert ((one.buffers[name] - buffer) / spread).abs().max() <= rounding
        elif buffer.numel():  # there may be no scene variable
            assert_relative(one.buffers[name], buffer.double(), rounding)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert list(compiled.state_dict()) == names
    assert sites(compiled.eval(), config) == sites(plain.eval(), config)
    torch._dynamo.reset()


def test_without_a_compiler_decoders_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fail)
    config = tiny("genesis_v2-mog-shapestacks")
    module = new_module(config)
    with pytest.warns(UserWarning, match="no compiler that torch.compile can use"):
        compile_networks(module, CPU)
    assert_equal(run(module, config), run(new_module(config), config))


@pytest.mark.parametrize(("threads", "used"), [(2, 2), (0, 3)])
def test_a_run_computes_on_its_number_of_threads_or_on_the_processs_own(threads: int, used: int) -> None:
    torch.set_num_threads(3)
    config = tiny("sri-quick", threads=threads)
    module = new_module(config)
    Stepper(config, Fabric(accelerator="cpu", devices=1), module, new_optimizer(module, config))
    assert torch.get_num_threads() == used


def as_written(module: TrainingStep) -> None:
    """Leaves it so."""


def in_bfloat16(module: TrainingStep) -> None:
    set_precision(module, "bf16")


def in_bfloat16_and_again(module: TrainingStep) -> None:
    set_precision(module, "bf16")
    recompute_decoders(module)


def compiled(module: TrainingStep) -> None:
    for decoder in decoders(module):
        execution._run_by(decoder, execution._compiled)


def compiled_and_again(module: TrainingStep) -> None:
    compiled(module)
    recompute_decoders(module)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "average": lambda module: torch.optim.swa_utils.AveragedModel(module).module,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("run_as", [as_written, in_bfloat16, in_bfloat16_and_again, compiled, compiled_and_again])
def test_a_copy_computes_with_its_own_weights(run_as: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    execution._compiled_forward.cache_clear()
    config = tiny("genesis_v2-mog-shapestacks")
    module = new_module(config)
    run_as(module)
    twin = COPIES[how](module)
    assert_equal(run(twin, config), run(module, config))
    module.zero_grad()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    loss, _ = twin(images_for(config))
    loss.backward()
    assert all(parameter.grad is None for parameter in module.parameters())
    assert sum(parameter.grad is None for parameter in twin.parameters()) == 0
    execution._compiled_forward.cache_clear()


@pytest.mark.parametrize("preset", PAIRS)
def test_there_is_a_way_back_to_float32(preset: str) -> None:
    config = tiny(preset)
    module = new_module(config)
    for precision in ("bf16", "bf16", "float32"):
        set_precision(module, precision)
    assert_equal(run(module, config), run(new_module(config), config))


@pytest.mark.parametrize("fields", [{"precision": "bf16"}, {"precision": "tf32", "recompute_decoder": True}])
def test_such_runs_leave_plain_checkpoints(fields: dict[str, Any], tetrominoes: Path, tmp_path: Path) -> None:
    config = tiny("genesis_v2-mog-shapestacks", data=tetrominoes, device="cpu", steps=2)
    train(dataclasses.replace(config, **fields), tmp_path)
    model, guide = load(tmp_path)
    plain = new_module(config).eval()
    assert list(model.state_dict()) == list(plain.model.state_dict())
    assert [layer for layer in model.modules() if "forward" in vars(layer)] == []
    own = TrainingStep(model, guide, plain.elbo).eval()
    assert sites(own, config) == sites(plain, config)


def test_what_may_change_when_a_run_goes_on(tetrominoes: Path, tmp_path: Path) -> None:
    config = tiny("genesis_v2-mog-shapestacks", data=tetrominoes, device="cpu", steps=4)
    train(config, tmp_path / "whole")
    train(dataclasses.replace(config, steps=2), tmp_path / "parts")
    with pytest.raises(UserError, match=r"cannot change --precision \(was float32\)") as caught:
        train(dataclasses.replace(config, precision="bf16"), tmp_path / "parts", resume=True)
    assert "\n" not in str(caught.value)
    train(dataclasses.replace(config, recompute_decoder=True, capture=True), tmp_path / "parts", resume=True)
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert [n for n, tensor in one["objective"].items() if not torch.equal(tensor, other["objective"][n])] == []
    assert one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
