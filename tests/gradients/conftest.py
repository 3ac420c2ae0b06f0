"""Every network whose paths can be counted, with one forward pass kept for all tests of a file."""

import pytest
from path_networks import COUNTED, PATH_NETWORKS

from gradscope.gradients.live import open_paths


@pytest.fixture(scope="module", params=COUNTED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def paths(name):
    """One forward pass for all tests of a network."""
    # The graph outlives the block, in which batch normalisation of other networks would mean what it means in this one.
    with open_paths(PATH_NETWORKS[name].problem()) as opened:
        return opened
