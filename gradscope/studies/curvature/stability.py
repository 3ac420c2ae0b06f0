"""Up to which learning rate is gradient descent stable where the curvature is lambda?"""


def stability_limit(momentum: float = 0.0, *, nesterov: bool = False, averaged: bool = False) -> float:
    """The largest stable product of learning rate and eigenvalue, for gradient descent on a quadratic.

    2 without momentum m; 2 + 2 m for heavy ball; (2 + 2 m) / (1 + 2 m) for Nesterov's, as `torch.optim.SGD` runs it.
    (2 + 2 m) / (1 - m) where steps follow a running mean of gradients, as in Adam with beta1 = m: 38 for 0.9, of the
    Hessian preconditioned by Adam's diagonal.
    Beyond it the iterates along the eigenvector grow without bound. On a network a rate at the limit is not the end of
    training: full-batch gradient descent hovers there, at the edge of stability.

    Args:
        momentum: m in [0, 1).
        nesterov: Whether the momentum is Nesterov's.
        averaged: Whether the momentum is that of a running mean, m = beta1.

    Returns:
        Dimensionless, in [4/3, 4]; from 2 upwards if averaged. Of lambda with weight decay added where the optimiser
        adds it.

    Raises:
        ValueError: A momentum outside of [0, 1), or one that is both Nesterov's and averaged.

    Source:
        Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability,
        arXiv:2103.00065; averaged: Cohen et al. (2022), Adaptive gradient methods at the edge of stability,
        arXiv:2207.14484.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"The momentum lies in [0, 1), got {momentum!r}.")
    if averaged and nesterov:
        raise ValueError(
            "There is no limit for Nesterov's momentum with a preconditioner: leave nesterov out, or precondition."
        )
    if averaged:
        return (2 + 2 * momentum) / (1 - momentum)
    return (2 + 2 * momentum) / (1 + 2 * momentum) if nesterov else 2 + 2 * momentum
