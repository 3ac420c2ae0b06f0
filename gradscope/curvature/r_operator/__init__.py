"""Products with the Hessian by the R-operator, for the graph of any ordinary forward pass.

Write x' for the derivative of x along a vector v in parameter space, d for the cotangent of x (the loss's derivative
by it). Differentiating the forward pass along v gives the tangent x' of every value, from operands to results. Doing
the same to the backward pass gives the tangents d', from results to operands, and those that arrive at the parameters
are H v. For y = W x these are y' = W x' + W' x, d_x' = W^T d' + W'^T d and d_W' = d' x^T + d x'^T: six products
beside the three of a gradient, so H v costs two gradients once x and d are kept, and nothing needs to be taped.

`reading` turns an autograd graph into steps, `rules` has the rule of each kind of node, `plan` makes the two passes,
`RuledGraph` is what others use. A node without a rule raises `NoRule`, before any number is made.

Source:
    Pearlmutter (1994), Fast exact multiplication by the Hessian, Neural Computation 6(1), 147-160.
"""

from gradscope.curvature.r_operator.rule import NoRule
from gradscope.curvature.r_operator.ruled_graph import RuledGraph

__all__ = ["NoRule", "RuledGraph"]
