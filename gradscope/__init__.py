"""Gradient analysis for shattered gradients and ensemble behaviour of any `torch.nn.Module`.

Whatever touches a network is a context manager, whatever computes is a function, whatever comes out is a
tidy frame. Names are loaded when first used, so that importing the package costs next to nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
