"""The perceptron that maps image features to the width of the text encoder or of the adapters."""

from torch import nn


def feature_mlp(inputs: int, width: int) -> nn.Sequential:
    """Build the MLP of Sec. 3.3.

    Choice: the paper gives no details; as in the released code, a norm and one hidden layer.
    """
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
