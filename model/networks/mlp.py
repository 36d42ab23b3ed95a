"""The perceptron that carries image features into the widths of the text encoder and of the adapters."""

from torch import nn


def feature_mlp(inputs: int, width: int) -> nn.Sequential:
    """MLP of Sec. 3.3. Choice: the paper says no more; the released code norms first and has one hidden layer."""
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
