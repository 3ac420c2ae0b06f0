"""What an autograd graph hides: compiled parts, reentrant checkpoints, traced modules, custom functions."""

import warnings
from collections.abc import Iterable

import torch
from torch import nn

from gradscope.instruments.junctions.graph import Graph, Node, takes_parameter
from gradscope.instruments.junctions.junction import Junction

_OPAQUE = {
    "CompiledFunctionBackward": "measure inside torch.compiler.set_stance('force_eager')",
    "CheckpointFunctionBackward": "checkpoint with use_reentrant=False",
}
# Attention, scans, norms and quantised products of widely used packages: none adds a skip to a branch.
_HARMLESS = (
    *("FlashAttn", "Flash", "_flash", "_attention", "_SageAttn", "FusedAttn", "_fMHA", "_memory_efficient"),
    *("SelectiveScanFn", "CausalConv1dFn", "MambaInnerFn", "MambaChunkScan", "MambaSplitConv1dScan"),
    *("FusedLayerNorm", "FusedRMSNorm", "LigerRMSNorm", "LigerLayerNorm", "LigerSiLUMul", "LigerRope"),
    *("MatMul8bitLt", "MatMul4Bit", "RoPE", "FusedRoPE", "ApplyRotaryEmb"),
)


def refuse_opaque(model: nn.Module, graph: Graph) -> None:
    """Raise ValueError with the remedy if a live node hides a part of the network."""
    hidden = next((node.name() for node in graph.order if node.name() in _OPAQUE), None)
    if hidden is not None:
        raise ValueError(
            f"A part of {type(model).__name__} is one {hidden} to autograd, so additions inside it cannot be "
            f"seen: {_OPAQUE[hidden]}."
        )


def refuse_unnumbered(model: nn.Module, junctions: Iterable[Junction]) -> None:
    """Raise ValueError with the remedy if modules run by torch.jit have junctions, which Python never calls."""
    traced = [name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    unnumbered = sum(1 for junction in junctions if junction.number is None)
    if traced and unnumbered:
        raise ValueError(
            f"{unnumbered} residual sums of {type(model).__name__} run inside torch.jit, where Python does not call "
            f"them and nothing can be put on their operands (traced or scripted: {traced[0] or 'the whole model'}). "
            "Pass the module that was traced or scripted; path lengths can be measured without."
        )


def warn_of_custom_functions(model: nn.Module, graph: Graph) -> None:
    """Warn once if a live node is a custom autograd function that may add a skip to a branch unseen."""
    names = sorted({node.name() for node in graph.order if _is_unknown(graph, node)})
    if names:
        warnings.warn(
            f"{type(model).__name__} runs custom autograd functions, inside which additions cannot be seen: "
            f"{', '.join(names)}. If one of them adds a skip to a branch, that junction is not listed: write the sum "
            "in torch operations, or note that junctions can be passed by hand (gs.junction_by_hand).",
            UserWarning,
            stacklevel=4,
        )


def _is_unknown(graph: Graph, node: Node) -> bool:
    """Whether a node is a custom function with two live operands, or one and weights; less cannot hide a block."""
    name = node.name()
    in_python = isinstance(node, torch.autograd.function.BackwardCFunction)
    if not in_python and not name.startswith("torch::autograd::CppNode"):
        return False
    home = getattr(getattr(node, "_forward_cls", None), "__module__", "")
    from_torch = home.partition(".")[0] == "torch" and not name.startswith("GeneratedBackwardFor")
    if from_torch or "vision::ops" in name or name.startswith(_HARMLESS):
        return False
    return len(graph.operands(node)) > 1 or takes_parameter(node)
