"""Rules for looking entries up; linear."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.curvature.r_operator.rule import NoRule, Rule, Tangents, operand_shape, present, signed
from gradscope.curvature.r_operator.sums import Into
from gradscope.instruments.junctions.graph import Node


class Embedded(Rule):
    """Rows of a table. The padding row is no parameter: neither torch's gradient nor this moves it."""

    bends = False

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        if node._saved_scale_grad_by_freq or node._saved_sparse:
            raise NoRule("an embedding with sparse gradients, or ones scaled by frequency")
        self.saved, self.rows = present(node, "indices"), operand_shape(node, 0)[0]
        self.padding = signed(node._saved_padding_idx)

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        indices = self.saved["indices"]
        made = functional.embedding(indices, tangents[0])
        return made if self.padding < 0 else made.masked_fill_((indices == self.padding).unsqueeze(-1), 0)

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        down = torch.ops.aten.embedding_dense_backward
        into.add(0, down(moving, self.saved["indices"], self.rows, self.padding, False))


class Indexed(Rule):
    """x[i, :, j] with tensors of indices or masks."""

    bends = False

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        indices = node._saved_indices
        self.taken, self.places = operand_shape(node, 0), [index is not None for index in indices]
        self.saved = {str(place): index.detach() for place, index in enumerate(indices) if index is not None}

    def _indices(self) -> list[Tensor | None]:
        return [self.saved[str(place)] if given else None for place, given in enumerate(self.places)]

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        made: Tensor = torch.ops.aten.index(tangents[0], self._indices())
        return made

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        zeros = moving.new_zeros(self.taken)
        into.add(0, torch.ops.aten.index_put_(zeros, self._indices(), moving, True))


class Gathered(Rule):
    """Entries along an axis, at places of their own or at the same ones."""

    bends = False

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.axis, self.taken = signed(node._saved_dim), operand_shape(node, 0)
        self.saved = present(node, "index")
        self.single = node.name().startswith("IndexSelect")

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        pick = torch.index_select if self.single else torch.gather
        return pick(tangents[0], self.axis, self.saved["index"])

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        zeros = moving.new_zeros(self.taken)
        put = zeros.index_add_ if self.single else zeros.scatter_add_
        into.add(0, put(self.axis, self.saved["index"], moving))


INDEXING: dict[str, Callable[[Node, Sequence[bool]], Rule]] = {
    "EmbeddingBackward0": Embedded,
    "IndexBackward0": Indexed,
    "IndexSelectBackward0": Gathered,
    "GatherBackward0": Gathered,
}
