"""The parameter-free laws of fresh ResNets against the spectrum of the real networks, convolutions and all."""

import numpy as np
import pytest
import torch

import gradscope as gs
from gradscope.nets import build
from gradscope.theory import (
    initialisation_path_lengths,
    post_activation_path_lengths,
    resnet_batch_norm_gains,
)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["pre", "post"])
def test_fresh_convolutional_networks_follow_the_law(activation):
    """32x32 images; on 8x8 ones, width 16, the mean length is 6 (post) and 15 % (pre) below the law."""
    network = build("resnet", depth=20, width=32, activation=activation, seed=0).double()
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum = gs.path_spectrum((network, (images, torch.arange(16) % 10)), draws=2)
    squares = spectrum[spectrum["quantity"] == "incoherent_norm"].sort_values("path_length")["value"] ** 2
    shares = (squares / squares.sum()).to_numpy()
    if activation == "pre":
        with torch.no_grad():
            variance = network.stem(images).var(dim=(0, 2, 3), correction=0).numpy()
        law = initialisation_path_lengths(resnet_batch_norm_gains([3, 3, 3], variance))
    else:
        law = post_activation_path_lengths([3, 3, 3])
    lengths = np.arange(10)
    assert shares @ lengths == pytest.approx(law @ lengths, rel=0.04)
    assert np.abs(shares - law).sum() / 2 < 0.05
