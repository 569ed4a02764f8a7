"""Every network once, by name: one contract over all of them, then what each has of its own."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from torch import nn

from pyrovae import likelihoods, networks

NETWORKS = {
    "mlp": lambda: networks.MLP(4, 7, hidden=[6, 5]),
    "mlp_linear": lambda: networks.MLP(4, 7),
    "gated": lambda: networks.GatedMLP(4, 7, hidden=[6, 5]),
    "gated_linear": lambda: networks.GatedMLP(4, 7),
    "conv_encoder": lambda: networks.ConvEncoder((8, 8), 6, channels=[3, 5]),
    "conv_encoder_odd": lambda: networks.ConvEncoder((3, 5, 7), 1, channels=[4, 5, 6]),
    "conv_encoder_line": lambda: networks.ConvEncoder((2, 1, 9), 4, channels=[3, 3], activation=nn.Tanh),
    "conv_decoder": lambda: networks.ConvDecoder(4, (8, 8), channels=[5, 3]),
    "conv_decoder_odd": lambda: networks.ConvDecoder(1, (3, 5, 7), channels=[6, 5, 4], parameters=2),
    "conv_decoder_line": lambda: networks.ConvDecoder(2, (2, 1, 9), channels=[3], activation=nn.Tanh),
    "residual_encoder": lambda: networks.ResidualEncoder((2, 5, 6), 6, channels=[4, 5]),
    "residual_encoder_deep": lambda: networks.ResidualEncoder((8, 8), 2, channels=[4], blocks=3),
    "residual_decoder": lambda: networks.ResidualDecoder(4, (2, 5, 6), channels=[5, 4], parameters=3),
    "residual_decoder_deep": lambda: networks.ResidualDecoder(2, (8, 8), channels=[4], blocks=3),
}
ENCODERS = [networks.ConvEncoder, networks.ResidualEncoder]
DECODERS = [networks.ConvDecoder, networks.ResidualDecoder]
every_network = pytest.mark.parametrize("name", NETWORKS)
every_encoder = pytest.mark.parametrize("encoder", ENCODERS)
every_decoder = pytest.mark.parametrize("decoder", DECODERS)
every_size = pytest.mark.parametrize("shape", [(28, 28), (28, 20), (5, 7), (3, 9, 2), (1, 16), (2, 2)])


@pytest.mark.parametrize("leading", [(), (5,), (0,), (3, 5), (2, 3, 5), (2, 0)])
@every_network
def test_any_leading_dims_row_by_row(name, leading, device):
    net = NETWORKS[name]().to(device)
    x = torch.randn(*leading, net.in_features, device=device)
    y = net(x)
    assert y.shape == (*leading, net.out_features)
    for row in itertools.product(*map(range, leading)):
        torch.testing.assert_close(y[row], net(x[row]))


@every_network
def test_inputs_without_a_layout_of_their_own_are_taken(name):
    """Draws come expanded and transposed."""
    net = NETWORKS[name]()
    x = torch.randn(5, net.in_features)
    torch.testing.assert_close(net(x.expand(3, 5, -1))[2], net(x))
    turned = torch.randn(net.in_features, 3, 5).permute(2, 1, 0)
    torch.testing.assert_close(net(turned), net(turned.contiguous()))


@every_network
def test_a_row_does_not_depend_on_the_other_rows(name):
    net = NETWORKS[name]().train()
    x, others = torch.randn(5, net.in_features), 1e3 * torch.randn(5, net.in_features)
    others[2] = x[2]
    torch.testing.assert_close(net(others)[2], net(x)[2])


@every_network
def test_every_parameter_gets_a_gradient_at_the_first_step(name):
    net = NETWORKS[name]()
    y = net(torch.randn(3, 16, net.in_features))
    (y * torch.randn_like(y)).sum().backward()
    dead = [key for key, value in net.named_parameters() if not value.grad.abs().sum() > 0]
    assert not dead


@every_network
def test_state_dict_round_trip(name):
    net, other = NETWORKS[name](), NETWORKS[name]()
    x = torch.randn(5, net.in_features)
    assert not torch.equal(net(x), other(x))
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(x), other(x))


@every_network
def test_what_a_network_cannot_take_is_refused_in_one_line(name):
    net = NETWORKS[name]()
    width, rows = net.in_features, torch.zeros(4, net.in_features, dtype=torch.get_default_dtype())
    bad = {
        f"expected shape (..., {width}), got (4, {width + 1})": torch.zeros(4, width + 1),
        f"expected shape (..., {width}), got ()": torch.zeros(()),
        "expected floating point, got torch.int64: use x.float(), divided by 255 if 8-bit": rows.long(),
        "expected floating point, got torch.bool: use x.float()": rows.bool(),
        "input is torch.float16, weights are": rows.half(),
    }
    for message, x in bad.items():
        with pytest.raises(ValueError, match=f"^{type(net).__name__}: " + re.escape(message)) as raised:
            net(x)
        assert "\n" not in str(raised.value)


@every_encoder
@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (3, 4, 6)])
@pytest.mark.parametrize("leading", [(5,), (1,), (2, 5)])
def test_images_in_their_own_shape_get_the_mend_that_works(encoder, shape, leading):
    net = encoder(shape, 2, channels=[3])
    x = torch.rand(*leading, *shape)
    with pytest.raises(ValueError, match=r"flatten the rows, x.flatten\((\d)\)$") as raised:
        net(x)
    start = int(re.search(r"x.flatten\((\d)\)", str(raised.value)).group(1))
    assert net(x.flatten(start)).shape == (*x.shape[:start], 2)


def test_one_image_gets_the_mend_too():
    with pytest.raises(ValueError, match=r"x.flatten\(0\)$"):
        networks.ConvEncoder((3, 4, 6), 2)(torch.rand(3, 4, 6))


def test_autocast_chooses_the_dtype():
    for build in NETWORKS.values():
        net = build().float()
        x = torch.randn(5, net.in_features, dtype=torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = net(x)
        # bfloat16 has 8 bits, and the outputs are of order 1: about 0.005 a layer.
        torch.testing.assert_close(low.float(), net(x.float()), rtol=0, atol=0.05)


def test_mlp_is_linear_without_hidden_layers_and_not_with_them():
    a, b = torch.randn(2, 4)
    for hidden, linear in (([], True), ([50], False)):
        for family in (networks.MLP, networks.GatedMLP):
            net = family(4, 7, hidden=hidden)
            middle = (net(a) + net(b)) / 2
            assert torch.allclose(net((a + b) / 2), middle, atol=1e-5) == linear


def test_a_gated_layer_is_its_formula():
    net = networks.GatedMLP(4, 3, hidden=[5])
    x = torch.randn(2, 4)
    (w, v), (b, c) = net.layers[0].weight.chunk(2), net.layers[0].bias.chunk(2)
    h = (x @ w.T + b) * torch.sigmoid(x @ v.T + c)
    torch.testing.assert_close(net(x), h @ net.layers[-1].weight.T + net.layers[-1].bias)


@every_size
@every_encoder
def test_every_pixel_is_seen(encoder, shape):
    """Strides that miss the last row or column of an odd image would leave gradients of zero."""
    net = encoder(shape, 6, channels=[3, 4, 5][: halvings(shape)], activation=nn.Softplus)
    x = torch.rand(math.prod(shape), requires_grad=True)
    (net(x) * torch.randn(6)).sum().backward()
    assert (x.grad != 0).all()


@every_size
@every_decoder
def test_every_pixel_is_drawn(decoder, shape):
    net = decoder(6, shape, channels=[5, 4, 3][: halvings(shape)], parameters=2, activation=nn.Softplus)
    a, b = net(torch.randn(2, 6))
    assert a.shape == (2 * math.prod(shape),)
    assert (a != b).all()


def halvings(shape):
    return min(3, math.ceil(math.log2(max(shape[-2:]))))


@every_decoder
def test_parameters_come_in_blocks(decoder):
    """Channel c of parameter p is the (p C + c)-th image of the last convolution."""
    net = decoder(4, (3, 5, 7), channels=[6, 5], parameters=2)
    with torch.no_grad():
        net.layers[-3].weight[:4] = 0
        net.layers[-3].weight[5:] = 0
    loc, log_variance = net(torch.randn(8, 4)).chunk(2, -1)
    assert (loc == 0).all()
    images = log_variance.unflatten(-1, (3, 5, 7))
    assert (images[:, [0, 2]] == 0).all()
    assert (images[:, 1] != 0).any(0).all()


@every_decoder
def test_a_flat_image_is_drawn_without_a_checkerboard(decoder):
    """From equal coarse pixels, equal fine ones, but for the frame that the padding with zeros reaches."""
    net = decoder(4, (64, 64), channels=[5, 4], activation=nn.Softplus)
    with torch.no_grad():
        net.layers[0].weight.zero_()
        net.layers[0].bias.view(5, -1)[:] = torch.randn(5, 1)
    inside = net(torch.randn(4)).unflatten(-1, (64, 64))[16:48, 16:48]
    torch.testing.assert_close(inside, inside[:1, :1].expand(32, 32))
    assert inside.abs().min() > 1e-3


@pytest.mark.parametrize(
    ("plain", "residual", "ends"),
    [
        (networks.ConvEncoder, networks.ResidualEncoder, [(5, 6), 4]),
        (networks.ConvDecoder, networks.ResidualDecoder, [4, (5, 6)]),
    ],
)
def test_residual_blocks_without_their_branch_are_the_identity(plain, residual, ends):
    plain, residual = plain(*ends, channels=[3, 4]), residual(*ends, channels=[3, 4], blocks=2)
    inside = [value for key, value in residual.named_parameters() if "branch" in key]
    outside = [value for key, value in residual.named_parameters() if "branch" not in key]
    assert len(inside) == 2 * 2 * 4  # resolutions, blocks, and two weights and biases in each
    with torch.no_grad():
        for own, value in zip(outside, plain.parameters(), strict=True):
            own.copy_(value)
        x = torch.randn(8, plain.in_features)
        assert not torch.allclose(residual(x), plain(x), atol=1e-3)
        for value in inside:
            value.zero_()
        torch.testing.assert_close(residual(x), plain(x))


def test_output_bias_needs_a_last_layer_of_its_shape():
    for net in (nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(2, 4), networks.ConvDecoder(2, (5, 7))):
        with pytest.raises(ValueError, match=r"expected a last layer with a bias of shape \(3,\)"):
            networks.set_output_bias(net, torch.zeros(3))


@every_network
def test_output_bias_shifts_the_output(name):
    net = NETWORKS[name]()
    x, value = torch.randn(5, net.in_features), torch.randn(net.out_features)
    networks.set_output_bias(net, torch.zeros_like(value))
    before = net(x)
    networks.set_output_bias(net, value)
    torch.testing.assert_close(net(x), before + value)


@every_decoder
def test_bernoulli_of_images_starts_from_the_data_means(decoder):
    mean = torch.linspace(0.01, 0.99, 35)
    likelihood = likelihoods.Bernoulli(decoder(2, (5, 7), channels=[4]), data_mean=mean)
    with torch.no_grad():
        likelihood.net.layers[-3].weight.zero_()
    torch.testing.assert_close(likelihood(torch.randn(3, 2)).mean[0], mean)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: networks.MLP(4, 7, hidden=[0]), "MLP: every width must be at least 1, got hidden=[0], in_f"),
        (lambda: networks.MLP(4, 7, hidden=5), "MLP: hidden is a list of widths, hidden=[5]"),
        (lambda: networks.GatedMLP(0, 7), "GatedMLP: every width must be at least 1, got hidden=[], in_f"),
        (lambda: networks.GatedMLP(4, 7, hidden=5), "GatedMLP: hidden is a list of widths, hidden=[5]"),
        (
            lambda: networks.ConvEncoder((8, 8), 0),
            "every width must be at least 1, got channels=[32, 64], out_",
        ),
        (lambda: networks.ConvEncoder((8, 8), 2, channels=8), "channels is a list of widths, channels=[8]"),
        (lambda: networks.ConvEncoder((8, 8), 2, channels=[]), "give one width for each halving, or use MLP"),
        (
            lambda: networks.ConvEncoder(64, 2),
            "ConvEncoder: shape is (C, H, W) or (H, W), each at least 1, got 64",
        ),
        (lambda: networks.ConvEncoder((64,), 2), "shape is (C, H, W) or (H, W), each at least 1, got (64,)"),
        (lambda: networks.ConvEncoder((1, 1, 8, 8), 2), "shape is (C, H, W) or (H, W)"),
        (lambda: networks.ConvEncoder((0, 8), 2), "shape is (C, H, W) or (H, W)"),
        (lambda: networks.ConvEncoder((8.0, 8), 2), "shape is (C, H, W) or (H, W)"),
        (
            lambda: networks.ConvEncoder((1, 1), 2),
            "1 x 1 can be halved 0 times, channels=[32, 64] halves it 2",
        ),
        (lambda: networks.ConvDecoder(2, (3, 4, 3), channels=[8] * 3), "4 x 3 can be halved 2 times"),
        (lambda: networks.ConvDecoder(2, (3, 4, 3), channels=[8] * 3), "3 times: use at most 2 channels"),
        (
            lambda: networks.ConvDecoder(2, (8, 8), parameters=0),
            "must be at least 1, got channels=[64, 32], in_",
        ),
        (lambda: networks.ConvDecoder(2, (8, 8), channels=[4, 0]), "every width must be at least 1"),
        (lambda: networks.ResidualEncoder((8, 8), 2, blocks=0), "got 0: use ConvEncoder for none"),
        (lambda: networks.ResidualDecoder(2, (8, 8), blocks=0), "got 0: use ConvDecoder for none"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(build, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        build()
    assert "\n" not in str(raised.value)
