"""ReLU networks as explicit matrices, forwards and backwards, with statistics of the batch held fixed."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Layer:
    """x <- alpha x + beta W relu(u), du/dx = 1 / deviation, of one batch [N, B]."""

    alpha: float
    beta: float
    weight: np.ndarray
    active: np.ndarray
    deviation: np.ndarray

    def back(self, g):
        return self.alpha * g + self.beta * self.active / self.deviation * (self.weight.T @ g)


def relu_network(inputs, depth, rng, *, alpha=0.0, beta=1.0, normalisation="none"):
    """Layers of a net of as many units as `inputs` [N, B] has rows."""
    h, layers = inputs, []
    for _ in range(depth):
        W = rng.standard_normal((len(h), len(h))) * math.sqrt(2 / len(h))
        u, deviation = h, np.ones((len(h), 1))
        if normalisation != "none":
            u = h - h.mean(axis=1, keepdims=True)
        if normalisation == "batch":
            deviation = h.std(axis=1, keepdims=True)
            u = u / deviation
        layers.append(Layer(alpha, beta, W, u > 0, deviation))
        h = alpha * h + beta * (W @ np.maximum(u, 0))
    return layers


def input_gradients(layers, rng):
    """Gradients [N, B] at the input of a random readout, of mean square 1, of the last layer."""
    width, examples = layers[0].active.shape
    g = np.repeat(rng.standard_normal((width, 1)), examples, axis=1)
    g /= math.sqrt(np.square(g[:, 0]).mean())
    for layer in layers[::-1]:
        g = layer.back(g)
    return g


def correlation_R(g):
    """Definition 1: mean off-diagonal over mean diagonal of the Gram matrix of the columns of g."""
    gram = g.T @ g
    return (gram.sum() / np.trace(gram) - 1) / (len(gram) - 1)
