"""Batch norm against torch: output, gradients, record, state, text and errors, in random settings."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kpnb.batch_norm import (
    BatchNorm1d,
    BatchNorm2d,
    along,
    batch_statistics,
    batchnorm_backward,
    reestimate_statistics,
    scale_and_shift,
    update_running,
)
from kpnb.checks import whole
from kpnb.exercises.batch_norm import check_batch_norm, check_group_norm, check_running
from kpnb.recipes.norms import error_px, face_network, norm_faces

PAIRS = {1: (BatchNorm1d, nn.BatchNorm1d), 2: (BatchNorm2d, nn.BatchNorm2d)}
HALF = (torch.float16, torch.bfloat16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def one_pass(x):
    "the variance by the tempting formula, in the precision of x"
    axes = [d for d in range(x.ndim) if d != 1]
    mean = x.mean(axes)
    return mean, x.square().mean(axes) - mean.square()


# ---- against torch


def twins(g, offset, smallest):
    "a random layer of ours, torch's with the same settings and state, and a function that draws inputs"

    def pick(*options):
        return options[whole(g, 0, len(options) - 1)]

    c, tail = whole(g, 1, 5), pick((), (whole(g, 1, 6),), (whole(g, 1, 6), whole(g, 2, 6)))
    settings = {
        "eps": pick(1e-5, 1e-3, 0.1),
        "momentum": pick(0.1, 0.01, 1.0, 0.0, None),
        "affine": pick(True, False),
        "track_running_stats": pick(True, True, False),
    }
    ours, theirs = (kind(c, **settings) for kind in PAIRS[2 if len(tail) == 2 else 1])
    if ours.affine:
        ours.weight.data, ours.bias.data = torch.randn(2, c, generator=g)
    theirs.load_state_dict(ours.state_dict())
    n = 1 if len(tail) == 2 and whole(g, 0, 3) == 0 else whole(g, smallest, smallest + 7)
    return ours, theirs, lambda: torch.randn(n, c, *tail, generator=g) * pick(0.3, 1.0, 5.0) + offset


def observe(layer, x, pull):
    "all that a step makes visible"
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * pull).sum().backward()
    weights = {f"{k}'s gradient": p.grad.clone() for k, p in layer.named_parameters()}
    buffers = {k: b.clone() for k, b in layer.named_buffers()}
    return {"output": y.detach(), "input's gradient": x.grad} | weights | buffers


@pytest.mark.parametrize(
    "dtype, offset, smallest, tolerance",
    [(torch.float64, 0.0, 2, 1e-9), (torch.float64, 1000.0, 2, 1e-7), (torch.float32, 1000.0, 16, 2e-2)],
)
def test_three_training_steps_and_one_in_use_are_those_of_torch(dtype, offset, smallest, tolerance):
    "Output, gradients of input, scale and shift, and the record, relative to 1 + the value."
    g, worst = generator(1), {}
    for _ in range(100):
        ours, theirs, draw = twins(g, offset, smallest)
        ours, theirs = ours.to(dtype), theirs.to(dtype)
        for step in range(4):
            ours.train(step < 3)
            theirs.train(step < 3)
            x = draw().to(dtype)
            pull = torch.randn(x.shape, generator=g).to(dtype)
            a, b = observe(ours, x, pull), observe(theirs, x, pull)
            assert list(a) == list(b)
            for k in a:
                worst[k] = max(worst.get(k, 0.0), ((a[k] - b[k]).abs() / (1 + b[k].abs())).max().item())
    assert max(worst.values()) < tolerance, worst


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eps": 0.1, "momentum": None},
        {"affine": False},
        {"track_running_stats": False},
        {"dtype": torch.float64},
    ],
)
def test_text_and_state_are_those_of_torch_and_load_in_both_directions(kind, settings):
    a, b = (k(4, **settings) for k in PAIRS[kind])
    assert repr(a) == repr(b)
    states = [{k: (v.shape, v.dtype) for k, v in layer.state_dict().items()} for layer in (a, b)]
    assert states[0] == states[1]
    for p in b.parameters():
        p.data.uniform_()
    a.load_state_dict(b.state_dict())
    b.load_state_dict(a.state_dict())
    for k in b.state_dict():
        assert_close(a.state_dict()[k], b.state_dict()[k], rtol=0, atol=0)


def error_of(f, *args):
    "type of the exception that f raises, or None"
    try:
        f(*args)
    except Exception as e:
        return type(e)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
def test_the_same_shapes_are_refused_with_the_same_errors(kind, training, affine, track):
    shapes = [(4,), (2, 4), (1, 4), (2, 4, 3), (1, 4, 1), (2, 5, 3), (1, 4, 1, 1), (1, 4, 1, 2)]
    shapes += [(2, 5, 3, 3), (0, 4, 3, 3), (2, 4, 3, 3, 1)]
    raised = set()
    for shape in shapes:
        layers = [k(4, affine=affine, track_running_stats=track).train(training) for k in PAIRS[kind]]
        a, b = (error_of(layer, torch.ones(shape)) for layer in layers)
        assert a == b, shape
        raised.add(a)
    assert {None, ValueError} <= raised


@pytest.mark.parametrize(
    "layer, x, words",
    [
        (BatchNorm1d(4), torch.randn(1, 4), "Expected more than 1 value per channel when training"),
        (BatchNorm1d(4), torch.randn(2, 4, 3, 3), r"expected 2D or 3D input \(got 4D input\)"),
        (
            BatchNorm2d(4),
            torch.randn(2, 4, 3),
            r"expected 4D input \(got 3D input\): BatchNorm2d takes \(N,C,H,W\), found \(2, 4, 3\)",
        ),
        (BatchNorm2d(4), torch.randn(2, 5, 3, 3), "running_mean should contain 5 elements not 4"),
        (BatchNorm2d(4, eps=0.0), torch.randn(2, 4, 3, 3), "eps must be positive"),
    ],
)
def test_what_is_refused_is_said_with_its_numbers(layer, x, words):
    with pytest.raises((ValueError, RuntimeError), match=words):
        layer(x)


def test_wrong_types_are_refused_as_torch_does():
    for x in (torch.ones(2, 4, 3, 3).double(), torch.ones(2, 4, 3, 3).long()):
        found = error_of(BatchNorm2d(4), x)
        assert found is not None and found == error_of(nn.BatchNorm2d(4), x)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_computed_in_float32(dtype):
    x = (torch.randn(8, 4, 3, 3, generator=generator()) * 3 + 5).to(dtype)
    a, b = BatchNorm2d(4), nn.BatchNorm2d(4)
    assert_close(a(x), b(x))
    assert_close(a.running_var, b.running_var, rtol=1e-3, atol=1e-3)
    assert a(x).dtype == dtype


def test_states_of_very_old_versions_load():
    old = nn.BatchNorm2d(4).state_dict()
    del old["num_batches_tracked"]
    old._metadata[""]["version"] = 1
    layer = BatchNorm2d(4)
    layer.load_state_dict(old)
    assert layer.num_batches_tracked.item() == 0


def test_an_empty_batch_leaves_the_record():
    empty, twin = BatchNorm2d(4), nn.BatchNorm2d(4)
    assert empty(torch.ones(0, 4, 2, 2)).shape == twin(torch.ones(0, 4, 2, 2)).shape
    for k in twin.state_dict():
        assert_close(empty.state_dict()[k], twin.state_dict()[k])


def test_the_record_carries_no_graph_and_is_changed_in_place():
    layer = BatchNorm2d(3)
    pointer = layer.running_mean.data_ptr()
    for _ in range(2):
        layer(torch.randn(4, 3, 5, 5, requires_grad=True)).square().mean().backward()
    for buffer in (layer.running_mean, layer.running_var):
        assert not buffer.requires_grad and buffer.grad_fn is None
    assert layer.running_mean.data_ptr() == pointer
    copy.deepcopy(layer)


def test_a_network_of_our_layers_is_one_of_torchs():
    ours, theirs = face_network(BatchNorm2d), face_network(nn.BatchNorm2d)
    ours.load_state_dict(theirs.state_dict())
    x = norm_faces(8, 1).images / 255
    for mode in (True, False):
        assert_close(ours.train(mode)(x), theirs.train(mode)(x), rtol=1e-4, atol=1e-4)


# ---- what the lesson says about it


def test_mean_0_and_variance_1_and_scale_and_shift_can_undo_it():
    for shape in ((6, 3), (4, 3, 5, 7)):
        x = torch.randn(shape, generator=generator()) * 5 + 2
        mean, var = batch_statistics(scale_and_shift(x, *batch_statistics(x)))
        assert mean.abs().max() < 1e-6 and (var - 1).abs().max() < 1e-4
        mean, var = batch_statistics(x)
        assert_close(scale_and_shift(x, mean, var, (var + 1e-5).sqrt(), mean), x)


def test_a_bias_before_batch_norm_is_useless_and_a_constant_channel_gives_the_shift():
    x = torch.randn(8, 3, 6, 6, generator=generator())
    a, b = (scale_and_shift(v, *batch_statistics(v)) for v in (x, x + 100))
    assert (a - b).abs().max() < 1e-3
    constant, shift = torch.full((4, 3), 7.0), torch.tensor([1.0, 2.0, 3.0])
    found = scale_and_shift(constant, *batch_statistics(constant), bias=shift)
    assert_close(found, shift.expand(4, 3))


def test_two_passes_keep_the_variance_where_one_pass_loses_it():
    def worst(statistics, mean):
        x = torch.randn(16, 64, 8, 8, generator=generator(1)) + mean
        exact = scale_and_shift(x.double(), *batch_statistics(x.double()))
        return (scale_and_shift(x, *statistics(x)) - exact).abs().nan_to_num(float("inf")).max().item()

    assert worst(one_pass, 1000) > 0.02 and worst(batch_statistics, 1000) < 2e-3
    assert worst(batch_statistics, 10000) < 2e-2


def test_one_value_among_n_never_passes_the_root_of_n_minus_1():
    x = torch.zeros(8, 1)
    x[0] = 1e6
    assert abs(scale_and_shift(x, *batch_statistics(x)).max().item() - 7**0.5) < 1e-3
    two = torch.randn(2, 50, generator=generator()) * 3
    assert_close(scale_and_shift(two, *batch_statistics(two)).abs(), torch.ones(2, 50), rtol=1e-2, atol=1e-2)


def test_the_record_of_momentum_none_is_the_plain_average():
    g, mean, var, means, layer = generator(), torch.zeros(2), torch.ones(2), [], BatchNorm1d(2, momentum=None)
    for i in range(1, 6):
        x = torch.randn(8, 2, generator=g) * 2 + 3
        layer(x)
        update_running(mean, var, *batch_statistics(x), len(x), 1 / i)
        means.append(x.mean(0))
    assert_close(layer.running_mean, torch.stack(means).mean(0))
    assert_close(layer.running_mean, mean)
    assert_close(layer.running_var, var)


def test_weights_of_any_size_before_it_give_the_same_output_and_a_gradient_that_is_smaller_by_as_much():
    g = generator()
    x, weight, pull = (torch.randn(*s, generator=g) for s in ((32, 5), (4, 5), (32, 4)))
    found = {}
    for factor in (0.1, 1.0, 10.0):
        w = (factor * weight).requires_grad_()
        y = BatchNorm1d(4)(x @ w.T)
        (y * pull).sum().backward()
        found[factor] = y.detach(), w.grad * factor
    for factor in (0.1, 10.0):
        for a, b in zip(found[factor], found[1.0]):
            assert_close(a, b, rtol=2e-2, atol=2e-2)


# ---- mistakes from the wild


class Wild(nn.Module):
    "batch norm for (N,C) or (N,C,H,W) with a mistake of your choice"

    def __init__(self, mistake, c=3):
        super().__init__()
        self.mistake, self.momentum = mistake, 0.1
        self.running_mean, self.running_var = torch.zeros(c), torch.ones(c)

    def forward(self, x):
        mean, var = one_pass(x) if self.mistake == "cancel" else batch_statistics(x)
        n, m = x.numel() / x.shape[1], self.momentum
        kept = var if self.mistake == "biased" else var * n / (n - 1)
        if self.mistake != "graph":
            mean, kept = mean.detach(), kept.detach()
        self.running_mean = (1 - m) * self.running_mean + m * mean
        self.running_var = (1 - m) * self.running_var + m * kept
        return scale_and_shift(x, mean, var)


@pytest.mark.parametrize("mistake", ["cancel", "biased", "graph"])
def test_no_common_mistake_shows_in_the_output_at_mean_0(mistake):
    x = torch.randn(2, 3, 2, 2, generator=generator())
    assert_close(Wild(mistake)(x), nn.BatchNorm2d(3)(x), rtol=1e-4, atol=1e-4)


def test_a_record_with_a_graph_cannot_be_copied():
    wild, mix = Wild("graph"), nn.Conv2d(3, 3, 1)
    wild(mix(torch.randn(2, 3, 2, 2))).square().mean().backward()
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(wild)


def wild_record(mistake):
    "the exercise on the record, answered by a layer from the wild"

    def answer(x, running_mean, running_var, momentum):
        layer = Wild(mistake)
        layer.running_mean, layer.running_var, layer.momentum = running_mean, running_var, momentum
        layer(x)
        return layer.running_mean, layer.running_var

    return answer


def sloppy(x, weight, bias, eps):  # another order of the same mistake, with other rounding
    n = x[:, 0].numel()
    mean = x.sum((0, 2, 3)) / n
    var = (x * x).sum((0, 2, 3)) / n - mean * mean
    y = (x - mean[:, None, None]) / (var + eps)[:, None, None].sqrt()
    return y * weight[:, None, None] + bias[:, None, None]


def test_the_checks_call_the_common_mistakes_by_name():
    cancels = "with E[x²] − E[x]², which cancels when the mean is large"
    assert check_batch_norm.judge(sloppy).named == cancels
    answer = check_batch_norm.judge(lambda x, w, b, eps: scale_and_shift(x, *one_pass(x), w, b, eps))
    assert answer.named == cancels
    assert check_running.judge(wild_record("biased")).named == "with the biased variance in the record"
    assert check_running.judge(wild_record("graph")).named == "if the record keeps the graph of the batch"


def test_torchs_group_norm_passes_the_check():
    assert check_group_norm.judge(lambda x, n, w, b, eps: nn.functional.group_norm(x, n, w, b, eps))


# ---- the gradient


class ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        mean, var = batch_statistics(x)
        x_hat = scale_and_shift(x, mean, var, eps=eps)
        ctx.save_for_backward(x_hat, (var + eps).sqrt(), weight)
        return x_hat * along(weight, x) + along(bias, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return *batchnorm_backward(grad, *ctx.saved_tensors), None


@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 6), (3, 2, 3, 4), (1, 2, 3, 3)])
def test_the_formula_is_the_gradient(shape):
    g = generator()
    x = (torch.randn(shape, generator=g, dtype=torch.float64) * 3 + 2).requires_grad_()
    weight, bias = torch.randn(2, shape[1], generator=g, dtype=torch.float64)
    inputs = [x, weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    for eps in (1e-5, 0.3):
        assert torch.autograd.gradcheck(lambda *v: ByHand.apply(*v, eps), inputs)
    torchs = nn.functional.batch_norm(x, None, None, *inputs[1:], training=True)
    by_torch = torch.autograd.grad((torchs * x.detach().cos()).sum(), inputs)
    by_hand = torch.autograd.grad((ByHand.apply(*inputs, 1e-5) * x.detach().cos()).sum(), inputs)
    assert_close(by_hand, by_torch, rtol=1e-8, atol=1e-10)


def test_the_layers_gradient_is_right_in_both_modes_and_twice():
    layer = BatchNorm2d(2, dtype=torch.float64)
    layer.weight.data.normal_(generator=generator())
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64, generator=generator(), requires_grad=True)
    assert torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x)
    assert torch.autograd.gradcheck(layer.eval(), x)


def test_the_gradient_has_no_mean_and_no_part_along_the_output():
    g = generator()
    x = torch.randn(40, 1, generator=g)
    mean, var = batch_statistics(x)
    x_hat = scale_and_shift(x, mean, var)
    grad = 0.6 + 0.8 * x_hat + 0.4 * torch.randn(40, 1, generator=g)
    passed = batchnorm_backward(grad, x_hat, (var + 1e-5).sqrt())[0]
    assert passed.sum().abs() < 1e-5 and (passed * x_hat).mean().abs() < 1e-4


# ---- a new record


def test_a_new_record_is_the_average_of_the_batches_and_leaves_the_rest():
    net = nn.Sequential(nn.Dropout(0.5), BatchNorm1d(2)).eval()
    norm, x = net[1], torch.randn(64, 2, generator=generator()) * 3 + 1
    norm.momentum = 0.3
    reestimate_statistics(net, x.split(32))
    assert_close(norm.running_mean, x.mean(0))
    assert_close(norm.running_var, (x[:32].var(0) + x[32:].var(0)) / 2)
    assert (net.training, norm.training, norm.momentum) == (False, False, 0.3)


def test_a_new_record_needs_a_norm_and_a_batch():
    with pytest.raises(ValueError, match="found no layer with running statistics"):
        reestimate_statistics(nn.Linear(2, 2), [torch.ones(2, 2)])
    with pytest.raises(ValueError, match="found no batch"):
        reestimate_statistics(BatchNorm1d(2), [])


def test_darker_pictures_are_repaired_by_a_new_record():
    "Up to the border's zeros, which stay: a factor on the pictures is a factor on the first convolution."
    torch.manual_seed(0)
    data = norm_faces(64, 1)
    net = face_network(nn.BatchNorm2d)
    batches = [b["image"] for b in data.batches(64)]
    reestimate_statistics(net.eval(), batches)
    before = net(data.images / 255)
    dark = [0.3 * x for x in batches]
    assert (net(dark[0]) - before).abs().max() > 1e-2
    reestimate_statistics(net, dark)
    assert_close(net(dark[0]), before, rtol=1e-2, atol=1e-2)
    assert error_px(net, data, 32) > 0
