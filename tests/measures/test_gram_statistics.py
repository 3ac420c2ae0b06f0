"""Every statistic of a Gram matrix against loops over gradients that never form one."""

import itertools
import math

import numpy as np
import pytest
import torch

from gradscope.measures.correlation import correlation_R, mean_cosine
from gradscope.measures.gram_confusion import cosine_confusion, gradient_confusion
from gradscope.measures.gram_correlation import correlation_R_of_gram
from gradscope.measures.gram_cosines import (
    cosines,
    pair_mean,
    pair_median,
    pair_quantile,
    same_class,
    share_negative,
)
from gradscope.measures.gram_diversity import diversity_batch_bound, gradient_diversity, m_coherence
from gradscope.measures.gram_stiffness import (
    class_stiffness,
    cosine_distances,
    cosine_stiffness,
    dynamical_critical_length,
    sign_stiffness,
    signs,
    stiffness_by_distance,
)

LABELS = [0, 2, 2, 0, 2, 0, 1]


def rows(n: int = 7, width: int = 5, shared: float = 0.4) -> np.ndarray:
    draw = np.random.default_rng(3)
    return draw.standard_normal((n, width)) * draw.uniform(0.1, 3, (n, 1)) + shared


def gram(g: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(g @ g.T)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def of_pairs(g: np.ndarray, function) -> list[float]:
    return [function(g[i], g[j]) for i, j in itertools.combinations(range(len(g)), 2)]


def in_class(g: np.ndarray, same: bool) -> float:
    pairs = itertools.combinations(range(len(g)), 2)
    return np.mean([cosine(g[i], g[j]) for i, j in pairs if (LABELS[i] == LABELS[j]) is same])


LABEL_TENSOR = torch.tensor(LABELS)
# name -> (off the Gram, off the gradients)
STATISTICS = {
    "R": (
        correlation_R_of_gram,
        lambda g: np.mean(of_pairs(g, np.dot)) / np.mean([row @ row for row in g]),
    ),
    "mean cosine": (lambda k: pair_mean(cosines(k)), lambda g: np.mean(of_pairs(g, cosine))),
    "median cosine": (lambda k: pair_median(cosines(k)), lambda g: np.median(of_pairs(g, cosine))),
    "5 %": (lambda k: pair_quantile(cosines(k), 0.05), lambda g: np.quantile(of_pairs(g, cosine), 0.05)),
    "share negative": (
        lambda k: share_negative(cosines(k)),
        lambda g: np.mean([p < 0 for p in of_pairs(g, np.dot)]),
    ),
    "within": (
        lambda k: pair_mean(cosines(k), same_class(LABEL_TENSOR)),
        lambda g: in_class(g, True),
    ),
    "between": (
        lambda k: pair_mean(cosines(k), ~same_class(LABEL_TENSOR)),
        lambda g: in_class(g, False),
    ),
    "confusion": (gradient_confusion, lambda g: max(0.0, -min(of_pairs(g, np.dot)))),
    "cosine confusion": (cosine_confusion, lambda g: max(0.0, -min(of_pairs(g, cosine)))),
    "sign stiffness": (sign_stiffness, lambda g: np.mean(np.sign(of_pairs(g, np.dot)))),
    "cosine stiffness": (cosine_stiffness, lambda g: np.mean(of_pairs(g, cosine))),
    "diversity": (
        gradient_diversity,
        lambda g: sum(row @ row for row in g) / np.sum(sum(row for row in g) ** 2),
    ),
    "bound": (
        diversity_batch_bound,
        lambda g: len(g) * sum(row @ row for row in g) / np.sum(sum(row for row in g) ** 2),
    ),
    "m-coherence": (
        m_coherence,
        lambda g: np.sum(sum(row for row in g) ** 2) / sum(row @ row for row in g),
    ),
}
# The scale of the gradients must not matter; confusion bears it.
FREE_OF_SCALE = [name for name in STATISTICS if name != "confusion"]


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("shared", [0.0, 0.4, 3.0])
def test_a_statistic_is_the_loop_over_gradients(name, shared):
    g = rows(shared=shared)
    fast, slow = STATISTICS[name]
    assert float(fast(gram(g))) == pytest.approx(float(slow(g)), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("name", FREE_OF_SCALE)
@pytest.mark.parametrize("scale", [1e-30, 1e-150, 1e150])
def test_the_scale_does_not_matter(name, scale):
    fast, _ = STATISTICS[name]
    assert float(fast(gram(rows() * scale))) == pytest.approx(float(fast(gram(rows()))), rel=1e-11)


@pytest.mark.parametrize("name", [name for name in FREE_OF_SCALE if name not in ("within", "between")])
def test_the_order_of_examples_does_not_matter(name):
    fast, _ = STATISTICS[name]
    order = [3, 1, 6, 0, 5, 2, 4]
    assert float(fast(gram(rows()[order]))) == pytest.approx(float(fast(gram(rows()))), rel=1e-12)


def test_rows_of_very_different_scale_keep_their_cosines():
    g = rows()
    scales = np.logspace(-70, 70, 7)[:, None]
    torch.testing.assert_close(cosines(gram(g * scales)), cosines(gram(g)), rtol=1e-12, atol=1e-12)


def test_it_agrees_with_the_measures_of_gradients():
    g = torch.from_numpy(rows())
    assert float(correlation_R_of_gram(g @ g.T)) == pytest.approx(float(correlation_R(g)), abs=1e-13)
    assert float(cosine_stiffness(g @ g.T)) == pytest.approx(float(mean_cosine(g)), abs=1e-13)


@pytest.mark.parametrize(
    ("name", "same", "orthogonal", "simplex"),
    [
        ("R", 1, 0, -1 / 3),
        ("mean cosine", 1, 0, -1 / 3),
        ("median cosine", 1, 0, -1 / 3),
        ("share negative", 0, 0, 1),
        ("cosine confusion", 0, 0, 1 / 3),
        ("confusion", 0, 0, 1 / 4),
        ("sign stiffness", 1, 0, -1),
        ("diversity", 1 / 4, 1, math.inf),
        ("bound", 1, 4, math.inf),
        ("m-coherence", 4, 1, 0),
    ],
)
def test_the_extremes(name, same, orthogonal, simplex):
    fast, _ = STATISTICS[name]
    grams = torch.ones(4, 4), torch.eye(4), torch.eye(4) - 1 / 4
    found = [float(fast(k)) for k in grams]
    assert found == pytest.approx([same, orthogonal, simplex], abs=1e-12)


@pytest.mark.parametrize("name", FREE_OF_SCALE)
def test_nothing_is_made_of_zero_gradients(name):
    assert math.isnan(STATISTICS[name][0](torch.zeros(7, 7)))


def test_a_zero_gradient_has_no_cosine_and_is_left_out():
    g = rows()
    others = np.delete(g, 2, axis=0)
    g[2] = 0
    matrix = cosines(gram(g))
    assert bool(matrix[2].isnan().all()) and bool(matrix[:, 2].isnan().all())
    assert int(matrix.isnan().sum()) == 2 * 7 - 1
    for name in ("mean cosine", "median cosine", "cosine confusion", "sign stiffness"):
        fast, slow = STATISTICS[name]
        assert float(fast(gram(g))) == pytest.approx(float(slow(others)), abs=1e-12)


@pytest.mark.parametrize("name", [n for n in STATISTICS if n not in ("within", "between")])
def test_what_is_not_finite_stays_undefined(name):
    matrix = gram(rows())
    matrix[1, 1] = math.nan
    if name in ("R", "confusion", "diversity", "bound", "m-coherence"):
        assert math.isnan(STATISTICS[name][0](matrix))
    else:
        assert bool(cosines(matrix)[1].isnan().all())


@pytest.mark.parametrize("function", [cosines, correlation_R_of_gram, gradient_confusion, m_coherence])
@pytest.mark.parametrize("shape", [(3,), (1, 1), (3, 4), (2, 3, 3)])
def test_what_is_no_gram_is_refused(function, shape):
    with pytest.raises(ValueError, match=r"reads a Gram matrix of shape \[B, B\] with B >= 2"):
        function(torch.ones(shape))


def test_a_matrix_that_is_not_symmetric_is_refused():
    with pytest.raises(ValueError, match="which is symmetric"):
        cosines(torch.tensor([[1.0, 0.5], [0.2, 1.0]]))


def test_stiffness_by_class_is_the_loop_over_pairs_of_classes():
    g = rows()
    for matrix, of in ((cosines(gram(g)), cosine), (signs(gram(g)), lambda a, b: np.sign(a @ b))):
        classes, means = class_stiffness(matrix, LABEL_TENSOR)
        assert classes.tolist() == [0, 1, 2]
        for a, b in itertools.product(range(3), repeat=2):
            values = [
                of(g[i], g[j])
                for i, j in itertools.permutations(range(7), 2)
                if LABELS[i] == a and LABELS[j] == b
            ]
            expected = np.mean(values) if values else math.nan
            assert float(means[a, b]) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert math.isnan(means[1, 1]), "one example has no other of its class"


def test_distances_are_one_minus_the_cosine_of_inputs():
    x = rows(4, 6)
    found = cosine_distances(torch.from_numpy(x).reshape(4, 2, 3))
    for i, j in itertools.combinations(range(4), 2):
        assert float(found[i, j]) == pytest.approx(1 - cosine(x[i], x[j]), abs=1e-13)
    with pytest.raises(ValueError, match="floating-point inputs"):
        cosine_distances(torch.zeros(4, 2, dtype=torch.long))


def test_bins_of_distance_hold_every_pair_once():
    g, x = rows(), rows(7, 3, shared=0.0)
    found = stiffness_by_distance(cosines(gram(g)), cosine_distances(torch.from_numpy(x)), bins=4)
    pairs = sorted(
        (1 - cosine(x[i], x[j]), cosine(g[i], g[j])) for i, j in itertools.combinations(range(7), 2)
    )
    expected = [np.mean(part, axis=0) for part in np.array_split(np.array(pairs), 4)]
    assert found.pairs.tolist() == [6, 5, 5, 5]
    np.testing.assert_allclose(torch.stack([found.distance, found.stiffness], dim=1), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("stiffness", "length"),
    [
        ([0.5, 0.1, -0.1, 0.2], 2.5),
        ([0.5, 0.2, 0.0], 3.0),
        ([0.5, 0.2, 0.1], math.nan),
        ([-0.1, 0.2, 0.1], math.nan),
        ([0.5, math.nan, -0.5], 2.0),
    ],
)
def test_the_critical_length_is_the_first_distance_at_zero(stiffness, length):
    distance = torch.arange(1.0, len(stiffness) + 1)
    found = dynamical_critical_length(distance, torch.tensor(stiffness))
    assert float(found) == pytest.approx(length, nan_ok=True, abs=1e-6)


def test_the_critical_length_of_gradients_that_turn_with_the_input():
    """Gradients (cos a, sin a) agree as the cosine of the angle between inputs does: 0 at distance 1."""
    angles = torch.linspace(0, math.pi, 60, dtype=torch.float64)
    g = torch.stack([angles.cos(), angles.sin()], dim=1)
    bins = stiffness_by_distance(cosines(g @ g.T), cosine_distances(g), bins=20)
    assert float(dynamical_critical_length(bins.distance, bins.stiffness)) == pytest.approx(1, abs=0.02)


def test_wrong_arguments_are_named():
    matrix = cosines(gram(rows()))
    with pytest.raises(ValueError, match="class number for each of 7 examples"):
        class_stiffness(matrix, torch.zeros(3))
    with pytest.raises(ValueError, match=r"level lies in \[0, 1\]"):
        pair_quantile(matrix, 1.5)
    with pytest.raises(ValueError, match="same pairs and a bin"):
        stiffness_by_distance(matrix, matrix, bins=0)
    with pytest.raises(ValueError, match="two vectors of one length"):
        dynamical_critical_length(torch.zeros(3), torch.zeros(4))
