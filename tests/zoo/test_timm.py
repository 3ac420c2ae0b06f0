"""Residual junctions of timm's networks as they come: how many of which kind."""

from collections import Counter

import pytest
import torch

from gradscope.instruments.junctions import junctions

pytestmark = pytest.mark.filterwarnings("default")

# Kinds at level 0, by construction: blocks, their shortcuts, and tokens concatenated with what was computed from them.
COUNTS = {
    "resnetv2_50": {"identity": 12, "projection": 4},
    "seresnet18": {"identity": 5, "projection": 3},
    "deit_tiny_patch16_224": {"identity": 24},
    # Of the two class-attention blocks' four skips, the first is the class token itself, a parameter.
    "cait_xxs24_224": {"identity": 52, "concat": 1},
    "mixer_s16_224": {"identity": 16},
    "nfnet_f0": {"identity": 8, "projection": 4},
    "swin_tiny_patch4_window7_224": {"identity": 24},
    # Inside each block, splits are added and concatenated: levels 1 and 2.
    "res2net50_26w_4s": {"identity": 12, "projection": 4},
    # Half of the channels is added, the other half concatenated; the split makes the skips slices of their fork.
    "dpn68": {"nonparam-skip": 18, "branches": 4, "concat": 18},
    "densenet121": {"concat": 58},
}
LARGE = {
    "inception_resnet_v2": {"identity": 40},
    "maxvit_tiny_rw_224": {"identity": 51, "projection": 3, "nonparam-skip": 1},
    "volo_d1_224": {"identity": 38, "projection": 1, "nonparam-skip": 2, "concat": 2},
}


@pytest.mark.parametrize("name", [*COUNTS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_counts(timm, name):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    size = 224 if name.endswith("224") else 96
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        found = junctions(model, torch.randn(1, 3, size, size))
        assert Counter(j.kind for j in found if j.level == 0) == (COUNTS | LARGE)[name]
        assert all(j.number is not None and j.branches for j in found)
