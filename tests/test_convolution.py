"""Convolution arithmetic against torch: sizes, unused pixels, whole layers, gradients, costs and fields."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from kpnb.checks import whole
from kpnb.convolution import (
    Field,
    Window,
    bounds,
    conv2d,
    conv2d_unfold,
    conv_cost,
    gradient_receptive_field,
    output_size,
    receptive_field,
    unfold,
    unused_pixels,
    windows,
)
from kpnb.core import make_generator
from kpnb.models import NoseNet

VERSIONS = [conv2d_unfold, conv2d]


def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    "Convolution from its definition, one output number at a time."
    pairs = [(v, v) if isinstance(v, int) else v for v in (stride, padding, dilation)]
    (sy, sx), (py, px), (dy, dx) = pairs
    h, w = output_size(tuple(x.shape[2:]), tuple(weight.shape[2:]), stride, padding, dilation)
    o, c, kh, kw = weight.shape
    x, values = F.pad(x, (px, px, py, py)), []
    for n in range(len(x)):
        for j in range(o):
            first = j // (o // groups) * c  # the first channel that output channel j sees
            for top in range(0, h * sy, sy):
                for left in range(0, w * sx, sx):
                    rows = slice(top, top + dy * (kh - 1) + 1, dy)
                    columns = slice(left, left + dx * (kw - 1) + 1, dx)
                    total = (x[n, first : first + c, rows, columns] * weight[j]).sum()
                    values.append(total if bias is None else total + bias[j])
    return torch.stack(values).view(len(x), o, h, w)


def a_case():
    g = make_generator(0)
    x, weight = torch.randn(2, 6, 9, 8, generator=g), torch.randn(4, 3, 3, 2, generator=g)
    return x, weight, torch.randn(4, generator=g)


def test_sizes_by_hand():
    assert output_size(5, 3) == 3
    assert output_size((60, 80), 3, stride=2, padding=1) == (30, 40)
    assert output_size(96, (5, 3), dilation=(1, 4)) == (92, 88)


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(size=5, kernel=7), "(5 + 2·0 − 1·(7−1) − 1)/1 + 1 = −1"),
        (
            dict(size=(9, 4), kernel=3, stride=2, padding=0, dilation=3),
            "width: ⌊(4 + 2·0 − 3·(3−1) − 1)/2⌋ + 1 = −1",
        ),
        (dict(size=5, kernel=3, stride=0), "stride: found 0; expected at least 1"),
        (dict(size=5, kernel=3, padding="same"), "padding: found 'same'"),
    ],
)
def test_a_size_that_does_not_come_out_shows_its_sum(given, words):
    with pytest.raises((TypeError, ValueError)) as e:
        output_size(**given)
    assert words in str(e.value)


@pytest.mark.parametrize(
    "n, k, s, p, d",
    [
        (10, 3, 2, 0, 1),
        (11, 3, 4, 0, 1),
        (12, 2, 5, 1, 1),
        (13, 3, 3, 2, 3),
        (7, 1, 2, 0, 1),
        (9, 9, 1, 0, 1),
    ],
)
def test_unused_pixels_are_those_without_a_gradient(n, k, s, p, d):
    row = torch.ones(1, 1, n, requires_grad=True)
    F.conv1d(row, torch.ones(1, 1, k), None, s, p, d).sum().backward()
    assert unused_pixels(n, k, s, p, d) == (row.grad[0, 0] == 0).nonzero()[:, 0].tolist()


def test_unfold_has_the_order_of_torch():
    x = a_case()[0]
    assert torch.equal(unfold(x, (3, 2), (2, 1), (1, 2), (2, 1)), F.unfold(x, (3, 2), (2, 1), (1, 2), (2, 1)))
    expected = [[1.0, 2, 4, 5], [2, 3, 5, 6], [4, 5, 7, 8], [5, 6, 8, 9]]
    assert unfold(torch.arange(1.0, 10).view(1, 1, 3, 3), 2)[0].tolist() == expected


def test_the_unfolded_matrix_is_as_much_larger_as_the_kernel_has_numbers():
    x = torch.zeros(4, 3, 32, 32)
    assert unfold(x, 5, padding=2).nbytes == 25 * x.nbytes


def random_case(g):
    "tensors and settings of a random convolution that fits"

    def pair(low, high):
        return whole(g, low, high) if whole(g, 0, 2) == 0 else (whole(g, low, high), whole(g, low, high))

    groups, c, o = whole(g, 1, 3), whole(g, 1, 3), whole(g, 1, 2)
    size, kernel = (whole(g, 5, 8), whole(g, 5, 8)), (whole(g, 1, 3), whole(g, 1, 3))
    shapes = [(whole(g, 1, 2), groups * c, *size), (groups * o, c, *kernel), (groups * o,)]
    tensors = [torch.randn(s, generator=g).requires_grad_() for s in shapes]
    if whole(g, 0, 3) == 0:
        tensors[2] = None
    return tensors, dict(stride=pair(1, 3), padding=pair(0, 2), dilation=pair(1, 2), groups=groups)


def with_gradients(f, tensors, settings):
    "output and gradients, for a random gradient that comes in from above"
    out = f(*tensors, **settings)
    above = torch.randn(out.shape, generator=make_generator(0))
    return [out, *torch.autograd.grad(out, [t for t in tensors if t is not None], above)]


def test_three_versions_agree_with_torch_in_outputs_and_gradients():
    g = make_generator(10)
    for _ in range(40):
        tensors, settings = random_case(g)
        right = with_gradients(F.conv2d, tensors, settings)
        for f in (conv2d_loops, *VERSIONS):
            for found, expected in zip(with_gradients(f, tensors, settings), right):
                assert (found - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max()), (f, settings)


@pytest.mark.parametrize("f", [conv2d_loops, conv2d_unfold])
def test_gradients_are_right_without_torchs_convolution_as_the_judge(f):
    g, shapes = make_generator(0), ((1, 4, 5, 4), (2, 2, 2, 3), (2,))
    small = [torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]
    settings = dict(stride=(2, 1), padding=(0, 1), dilation=(2, 1), groups=2)
    assert torch.autograd.gradcheck(lambda *t: f(*t, **settings), small)


@pytest.mark.parametrize("f", VERSIONS)
def test_no_pictures_give_no_pictures(f):
    x, weight, _ = a_case()
    settings = dict(stride=(2, 1), padding=(1, 2), dilation=(2, 1), groups=2)
    assert f(x[:0], weight, **settings).shape == (0, 4, 4, 11)


@pytest.mark.parametrize("f", VERSIONS)
def test_shapes_and_settings_that_do_not_fit_are_refused_in_words(f):
    x, weight, bias = a_case()
    for use, words in (
        (lambda: f(x[0], weight), "x: found the shape (6, 9, 8); expected four dimensions (N,C,H,W)"),
        (lambda: f(x, weight[0]), "weight: found the shape (3, 3, 2); expected four dimensions"),
        (lambda: f(x, weight), "x has 6 channels; expected 1·3 = 3"),
        (lambda: f(x, weight[:3], groups=2), "3 = 1·2 + 1"),
        (lambda: f(x, weight, bias[:3], groups=2), "bias: found the shape (3,); expected (4,)"),
        (lambda: f(x[..., :1], weight, groups=2), "width: (1 + 2·0 − 1·(2−1) − 1)/1 + 1 = 0"),
        (lambda: f(x, weight.double(), groups=2), "weight is torch.float64 and x is torch.float32"),
        (lambda: f(x, weight, groups=0), "groups: found 0"),
        (lambda: f(x, weight, bias, padding=-1, groups=2), "padding: found -1; expected at least 0"),
        (lambda: f(x, weight, bias, stride=(1, 2, 3), groups=2), "stride: found (1, 2, 3); expected a whole"),
        (
            lambda: f(torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 7, 7)),
            "height: (5 + 2·0 − 1·(7−1) − 1)/1 + 1 = −1",
        ),
    ):
        with pytest.raises((TypeError, ValueError)) as e:
            use()
        assert words in str(e.value)


def stamp(picture, kernel):
    "true convolution: every pixel stamps the kernel, as often as it is bright, onto the output"
    (h, w), (kh, kw) = picture.shape, kernel.shape
    out = torch.zeros(h + kh - 1, w + kw - 1)
    for y in range(h):
        for x in range(w):
            out[y : y + kh, x : x + kw] += picture[y, x] * kernel
    return out


def test_a_true_convolution_is_a_correlation_with_the_flipped_kernel():
    g = make_generator(0)
    for _ in range(5):
        p = torch.rand(whole(g, 3, 7), whole(g, 3, 7), generator=g)
        k = torch.randn(whole(g, 2, 4), whole(g, 2, 4), generator=g)
        around = (len(k) - 1, k.shape[1] - 1)
        flipped = conv2d(p[None, None], k.flip(0, 1)[None, None], padding=around)[0, 0]
        assert_close(stamp(p, k), flipped)
        assert_close(stamp(p, k), stamp(k, p))  # it does not care which of the two is the kernel
        assert not torch.allclose(flipped, conv2d(p[None, None], k[None, None], padding=around)[0, 0])
    assert stamp(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).tolist() == [[3.0, 10.0, 8.0]]


@pytest.mark.parametrize("bias", [True, False])
def test_costs_are_those_that_torch_counts(bias):
    layer = nn.Conv2d(6, 4, (3, 5), (2, 1), 1, (1, 2), groups=2, bias=bias)
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 6, 20, 30))
    counted = sum(p.numel() for p in layer.parameters()), counter.get_total_flops() // 2
    assert conv_cost((20, 30), 6, 4, (3, 5), (2, 1), 1, (1, 2), 2, bias) == counted
    assert conv_cost(8, 1, 2, 3, bias=False) == (18, 18 * 36)


def test_fields_by_hand():
    assert receptive_field([]) == (1, 1, 0.5)
    assert receptive_field([(3,), (3,)]) == (5, 1, 2.5)
    assert receptive_field([(3, 1, 1, 1), (2, 2)]).span(5) == (9.0, 13.0)
    assert receptive_field([(5, 2, 1, 2), (3, 1, 2, 2), (2, 2)]) == Field(15, 4, 1.5)


@pytest.mark.parametrize(
    "layers, words", [([(3,), (0, 1)], "layer 1: found kernel 0"), ([3], "layer 0: found 3")]
)
def test_layers_that_are_none_are_refused_by_number(layers, words):
    with pytest.raises(ValueError, match=words):
        receptive_field(layers)


def test_the_field_grows_as_many_boxes_convolved_with_themselves():
    line = torch.ones(1, 1, 1)
    for _ in range(17):
        line = F.conv1d(line, torch.ones(1, 1, 3), padding=2)
    assert line.numel() == receptive_field([(3,)] * 17).size


def a_resnet():
    return nn.Sequential(*list(resnet18(weights=None).children())[:-2])


def test_windows_are_read_off_a_model():
    resnet, nose_net = a_resnet(), NoseNet().body
    assert receptive_field(windows(nose_net)) == (22, 8, 4.0)
    assert receptive_field(windows(resnet)) == (435, 32, 0.5)
    sizes = [receptive_field(windows(resnet[:i])).size for i in (1, 4, 5, 6, 7, 8)]
    assert sizes == [7, 11, 43, 99, 211, 435]
    assert receptive_field(windows(nn.Conv2d(1, 1, (3, 5), (1, 2)), axis=0)) == (3, 1, 1.5)
    assert windows(nn.MaxPool2d(3, 2, 1)) == [Window(3, 2, 1, 1)]
    with pytest.raises(ValueError, match="padding is 'same'"):
        windows(nn.Conv2d(1, 1, 3, padding="same"))


def box(field, row, column):
    "x0, y0, x1, y1 of what a unit sees, by formula"
    (x0, x1), (y0, y1) = field.span(column), field.span(row)
    return tuple(map(int, (x0, y0, x1, y1)))


def test_formula_and_gradient_agree_for_random_stacks():
    g = make_generator(3)
    for _ in range(30):
        layers = [
            (whole(g, 1, 3), whole(g, 1, 2), whole(g, 1, 2), whole(g, 0, 1)) for _ in range(whole(g, 1, 4))
        ]
        stack = [
            nn.Conv2d(1, 1, k, s, p, d) if whole(g, 0, 2) or d > 1 or p > k // 2 else nn.MaxPool2d(k, s, p)
            for k, s, d, p in layers
        ]
        mask, (row, column) = gradient_receptive_field(nn.Sequential(*stack), 120)
        assert bounds(mask) == box(receptive_field(layers), row, column)


def test_formula_and_gradient_agree_for_networks():
    resnet, nose_net = a_resnet(), NoseNet().body
    for part, size, channels in (
        *((resnet[:i], 512, 3) for i in (1, 5, 6, 7, 8)),
        *((nose_net[:i], (60, 80), 1) for i in (1, 2, 3)),
    ):
        mask, (row, column) = gradient_receptive_field(part, size, in_channels=channels)
        found, expected = bounds(mask), box(receptive_field(windows(part)), row, column)
        assert found == expected


def test_a_field_by_gradient_leaves_the_model_as_it_is():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gradient_receptive_field(model, 20)
    assert model.training and isinstance(model[0], nn.Conv2d)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="leave out its head"):
        gradient_receptive_field(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), 20)
    with pytest.raises(ValueError, match="no pixel is true"):
        bounds(torch.zeros(3, 3, dtype=torch.bool))


def test_the_effective_field_of_equal_weights_grows_like_a_root():
    "Luo et al. 2016: pixels with at least 4.55 % of the largest influence, as the side of a square."

    def effective(n):
        line = torch.ones(1, 1, 1, dtype=torch.float64)
        for _ in range(n):
            line = F.conv1d(line, torch.ones(1, 1, 3, dtype=torch.float64) / 3, padding=2)
        square = line[0, 0, :, None] * line[0, 0]
        return math.sqrt(int((square >= 0.0455 * square.max()).sum()))

    assert 0.45 < math.log(effective(40) / effective(16)) / math.log(40 / 16) < 0.55


def test_the_module_loads_no_drawing():
    code = "import sys, kpnb.convolution; sys.exit(any(m.startswith('matplotlib') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
