"""Grams of per-example gradients from what a layer took in and the gradients at what it gave out: tensors only."""

from gradscope.gradients.grams.kernels.convolution import convolution_weight_gram
from gradscope.gradients.grams.kernels.elementwise import elementwise_gram
from gradscope.gradients.grams.kernels.embedding import embedding_gram
from gradscope.gradients.grams.kernels.linear import linear_factors, linear_weight_gram
from gradscope.gradients.grams.kernels.rows import gram_of_rows, summed_gram

__all__ = [
    "convolution_weight_gram",
    "elementwise_gram",
    "embedding_gram",
    "gram_of_rows",
    "linear_factors",
    "linear_weight_gram",
    "summed_gram",
]
