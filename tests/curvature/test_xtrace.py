"""XTrace against itself written out: one QR factorisation for each vector left out."""

import numpy
import pytest
import torch
from curvature_matrices import MATRICES, SIZE, rotated
from torch import Tensor

from gradscope.curvature import MatrixOperator
from gradscope.curvature.hutchinson import Hutchinson
from gradscope.curvature.xtrace import XTrace


def written_out(signs: Tensor, images: Tensor, matrix: Tensor) -> list[float]:
    """For each vector: the trace on the span of the others' images, and what it says of the rest."""
    found = []
    for index in range(len(signs)):
        others = [place for place in range(len(signs)) if place != index]
        basis = torch.linalg.qr(images[others].T).Q
        rest = signs[index] - basis @ (basis.T @ signs[index])
        found.append(float((basis.T @ matrix @ basis).trace() + rest @ matrix @ rest))
    return found


def sketched(matrix: Tensor, counts: tuple[int, ...], seed: int = 1) -> tuple[XTrace, Tensor, Tensor]:
    operator = MatrixOperator(matrix)
    probes, sketch = Hutchinson(operator, torch.Generator().manual_seed(seed)), XTrace(operator)
    parts = [probes.extend(count) for count in counts]
    for part in parts:
        sketch.add(*part)
    assert operator.products == 2 * sum(counts)
    signs, images = (torch.cat(half) for half in zip(*parts, strict=True))
    return sketch, signs, images


SPECTRA = [*MATRICES, "falling fast"]


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("counts", [(8,), (5, 3), (2, 1, 4)])
def test_estimate_and_spread(name: str, counts: tuple[int, ...]) -> None:
    matrix = MATRICES.get(name, rotated(0.1 ** torch.arange(SIZE, dtype=torch.float64)))
    sketch, signs, images = sketched(matrix, counts)
    k = len(signs)
    for power, samples in zip((matrix, matrix @ matrix), sketch.samples(), strict=True):
        single = written_out(signs, images, power)
        scale = 1e-9 * float(torch.linalg.matrix_norm(power)) * SIZE
        numpy.testing.assert_allclose(samples.mean(), numpy.mean(single), atol=scale)
        kept = [[place for place in range(k) if place != gone] for gone in range(k)]
        without = [numpy.mean(written_out(signs[rows], images[rows], power)) for rows in kept]
        jackknife = numpy.sqrt((k - 1) / k * numpy.square(without - numpy.mean(without)).sum())
        published = numpy.std(single, ddof=1) / k**0.5
        error = samples.std(ddof=1) / k**0.5
        numpy.testing.assert_allclose(error, (jackknife * published) ** 0.5, rtol=1e-3, atol=scale)


def test_a_subspace_that_holds_all_of_it_gives_the_trace() -> None:
    matrix = MATRICES["rank 6, indefinite"]
    sketch, _, _ = sketched(matrix, (8,))
    for power, samples in zip((matrix, matrix @ matrix), sketch.samples(), strict=True):
        numpy.testing.assert_allclose(samples, power.trace(), atol=1e-10)


def test_vectors_in_one_go_or_in_several_are_one_estimate() -> None:
    matrix = MATRICES["power decay"]
    together, signs, images = sketched(matrix, (4, 5))
    alone = XTrace(MatrixOperator(matrix))
    alone.add(signs, images)
    for one, other in zip(together.samples(), alone.samples(), strict=True):
        numpy.testing.assert_allclose(one, other, atol=1e-12)
