"""Neural networks for encoders and decoders: any leading dims in, the same leading dims out."""

from pyrovae.networks.bias import set_output_bias
from pyrovae.networks.images import ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from pyrovae.networks.perceptrons import MLP, GatedMLP

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "ResidualDecoder",
    "ResidualEncoder",
    "set_output_bias",
]
