"""The density of an operator's eigenvalues, by stochastic Lanczos quadrature."""

from dataclasses import dataclass, field

import numpy
import pandas
import torch
from scipy.linalg import eigh_tridiagonal
from scipy.stats import t as student

from gradscope.curvature.lanczos import dot, norm
from gradscope.curvature.operators import Operator


def spectral_density(
    operator: Operator,
    *,
    probes: int = 10,
    steps: int = 80,
    points: int = 1000,
    resolution: float | None = None,
    seed: int = 0,
) -> pandas.DataFrame:
    """The eigenvalue density, smoothed to what the Lanczos steps resolve, and two traces.

    Each random sign vector z gives, after m steps without reorthogonalisation (ghost copies only
    split weights), the m nodes and weights of a Gauss quadrature of z's spectral measure; their mean
    over probes is the density. Three vectors a probe are kept, and all probes go through each batch
    together.

    Args:
        operator: Symmetric, [P, P].
        probes: Number of random vectors, at least 2.
        steps: Lanczos steps m, at least 2: at most probes * steps products.
        points: Grid points on the eigenvalue axis.
        resolution: Full width at half maximum of the Gaussian each node is smoothed with; by default
            pi * range / m, finer than which nothing in the picture is real.
        seed: Of the probes.

    Returns:
        Rows of `quantity` "spectral_density" (unit 1/loss, integrates to 1 over `eigenvalue`), then
        one row each of "trace", "trace_of_square" and "zero_row_fraction" (rows whose product with
        every probe is exactly 0: weights that do not matter, such as those of a constant pixel).
        `value` is the mean over probes, `standard_error` its standard error, `low` and `high` the 95 %
        Student-t interval (not below 0 for densities and the trace of the square), `n` the probes.
        Traces are unbiased for any m; the zero fraction is a count.

    Raises:
        ValueError: Too few probes, steps or points (fewer than two per Gaussian), or not symmetric.
        FloatingPointError: A product is not finite.

    Source:
        Ubaru, Chen, Saad (2017); Ghorbani, Krishnan, Xiao (2019), arXiv:1901.10159; Lin, Saad, Yang
        (2016), arXiv:1308.5467.
    """
    if probes < 2 or steps < 2:
        raise ValueError(f"spectral_density needs probes >= 2 and steps >= 2, got {probes} and {steps}.")
    if not operator.symmetric:
        raise ValueError("spectral_density needs a symmetric operator; this one says symmetric=False.")
    size = operator.shape[0]
    runs, zero_rows = _recurrences(operator, probes, min(steps, size), seed)
    products = sum(len(run.alphas) for run in runs)
    quadratures = [run.quadrature() for run in runs]
    traces = numpy.array([size * run.alphas[0] for run in runs])
    squares = numpy.array([size * (run.alphas[0] ** 2 + run.first_beta**2) for run in runs])
    low = min(float(nodes.min()) for nodes, _ in quadratures)
    high = max(float(nodes.max()) for nodes, _ in quadratures)
    if resolution is None:
        resolution = numpy.pi * (high - low) / min(steps, size)
    if resolution > 64 * torch.finfo(operator.dtype).eps * max(abs(low), abs(high)):
        curve = _curve(quadratures, low, high, resolution, points)
    else:
        reason = f"all eigenvalues equal {low:.6g}: a point mass has no density"
        undefined = {"value": float("nan"), "eigenvalue": low, "status": "undefined", "reason": reason}
        curve = pandas.DataFrame([{"quantity": "spectral_density", "unit": "1/loss"} | undefined])
    totals = pandas.DataFrame(
        [
            {"quantity": "trace", "unit": "loss"} | _estimate(traces),
            {"quantity": "trace_of_square", "unit": "loss^2"} | _estimate(squares, floor=0.0),
            {"quantity": "zero_row_fraction", "unit": "1", "value": zero_rows / size},
        ]
    )
    totals = totals.assign(status="ok", reason="")
    frame = pandas.concat([curve, totals], ignore_index=True)
    frame = frame.assign(n=probes, steps=min(steps, size), products=products)
    columns = ["quantity", "unit", "eigenvalue", "resolution", "value", "low", "high", "standard_error"]
    return frame.reindex(columns=[*columns, "n", "steps", "products", "status", "reason"])


def _curve(
    quadratures: list[tuple[numpy.ndarray, numpy.ndarray]],
    low: float,
    high: float,
    resolution: float,
    points: int,
) -> pandas.DataFrame:
    """The smoothed density on a grid that holds all of its mass."""
    deviation = resolution / (2 * numpy.sqrt(2 * numpy.log(2)))
    needed = int((high - low) / deviation) + 12
    if points < needed:
        raise ValueError(
            f"{points} points are too few for a resolution of {resolution:.3g} over a range of "
            f"{high - low:.3g}: pass points={needed} or more, or a coarser resolution."
        )
    grid = numpy.linspace(low - 5 * deviation, high + 5 * deviation, points)
    densities = numpy.stack([_smoothed(grid, nodes, weights, deviation) for nodes, weights in quadratures])
    labels = {"quantity": "spectral_density", "unit": "1/loss", "eigenvalue": grid, "resolution": resolution}
    labels |= {"status": "ok", "reason": ""}
    return pandas.DataFrame(labels | _estimate(densities, floor=0.0))


@dataclass
class _Recurrence:
    """Three-term recurrence of one probe: T, and the two vectors it goes on from."""

    current: torch.Tensor
    previous: torch.Tensor | None = None
    alphas: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    first_beta: float = 0.0
    closed: bool = False

    def advance(self, product: torch.Tensor, eps: float) -> None:
        alpha = dot(product, self.current)
        remainder = torch.add(product, self.current, alpha=-alpha)
        if self.previous is not None:
            remainder = remainder.sub_(self.previous, alpha=self.betas[-1])
        beta = norm(remainder)
        if not numpy.isfinite(alpha + beta):
            raise FloatingPointError(
                "A product with the operator is not finite. Look for NaN or infinite parameters."
            )
        self.alphas.append(alpha)
        if len(self.alphas) == 1:
            self.first_beta = beta
        scale = max(beta, *map(abs, self.alphas), *self.betas)
        if beta <= 64 * eps * scale:
            self.closed = True
            return
        self.betas.append(beta)
        self.previous, self.current = self.current, remainder.div_(beta)

    def quadrature(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Nodes and weights (which sum to 1), [m] each."""
        m = len(self.alphas)
        nodes, vectors = eigh_tridiagonal(numpy.array(self.alphas), numpy.array(self.betas[: m - 1]))
        return nodes, vectors[0] ** 2


def _recurrences(operator: Operator, probes: int, steps: int, seed: int) -> tuple[list[_Recurrence], int]:
    """Run all probes in step; a probe whose Krylov space is exhausted rests. Also the number of zero rows."""
    size = operator.shape[0]
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (probes, size), generator=generator, dtype=torch.int8)
    starts = signs.to(operator.device, operator.dtype).mul_(2).sub_(1).div_(size**0.5)
    runs = [_Recurrence(start) for start in starts]
    zero_rows = 0
    for step in range(steps):
        active = [run for run in runs if not run.closed]
        if not active:
            break
        products = operator.matmat(torch.stack([run.current for run in active]).T).T
        if step == 0:
            zero_rows = int((products == 0).all(dim=0).sum())
        for run, product in zip(active, products, strict=True):
            run.advance(product, torch.finfo(operator.dtype).eps)
    return runs, zero_rows


def _smoothed(
    grid: numpy.ndarray, nodes: numpy.ndarray, weights: numpy.ndarray, deviation: float
) -> numpy.ndarray:
    distances = (grid[:, None] - nodes[None, :]) / deviation
    return numpy.exp(-(distances**2) / 2) @ weights / (deviation * numpy.sqrt(2 * numpy.pi))


def _estimate(samples: numpy.ndarray, floor: float = -numpy.inf) -> dict[str, numpy.ndarray]:
    """Mean over probes (the first axis), its standard error and 95 % Student-t interval."""
    mean = samples.mean(axis=0)
    error = samples.std(axis=0, ddof=1) / len(samples) ** 0.5
    reach = student.ppf(0.975, len(samples) - 1) * error
    return {
        "value": mean,
        "low": numpy.maximum(mean - reach, floor),
        "high": mean + reach,
        "standard_error": error,
    }
