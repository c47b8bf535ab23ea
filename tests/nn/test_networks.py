"""Each network against the recorded elementary cases, a plain loop, or a property it must have."""

import pytest
import torch

from pyro_sri.nn import (
    IMAGE_SIZES,
    ColourHead,
    InstanceColours,
    RelationalAttention,
    SceneEncoder,
    SlotDecoder,
    SlotHead,
    SlotPrior,
    SlotScales,
    SpatialBroadcast,
    StickBreaking,
    UNet,
    coordinate_grid,
    straight_through_clamp,
)
from support.golden import Golden, assert_relative


def test_recorded_clamp() -> None:
    golden = Golden("elementary")
    x = golden["in/clamp_x"].requires_grad_(True)
    clamped = straight_through_clamp(x, 0.01, 0.99)
    assert_relative(clamped, golden["out/clamp_value"])
    clamped.square().sum().backward()
    assert_relative(x.grad, golden["out/clamp_grad_of_sum_square"])


def test_recorded_coordinates_and_broadcast() -> None:
    golden = Golden("elementary")
    assert_relative(coordinate_grid(5, torch.float64)[None], golden["out/pixel_coords_5"])
    assert_relative(SpatialBroadcast(4).double()(golden["in/broadcast_z"]), golden["out/broadcast_4"])


def test_coordinates_are_exact_after_a_cast() -> None:
    layer = SpatialBroadcast(7).double()
    assert torch.equal(layer.grid, coordinate_grid(7, torch.float64))
    assert not layer.state_dict()


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "epanechnikov"])
def test_recorded_kernels(kernel: str) -> None:
    golden = Golden("elementary")
    colours = golden["in/kernel_colour"].requires_grad_(True)
    row, column = golden.config("kernel_seed_row"), golden.config("kernel_seed_col")
    clustering = StickBreaking(4, 32, 5, InstanceColours(kernel=kernel)).double()
    with torch.no_grad():
        clustering.log_sigma.fill_(golden.config("kernel_log_sigma"))
    seed = colours[:, :, row, column, None]
    alpha = clustering.alpha(colours.flatten(2), seed).view(3, 6, 6)
    assert_relative(alpha, golden[f"out/alpha_{kernel}"])
    squared = (colours.flatten(2) - seed).square().sum(1).view(3, 6, 6)
    assert_relative(squared, golden["out/squared_distance"])
    assert_relative(squared.clamp(min=1e-10).sqrt(), golden["out/euclidean_distance"])
    (alpha * golden[f"in/alpha_weight_{kernel}"]).sum().backward()
    assert_relative(colours.grad, golden[f"out/alpha_{kernel}_grad"])


def test_recorded_relation() -> None:
    golden = Golden("elementary")
    names = {"q.": "query.", "k.": "key.", "relational_v.": "relation.", "norm_pre_ff.": "norm.", "mlp.": "mlp."}
    state = {
        ours + name.removeprefix(theirs): tensor
        for name, tensor in golden.state("relation.").items()
        for theirs, ours in names.items()
        if name.startswith(theirs)
    }
    block = RelationalAttention(6).double()
    block.load_state_dict(state)
    assert_relative(block(golden["in/relation_x"]), golden["out/relation"])


def test_recorded_stick_breaking() -> None:
    """The recorded clustering stops early; up to there the masks and scopes are those of the full one."""
    golden = Golden("elementary")
    clustering = StickBreaking(4, 16, golden.config("sbp_K")).double()
    clustering.load_state_dict(
        {name.replace("gate.gate", "gate"): tensor for name, tensor in golden.state("sbp.").items()}
    )
    with torch.no_grad():
        features = golden["in/sbp_features"]
        images = torch.zeros_like(features[:, :3])
        clusters = clustering(features, images, golden["noise/sbp_rand_pixel"][:, 0], golden.config("sbp_K"))
    masks = clusters.log_masks[0].exp()
    assert_relative(masks.sum((1, 2, 3)), golden["out/sbp_mass_without_stop"])
    stopped = golden["out/sbp_n_masks"].item() - 1
    assert_relative(clusters.log_masks[0, :stopped], golden["out/sbp_log_m"][:stopped, 0])
    assert_relative(clusters.log_scopes[0, : stopped + 1], golden["out/sbp_log_s"][: stopped + 1, 0])
    assert masks.sum((1, 2, 3))[stopped] < golden.config("sbp_min_mask_mass")  # where the recording stopped


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "epanechnikov"])
@pytest.mark.parametrize("start", ["none", "position", "picture", "contrast"])
def test_stick_breaking_equals_a_loop_over_images(kernel: str, start: str) -> None:
    torch.manual_seed(1)
    clustering = StickBreaking(6, 32, 5, InstanceColours(start=start, kernel=kernel, gate=0.7)).double()
    features = torch.randn(3, 6, 32, 32, dtype=torch.float64)
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    uniforms = torch.rand(3, 32, 32, dtype=torch.float64)
    together = clustering(features, images, uniforms, 5)
    for image in range(3):
        colours = clustering.colour_head(features[image : image + 1], images[image : image + 1])[0].permute(
            1, 2, 0
        )  # [H, W, 8]
        scope = torch.ones(32, 32, dtype=torch.float64)
        for k in range(4):
            index = (uniforms[image] * scope).argmax().item()
            seed = colours[index // 32, index % 32]
            squared = (colours - seed).square().sum(-1)
            sigma = clustering.log_sigma.exp()
            alpha = {
                "gaussian": (-squared / sigma).exp(),
                "laplacian": (-squared.clamp(1e-10, 1e10).sqrt() / sigma).exp(),
                "epanechnikov": (1 - squared / sigma).clamp(min=0),
            }[kernel].clamp(0.01, 0.99)
            assert together.seed_index[image, k] == index
            assert_relative(together.log_masks[image, k, 0].exp(), scope * alpha, 1e-12)
            scope = scope * (1 - alpha)
        assert_relative(together.log_masks[image, 4, 0].exp(), scope, 1e-12)
    assert_relative(together.log_masks.exp().sum(1), torch.ones(3, 1, 32, 32), 1e-12)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "epanechnikov"])
def test_masks_made_at_once_have_the_gradients_of_masks_made_in_turn(kernel: str) -> None:
    torch.manual_seed(1)
    clustering = StickBreaking(6, 8, 5, InstanceColours(kernel=kernel, gate=0.7)).double()
    features = torch.randn(3, 6, 8, 8, dtype=torch.float64, requires_grad=True)
    images, uniforms = torch.rand(3, 3, 8, 8, dtype=torch.float64), torch.rand(3, 8, 8, dtype=torch.float64)
    weights = torch.randn(3, 5, 64, dtype=torch.float64)
    inputs = [features, *clustering.parameters()]
    together = clustering(features, images, uniforms, 5)
    log_masks = []
    colours = clustering.colour_head(features, images).flatten(2)
    log_scope = torch.zeros(3, 64, dtype=torch.float64)
    for k in range(4):
        seed = colours.gather(2, together.seed_index[:, k, None, None].expand(-1, 8, 1))
        alpha = straight_through_clamp(clustering.alpha(colours, seed), 0.01, 0.99)
        log_masks.append(log_scope + alpha.log())
        log_scope = log_scope + torch.log1p(-alpha)
    in_turn = torch.stack([*log_masks, log_scope], 1)
    assert_relative(together.log_masks.flatten(2), in_turn, 1e-12)
    losses = [(masks.flatten(2) * weights).sum() for masks in (together.log_masks, in_turn)]
    for ours, plain in zip(*(torch.autograd.grad(loss, inputs) for loss in losses), strict=True):
        assert_relative(ours, plain, 1e-12)


def test_one_slot_takes_everything() -> None:
    clusters = StickBreaking(4, 32, 1)(torch.randn(2, 4, 32, 32), torch.rand(2, 3, 32, 32), torch.rand(2, 32, 32), 1)
    assert torch.equal(clusters.log_masks, torch.zeros(2, 1, 1, 32, 32))
    assert clusters.seeds.shape == (2, 0, 8)


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_sizes(size: int) -> None:
    features = UNet(size, 8)(torch.rand(2, 3, size, size))
    assert features.shape == (2, 8, size, size)
    rgb, log_masks = SlotDecoder(size, 8)(torch.randn(2, 3, 8))
    assert rgb.shape == (2, 3, 3, size, size)
    assert log_masks.shape == (2, 3, 1, size, size)
    assert ((rgb > 0) & (rgb < 1)).all()
    torch.testing.assert_close(log_masks.exp().sum(1), torch.ones(2, 1, size, size))


@pytest.mark.parametrize(("size", "features"), [(48, 8), (32, 12), (32, 72), (32, 0)])
def test_unet_refuses_what_it_cannot_take(size: int, features: int) -> None:
    with pytest.raises(ValueError, match=r"does not fit|do not fit"):
        UNet(size, features)


def test_decoder_refuses_odd_sizes() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        SlotDecoder(40, 8)


def test_slot_head_pools_each_mask_on_its_own() -> None:
    head = SlotHead(8, 8, 16)
    features, masks = torch.randn(2, 8, 16, 16), torch.rand(2, 4, 1, 16, 16)
    loc, raw_scale = head(features, masks)
    assert loc.shape == raw_scale.shape == (2, 4, 8)
    maps = head.feature_head(features)
    for k in range(4):
        pooled = (maps * masks[:, k]).sum((2, 3)) / (masks[:, k].sum((2, 3)) + 1e-5)
        expected = head.slot_mlp(pooled)
        torch.testing.assert_close(torch.cat([loc[:, k], raw_scale[:, k]], 1), expected, rtol=1e-4, atol=1e-5)


def test_scene_encoder_is_permutation_invariant_and_its_blocks_equivariant() -> None:
    encoder = SceneEncoder(8, 12).double()
    slots, order = torch.randn(3, 5, 8, dtype=torch.float64), torch.tensor([3, 1, 4, 0, 2])
    for ours, permuted in zip(encoder(slots), encoder(slots[:, order]), strict=True):
        assert_relative(permuted, ours, 1e-12)
    block = encoder.blocks[0]
    assert_relative(block(slots[:, order]), block(slots)[:, order], 1e-12)


def test_slot_scales_see_only_what_came_before() -> None:
    scales = SlotScales(8, 12)
    scene, means = torch.randn(2, 12), torch.randn(2, 5, 8)
    changed = means.clone()
    changed[:, 2] += 1
    before, after = scales(scene, means), scales(scene, changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert (before[:, 3] != after[:, 3]).any()


def test_slot_prior_depends_on_scene_and_past() -> None:
    prior = SlotPrior(8, 12)
    scene = torch.randn(2, 12)
    loc, raw_scale, state = prior.first(scene)
    assert loc.shape == raw_scale.shape == (2, 8)
    one, _, _ = prior.step(torch.zeros(2, 8), state)
    other, _, _ = prior.step(torch.ones(2, 8), state)
    assert (one != other).all()
    assert (loc[0] != loc[1]).any()


def test_the_slot_priors_heads_are_those_of_the_state_dict() -> None:
    """One product gives what the two layers give, with their gradients."""
    prior = SlotPrior(8, 12).double()
    scene, slot = torch.randn(2, 12, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    weights = torch.randn(4, 2, 8, dtype=torch.float64)
    state = (torch.zeros(2, 32, dtype=torch.float64),) * 2
    plain = []
    for inputs in (prior.first_input(scene), slot):
        state = prior.lstm(inputs, state)
        plain += [prior.loc(state[0]), prior.raw_scale(state[0])]
    *first, carried = prior.first(scene)
    ours = [*first, *prior.step(slot, carried)[:2]]
    for one, other in zip(ours, plain, strict=True):
        assert_relative(one, other, 1e-12)
    losses = [(torch.stack(values) * weights).sum() for values in (ours, plain)]
    gradients = [torch.autograd.grad(loss, list(prior.parameters())) for loss in losses]
    for one, other in zip(*gradients, strict=True):
        assert_relative(one, other, 1e-12)


def test_picture_start_is_colour_and_position() -> None:
    """With the gate closed two pixels are as far apart as their colours and their places say."""
    colours = InstanceColours(start="picture", gate=0.0, colour_weight=2.0, position_weight=0.2)
    images = torch.rand(2, 3, 32, 32)
    embeddings = ColourHead(4, 32, colours)(torch.randn(2, 4, 32, 32), images)
    first, second = embeddings[:, :, 3, 4], embeddings[:, :, 20, 31]
    expected = 4 * (images[:, :, 3, 4] - images[:, :, 20, 31]).square().sum(1) + 0.04 * (17**2 + 27**2) * (2 / 31) ** 2
    torch.testing.assert_close((first - second).square().sum(1), expected)


@pytest.mark.parametrize("size", [32, 64])
def test_decoder_is_its_layers(size: int) -> None:
    decoder = SlotDecoder(size, 8).double()
    slots = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    plain = decoder.layers(slots.flatten(0, 1)).unflatten(0, (2, 3))
    rgb, log_masks = decoder(slots)
    assert_relative(rgb, plain[:, :, :3].sigmoid(), 1e-12)
    assert_relative(log_masks, plain[:, :, 3:].log_softmax(1), 1e-12)
    weights = torch.randn_like(rgb)
    inputs = (slots, *decoder.parameters())
    expected = torch.autograd.grad((weights * plain[:, :, :3].sigmoid()).sum(), inputs)
    for gradient, other in zip(torch.autograd.grad((weights * rgb).sum(), inputs), expected, strict=True):
        assert_relative(gradient, other, 1e-9)


def test_contrast_start_knows_neither_shading_nor_how_far_the_background_reaches() -> None:
    images = torch.full((1, 3, 32, 32), 0.2)
    images[0, :, 4:8, 4:8] = torch.tensor([0.9, 0.2, 0.2])[:, None, None]  # red
    images[0, :, 8:12, 4:8] = torch.tensor([0.6, 0.2, 0.2])[:, None, None]  # the same in the shade
    images[0, :, 20:24, 24:28] = torch.tensor([0.9, 0.2, 0.2])[:, None, None]  # red, far away
    images[0, :, 12:16, 4:8] = torch.tensor([0.2, 0.2, 0.9])[:, None, None]  # blue, near
    colours = InstanceColours(start="contrast", gate=0.0, colour_weight=0.9, position_weight=0.45)
    embeddings = ColourHead(4, 32, colours)(torch.randn(1, 4, 32, 32), images)[0]

    def distance(one: tuple[int, int], other: tuple[int, int]) -> float:
        return (embeddings[:, *one] - embeddings[:, *other]).norm().item()

    assert distance((0, 0), (31, 31)) == 0
    assert distance((5, 5), (9, 5)) < 0.2
    for far in ((21, 25), (13, 5), (0, 0)):
        assert distance((5, 5), far) > 0.6
