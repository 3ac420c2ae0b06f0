"""Networks nobody here wrote: tests that need torchvision, timm or transformers, and are skipped without them."""

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest
import torch

_OPERATORS: list[torch.library.Library] = []


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """torchvision, whatever torch it was built for; a release without its operators is given their names."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    # Only after the failed import: a healthy torchvision defines these operators itself.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _OPERATORS.append(library)
    return importlib.import_module("torchvision")


@pytest.fixture(scope="session")
def transformers(request: pytest.FixtureRequest) -> ModuleType:
    """transformers; it fails to import beside a torchvision that does, so that one comes first."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    if importlib.util.find_spec("torchvision") is not None:
        request.getfixturevalue("torchvision")
    return importlib.import_module("transformers")


@pytest.fixture(scope="session")
def timm(request: pytest.FixtureRequest) -> ModuleType:
    """timm, which imports torchvision."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    request.getfixturevalue("torchvision")
    return importlib.import_module("timm")
