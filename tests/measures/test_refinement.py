"""Sizes, directions and distances of states, against explicit loops and values known beforehand."""

import math

import pytest
import torch
from torch import Tensor

from gradscope.measures import refinement as measure


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: list[float], b: list[float]) -> float:
    """By the formula, one number at a time."""
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_cosines_and_norms_are_those_of_explicit_loops():
    a, b = drawn(5, 2, 3), drawn(5, 2, 3, seed=1)
    rows = list(zip(a.flatten(1).tolist(), b.flatten(1).tolist(), strict=True))
    expected = [cosine(x, y) for x, y in rows]
    torch.testing.assert_close(measure.row_cosines(a, b).tolist(), expected)
    norms = [[math.sqrt(sum(v * v for v in part)) for part in row] for row in rows]
    torch.testing.assert_close(measure.row_norms(a).tolist(), [x for x, _ in norms])
    torch.testing.assert_close(measure.norm_ratio(a, b).tolist(), [x / y for x, y in norms])
    changes = [-sum(x * y for x, y in zip(*row, strict=True)) for row in rows]
    torch.testing.assert_close(measure.first_order_change(a, b).tolist(), changes)


def test_known_directions():
    a = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    b = torch.tensor([[6.0, 8.0], [-0.3, -0.4], [-4.0, 3.0]])
    torch.testing.assert_close(measure.row_cosines(a, b).tolist(), [1.0, -1.0, 0.0])
    torch.testing.assert_close(measure.block_influence(a, b).tolist(), [0.0, 2.0, 1.0])
    angles = measure.angular_distances([a, b])
    torch.testing.assert_close(angles[:, 0, 1].tolist(), [0.0, 1.0, 0.5], atol=1e-8, rtol=0)
    assert torch.equal(angles, angles.mT)


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e200])
def test_directions_do_not_depend_on_scale(scale):
    a, b = drawn(4, 6), drawn(4, 6, seed=1)
    torch.testing.assert_close(measure.row_cosines(a * scale, b), measure.row_cosines(a, b))
    torch.testing.assert_close(measure.block_influence(a, b * scale), measure.block_influence(a, b))
    torch.testing.assert_close(measure.angular_distances([a * scale, b]), measure.angular_distances([a, b]))
    if 1e-100 < scale < 1e100:
        torch.testing.assert_close(measure.norm_ratio(a * scale, b * scale), measure.norm_ratio(a, b))


def test_a_zero_row_has_no_direction_and_harms_no_other():
    a, b = drawn(3, 4), drawn(3, 4, seed=1)
    a[1] = 0
    assert measure.row_cosines(a, b).isnan().tolist() == [False, True, False]
    assert measure.angular_distances([a, b])[:, 0, 1].isnan().tolist() == [False, True, False]
    assert measure.norm_ratio(b, a).isnan().tolist() == [False, True, False]
    assert measure.norm_ratio(a, b)[1] == 0


def test_block_influence_of_sequences_is_per_token_and_leaves_padding_out():
    a, b = drawn(2, 3, 4), drawn(2, 3, 4, seed=1)
    per_token = [[1 - cosine(a[i, t].tolist(), b[i, t].tolist()) for t in range(3)] for i in range(2)]
    torch.testing.assert_close(measure.block_influence(a, b).tolist(), [sum(row) / 3 for row in per_token])
    weight = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    a[0, 2] = 0
    expected = [sum(per_token[0][:2]) / 2, sum(per_token[1]) / 3]
    torch.testing.assert_close(measure.block_influence(a, b, weight).tolist(), expected)


def test_angular_distances_are_those_of_explicit_loops():
    states = [drawn(3, 5, seed=seed) for seed in range(4)]
    angles = measure.angular_distances(states)
    for i in range(3):
        for s in range(4):
            for t in range(s):
                expected = math.acos(cosine(states[s][i].tolist(), states[t][i].tolist())) / math.pi
                assert angles[i, s, t].item() == pytest.approx(expected, abs=1e-12)


def test_estimation_error_is_over_units():
    mean, spread, rms = measure.estimation_error(torch.tensor([[1.0, 3.0], [5.0, 7.0]])).tolist()
    assert (mean, spread, rms) == pytest.approx((4.0, math.sqrt(5), math.sqrt(21)))
    assert rms**2 == pytest.approx(mean**2 + spread**2)


def test_divergence_and_agreement_of_answers():
    p, q = drawn(4, 3), drawn(4, 3, seed=1)
    expected = [
        sum(a * math.log(a / b) for a, b in zip(x.softmax(0).tolist(), y.softmax(0).tolist(), strict=True))
        for x, y in zip(p, q, strict=True)
    ]
    torch.testing.assert_close(measure.divergence(p, q).tolist(), expected)
    assert measure.divergence(p, p + 7).abs().max() < 1e-12 and measure.divergence(p, p).tolist() == [0.0] * 4
    same = [float(x.argmax() == y.argmax()) for x, y in zip(p, q, strict=True)]
    assert measure.agreement(p, q).tolist() == same
    tokens = measure.divergence(p.view(2, 2, 3), q.view(2, 2, 3), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(tokens.tolist(), [expected[0], (expected[2] + expected[3]) / 2])


@pytest.mark.parametrize(
    "call",
    [
        measure.row_cosines,
        measure.norm_ratio,
        measure.first_order_change,
        measure.block_influence,
        measure.divergence,
        lambda a, b: measure.angular_distances([a, b]),
    ],
)
def test_different_shapes_are_refused(call):
    with pytest.raises(ValueError, match=r"tensors of one shape, got \[2, 3\] and \[2, 4\]"):
        call(drawn(2, 3), drawn(2, 4))


def test_no_states_have_no_distance():
    with pytest.raises(ValueError, match="got none"):
        measure.angular_distances([])


def test_classes_that_are_ruled_out_add_nothing_to_a_divergence():
    """softmax(0, log 3, -inf) is (1/4, 3/4, 0)."""
    ruled_out = torch.tensor([[0.0, math.log(3), -math.inf]], dtype=torch.float64)
    even = torch.zeros(1, 3, dtype=torch.float64)
    assert measure.divergence(ruled_out, ruled_out).item() == 0
    expected = 0.25 * math.log(0.25 * 3) + 0.75 * math.log(0.75 * 3)
    assert measure.divergence(ruled_out, even).item() == pytest.approx(expected)
    assert measure.divergence(even, ruled_out).item() == math.inf


def test_logits_that_are_not_numbers_give_no_answer_but_where_they_are_padding():
    p = drawn(2, 3, 4)
    broken = p.clone()
    broken[0, 1, 2] = math.nan
    for compare, same in ((measure.divergence, 0.0), (measure.agreement, 1.0)):
        for pair in ((p, broken), (broken, p), (broken, broken)):
            values = compare(*pair)
            assert values.isnan().tolist() == [True, False] and values[1] == same
            weight = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
            assert compare(*pair, weight).tolist() == [same, same]
    beaten = torch.full((1, 3), -math.inf)
    assert measure.divergence(beaten, beaten).isnan().all()
