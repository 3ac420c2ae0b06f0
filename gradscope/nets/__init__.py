"""The networks of the literature, built by name: the specimens that everything else looks at."""

from gradscope.nets.blocks import Residual, SubsampleAndPad
from gradscope.nets.initialisation import initialise, looks_linear_deviation
from gradscope.nets.layers import Centre, CReLU
from gradscope.nets.linear_shortcut import linear_shortcut
from gradscope.nets.network import Network
from gradscope.nets.plain import plain
from gradscope.nets.plain_conv import plain_conv
from gradscope.nets.plain_mlp import plain_mlp
from gradscope.nets.registry import build, names
from gradscope.nets.residual_mlp import residual_mlp
from gradscope.nets.resnet import resnet
from gradscope.nets.vgg import vgg

__all__ = [
    "CReLU",
    "Centre",
    "Network",
    "Residual",
    "SubsampleAndPad",
    "build",
    "initialise",
    "linear_shortcut",
    "looks_linear_deviation",
    "names",
    "plain",
    "plain_conv",
    "plain_mlp",
    "residual_mlp",
    "resnet",
    "vgg",
]
