import pytest
import torch
from scipy.optimize import linear_sum_assignment

from pyro_sri.matching import greedy_matching, hungarian_matching, permute_slots, slot_distances
from support.golden import Golden


@pytest.mark.parametrize("problem", range(4))
def test_recorded_problems(problem: int) -> None:
    golden = Golden("sri_greedy_matching")
    q, p = golden[f"in/q_mean_{problem}"], golden[f"in/p_mean_{problem}"]
    cost = slot_distances(p, q)
    torch.testing.assert_close(cost, golden[f"out/cost_{problem}"], rtol=1e-12, atol=1e-12)
    orders = {"greedy": greedy_matching(cost), "hungarian": hungarian_matching(cost)}
    for name, order in orders.items():
        assert torch.equal(order, golden[f"out/{name}_order_{problem}"])
        total = cost.gather(2, order[..., None]).sum((1, 2))
        torch.testing.assert_close(total, golden[f"out/{name}_total_{problem}"])
    assert torch.equal(permute_slots(q, orders["greedy"]), golden[f"out/q_reordered_{problem}"])
    extra = golden[f"in/q_extra_{problem}"]
    assert torch.equal(permute_slots(extra, orders["greedy"]), golden[f"out/q_extra_reordered_{problem}"])


def test_ties_go_to_the_lowest_index() -> None:
    golden = Golden("sri_greedy_matching")
    order = greedy_matching(slot_distances(golden["in/p_mean_tie"], golden["in/q_mean_tie"]))
    assert torch.equal(order, golden["out/greedy_order_tie"])


def test_greedy_takes_the_nearest_free_slot_in_order() -> None:
    cost = torch.tensor([[[1.0, 2.0, 9.0], [0.0, 3.0, 4.0], [0.0, 0.0, 8.0]]])
    assert greedy_matching(cost).tolist() == [[0, 1, 2]]  # slot 0 is gone when position 1 wants it
    assert hungarian_matching(cost).tolist() == [[0, 2, 1]]  # 1 + 4 + 0 is the least


def test_greedy_leaves_the_cost_alone_and_gives_permutations() -> None:
    cost = torch.rand(16, 7, 7)
    before = cost.clone()
    order = greedy_matching(cost)
    assert torch.equal(cost, before)
    assert torch.equal(order.sort(1).values, torch.arange(7).expand(16, 7))


def test_hungarian_is_optimal() -> None:
    cost = torch.rand(8, 5, 5)
    order = hungarian_matching(cost)
    for c, o in zip(cost, order, strict=True):
        assert c[torch.arange(5), o].sum().item() == pytest.approx(c.numpy()[linear_sum_assignment(c.numpy())].sum())


def test_distances_carry_no_gradient() -> None:
    slots = torch.rand(2, 3, 4, requires_grad=True)
    assert not slot_distances(slots, slots).requires_grad
