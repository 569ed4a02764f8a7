"""Neural networks for encoders and decoders: any leading dims in, the same leading dims out.

A width below 1, and an input of another width, or not of floating point, is a ValueError.
"""

from pyrovae.models.networks.base import by_rows, set_output_bias
from pyrovae.models.networks.convolutional import ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from pyrovae.models.networks.mlp import MLP, GatedMLP

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "ResidualDecoder",
    "ResidualEncoder",
    "by_rows",
    "set_output_bias",
]
