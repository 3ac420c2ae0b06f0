"""What is called a condition number: each definition by name, what it is for, and when it cannot be had."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """One definition.

    Attributes:
        meaning: The formula, in words.
        use: What the number tells.
        needs: What it takes, and when it is undefined.
    """

    meaning: str
    use: str
    needs: str


DEFINITIONS = {
    "extreme_ratio": Definition(
        "largest over smallest absolute eigenvalue (all eigenvalues needed)",
        "the textbook number, kappa; what closed forms of linear networks are about",
        "all eigenvalues, P <= 5000: no iterative method finds the smallest one of a large network",
    ),
    "percentile_10": Definition(
        "largest over the 10th percentile of the absolute eigenvalues (all eigenvalues needed)",
        "kappa without the few smallest eigenvalues, which move with every seed",
        "all eigenvalues, P <= 5000; infinite where a tenth of the parameters do not matter",
    ),
    "negative_ratio": Definition(
        "absolute smallest over largest eigenvalue, |lambda_min| / lambda_max",
        "how far from convex the loss is; 0 at a minimum",
        "both ends converged; lambda_min of a trained network takes some 40 to 60 products",
    ),
    "top_ratio": Definition(
        "largest over fifth-largest eigenvalue, lambda_1 / lambda_5",
        "whether few directions are much sharper than the next, cheaply and certified",
        "five converged eigenvalues, the fifth positive; a repeated one may be seen once",
    ),
    "kappa_lower": Definition(
        "a rigorous lower bound on extreme_ratio from a Lanczos run; it grows with max_products",
        "proof that a large network is conditioned at least so badly",
        "an operator; it is never an estimate, so compare at equal products only",
    ),
    "learning_rate_product": Definition(
        "learning rate times largest eigenvalue; gradient descent is unstable above 2",
        "whether a step is too long, by the edge of stability at 2",
        "a learning rate and a converged lambda_max; momentum b moves the edge to 2 + 2 b",
    ),
    "bulk_edge_ratio": Definition(
        "largest eigenvalue over the bulk's edge, the next below the widest gap of a factor 2 or more",
        "how far the outliers, which hold most of the gradient, stand above the rest",
        "a gap with three resolved eigenvalues below it; undefined where eigenvalues fall off evenly",
    ),
    "kappa_resolved": Definition(
        "largest over smallest absolute eigenvalue among those a Lanczos run resolved to a tenth",
        "the spread that was really seen, beside kappa_lower",
        "an operator; it grows with max_products, so compare at equal products only",
    ),
    "damped": Definition(
        "(lambda_max + damping) / (max(lambda_min, 0) + damping)",
        "the conditioning of the regularised problem, honest where damping is the weight decay",
        "damping > 0 that the operator does not hold yet; directions of negative curvature count as flat",
    ),
    "gauss_newton_damped": Definition(
        "(lambda_max + damping) / (lambda_min + damping) of a positive semidefinite operator",
        "how many steps of conjugate gradients a damped Gauss-Newton or natural-gradient step takes",
        "a Gauss-Newton or Fisher operator and damping > 0; undefined where an eigenvalue is negative",
    ),
}
"""Every definition by name."""
