"""Neural networks for encoders and decoders: any leading dims in, the same leading dims out."""

from pyrovae.networks.bias import set_output_bias
from pyrovae.networks.images import ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from pyrovae.networks.perceptrons import MLP, GatedMLP
from pyrovae.networks.rows import by_rows

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
