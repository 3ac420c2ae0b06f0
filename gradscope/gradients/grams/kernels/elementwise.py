"""Gram of a parameter that multiplies or shifts its layer's tensor entry by entry: norms' weights, PReLU, biases."""

from torch import Tensor

from gradscope.gradients.grams.kernels.rows import gram_of_rows


def elementwise_gram(factor: Tensor | None, gradients: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Gram of per-example gradients of a parameter that is broadcast against one example's tensor.

    The gradient is factor times gradient, summed over the entries that share a number of the parameter.

    Args:
        factor: What the parameter multiplies (the normalised input of a norm), [B, ...]; None where it is added.
        gradients: At the layer's output, [B, ...].
        shape: Of the parameter, as it is broadcast against an example's [...]: (D,) for a layer norm, (C, 1, 1)
            for a batch norm of images.

    Returns:
        [B, B], float64.

    Raises:
        ValueError: `shape` is not broadcast to an example's shape.
    """
    example = gradients.shape[1:]
    padded = (1,) * (len(example) - len(shape)) + tuple(shape)
    if len(shape) > len(example) or any(
        own not in (1, size) for own, size in zip(padded, example, strict=True)
    ):
        raise ValueError(
            f"A parameter of shape {list(shape)} is not broadcast against an example's {list(example)}. Pass its "
            "shape with ones where it is repeated."
        )
    products = gradients if factor is None else factor * gradients
    shared = [axis for axis, size in enumerate(padded, start=1) if size == 1 and gradients.shape[axis] != 1]
    return gram_of_rows(_summed(products, shared) if shared else products)


def _summed(products: Tensor, shared: list[int]) -> Tensor:
    """In the order of memory, in which a sum over channels-last images takes half the time. The Gram has no order."""
    order = [0, *sorted(range(1, products.ndim), key=products.stride, reverse=True)]
    return products.permute(order).sum(dim=[order.index(axis) for axis in shared])
