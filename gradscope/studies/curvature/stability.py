"""Up to which learning rate is gradient descent stable where the curvature is lambda?"""


def stability_limit(momentum: float = 0.0, *, nesterov: bool = False) -> float:
    """The largest stable product of learning rate and eigenvalue, for gradient descent on a quadratic.

    2 without momentum m; 2 + 2 m for heavy ball; (2 + 2 m) / (1 + 2 m) for Nesterov's, as `torch.optim.SGD` runs it.
    Beyond it the iterates along the eigenvector grow without bound. On a network a rate at the limit is not the end of
    training: full-batch gradient descent hovers there, at the edge of stability.

    Args:
        momentum: m in [0, 1).
        nesterov: Whether the momentum is Nesterov's.

    Returns:
        Dimensionless, in [4/3, 4]. Of lambda with weight decay added where the optimiser adds it.

    Raises:
        ValueError: A momentum outside of [0, 1).

    Source:
        Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability,
        arXiv:2103.00065.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"The momentum lies in [0, 1), got {momentum!r}.")
    return (2 + 2 * momentum) / (1 + 2 * momentum) if nesterov else 2 + 2 * momentum
