"""Rules for normalisation that only nodes of other devices follow."""

from types import SimpleNamespace

import pytest
import torch
from networks import NETWORKS
from torch.nn import functional

from gradscope.gradients.engines import rules
from gradscope.gradients.engines.norms import NORMS
from gradscope.gradients.engines.stack import Stack
from gradscope.gradients.live import open_paths
from gradscope.problem import Problem


@pytest.mark.parametrize("name", ["NativeBatchNormBackward0", "CudnnBatchNormBackward0"])
@pytest.mark.parametrize("epsilon", ["_saved_eps", "_saved_epsilon"])
def test_batch_norm_by_stored_statistics_under_either_name_of_epsilon(name, epsilon):
    """cuDNN's node calls it `_saved_epsilon`."""
    generator = torch.Generator().manual_seed(0)
    x, cotangents = torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=torch.float64)
    x, cotangents = x.requires_grad_(), torch.stack([cotangents, 2 * cotangents.square()])
    mean, variance, weight = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    output = functional.batch_norm(x, mean, variance, weight, None, training=False, eps=0.1)
    expected = torch.stack([torch.autograd.grad(output, x, c, retain_graph=True)[0] for c in cotangents])
    node = SimpleNamespace(
        _saved_input=x.detach(),
        _saved_weight=weight,
        _saved_training=False,
        _saved_running_mean=mean,
        _saved_running_var=variance,
        **{epsilon: 0.1},
    )
    found = NORMS[name](node, Stack((0, 1), cotangents), (0,))[0]
    torch.testing.assert_close(found.settled(), expected)
    delattr(node, epsilon)
    with pytest.raises(AttributeError, match="_saved_eps"):
        NORMS[name](node, Stack((0, 1), cotangents), (0,))


def test_a_node_that_lacks_what_a_rule_reads_is_left_to_passes(monkeypatch):
    monkeypatch.setitem(rules.LAYERS, "AddmmBackward0", lambda node, stack, slots: node._saved_nothing)
    specimen = NETWORKS["multi-residual"]
    with open_paths(Problem(specimen.build(), (specimen.inputs(), specimen.targets()))) as paths:
        assert paths.graded().engine == "passes"
