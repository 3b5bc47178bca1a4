"""Dropout of units and of maps against torch: shares, scales, masks, text, warnings and errors."""

import math
import warnings

import pytest
import torch
from test_batch_norm import error_of
from torch import nn
from torch.testing import assert_close

from kpnb.batch_norm import BatchNorm1d, BatchNorm2d
from kpnb.dropout import Dropout, SpatialDropout, replace_layers
from kpnb.exercises.dropout import check_dropout, check_spatial_dropout
from kpnb.models import NoseNet
from kpnb.recipes.norms import dropout_network, face_network

RATES = [0.0, 0.1, 0.5, 0.8, 1.0]


def shares_agree(dropped, p):
    "whether a share of zeros is compatible with probability p: wrong less than once in a million runs"
    return abs(dropped.float().mean().item() - p) <= 5 * math.sqrt(p * (1 - p) / dropped.numel())


@pytest.mark.parametrize("p", RATES)
def test_units_are_dropped_each_for_itself_and_the_others_scaled(p):
    torch.manual_seed(1)
    x = torch.randn(64, 32, 10).abs() + 1
    y = Dropout(p)(x)
    assert shares_agree(y == 0, p)
    assert_close(y[y != 0], (x / (1 - p + (p == 1)))[y != 0])
    for axis in range(3):  # no two rows, columns or examples share their mask
        a, b = (y.select(axis, i) == 0 for i in (0, 1))
        assert shares_agree(a & b, p * p)


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("kind", [SpatialDropout, nn.Dropout2d])
def test_maps_are_dropped_whole_each_for_itself(p, kind):
    torch.manual_seed(1)
    x = torch.randn(200, 50, 3, 4).abs() + 1
    y = kind(p)(x)
    gone = (y == 0).flatten(2)
    assert (gone.all(-1) == gone.any(-1)).all()
    first = gone[..., 0]
    assert shares_agree(first, p)
    assert shares_agree(first[0::2] & first[1::2], p * p)
    assert shares_agree(first[:, 0::2] & first[:, 1::2], p * p)
    assert_close(y[y != 0], (x / (1 - p + (p == 1)))[y != 0])


@pytest.mark.parametrize("kind, shape", [(Dropout, (5, 8)), (SpatialDropout, (4, 3, 2, 2))])
def test_in_use_and_at_rate_0_nothing_happens_and_no_random_number_is_drawn(kind, shape):
    x = torch.ones(shape)
    state = torch.get_rng_state()
    assert kind(0.5).eval()(x) is x and kind(0.0)(x) is x
    assert (torch.get_rng_state() == state).all()
    assert not kind(1.0)(x).any()


def test_the_seed_decides_and_in_place_is_in_place():
    x = torch.randn(5, 8)
    torch.manual_seed(3)
    first = Dropout(0.5)(x)
    torch.manual_seed(3)
    assert_close(Dropout(0.5)(x), first)
    changed = x.clone()
    assert Dropout(0.5, inplace=True)(changed) is changed and (changed == 0).any()
    x = torch.ones(4, 3, 2, 2)
    assert SpatialDropout(0.5, inplace=True)(x) is x


def test_the_mean_is_kept_and_the_variance_grows_by_the_formula():
    torch.manual_seed(0)
    x = torch.full((400, 500), 3.0)
    for p in (0.2, 0.5, 0.9):
        y = Dropout(p)(x)
        assert abs(y.mean() - 3) < 0.1 and abs(y.var() / (9 * p / (1 - p)) - 1) < 0.05


def test_a_norm_behind_it_records_the_variance_of_training():
    torch.manual_seed(0)
    x, p = torch.randn(100_000, 1) * 2 + 3, 0.3
    norm = nn.Sequential(Dropout(p), BatchNorm1d(1, momentum=1.0))
    norm(x)
    expected = x.var() + p / (1 - p) * x.square().mean()
    assert abs(norm[1].running_var.item() / expected.item() - 1) < 0.02


@pytest.mark.parametrize("kind", [Dropout, SpatialDropout])
def test_rates_outside_0_to_1_are_refused(kind):
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"has to be between 0 and 1, but got {p}"):
            kind(p)
    late = kind(0.5)
    late.p = 2.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        late.eval()(torch.ones(1, 1, 1, 1))


def test_text_and_errors_are_those_of_torch():
    assert repr(Dropout(0.3, True)) == repr(nn.Dropout(0.3, True))
    assert SpatialDropout(0.3, True).extra_repr() == nn.Dropout2d(0.3, True).extra_repr()
    assert error_of(Dropout(), torch.arange(4)) == error_of(nn.Dropout(), torch.arange(4))
    x = torch.randn(5, 4, requires_grad=True)
    assert error_of(Dropout(inplace=True), x) == error_of(nn.Dropout(inplace=True), x)


def test_the_gradient_passes_where_the_value_passed():
    x = torch.randn(50, 40, requires_grad=True)
    y = Dropout(0.25)(x)
    y.sum().backward()
    assert_close(x.grad, (y.detach() != 0).float() / 0.75)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4), (6, 5, 4, 3), (2, 3, 4, 5, 6), (4,)])
@pytest.mark.parametrize("kind", [SpatialDropout, nn.Dropout2d])
@pytest.mark.parametrize("training", [True, False])
def test_maps_of_other_numbers_of_axes_are_warned_of_as_torch_does(shape, kind, training):
    layer = kind(0.5).train(training)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        failed = error_of(lambda: layer(torch.ones(shape)))  # the call stands in this file
    assert failed == (RuntimeError if len(shape) < 2 and training else None)
    assert [w.category for w in caught] == [UserWarning] * (len(shape) != 4)
    if kind is SpatialDropout:
        assert all(w.filename == __file__ for w in caught)  # the warning points at the caller


def test_three_axes_are_rows_of_maps():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gone = SpatialDropout(0.5)(torch.ones(40, 50, 6)) == 0
    assert (gone.all(-1) == gone.any(-1)).all() and shares_agree(gone[..., 0], 0.5)


def test_replaced_layers_compute_the_same():
    net, x = NoseNet(1, (30, 40)), torch.rand(8, 1, 30, 40)
    net(x)
    for mode in (True, False):
        ours = replace_layers(net.train(mode))
        assert_close(ours(x), net(x))
        assert sum(type(m) is BatchNorm2d for m in ours.modules()) == 3
        for k, v in net.state_dict().items():
            assert_close(ours.state_dict()[k], v)


def test_replaced_layers_keep_their_settings():
    inner = nn.Sequential(nn.Dropout(0.1, True), nn.Dropout2d(0.2))
    norms = nn.BatchNorm1d(3, momentum=None), nn.BatchNorm2d(2, affine=False)
    swapped = replace_layers(nn.Sequential(norms[0], inner, norms[1]).eval())
    kinds = [type(m) for m in swapped.modules() if not isinstance(m, nn.Sequential)]
    assert kinds == [BatchNorm1d, Dropout, SpatialDropout, BatchNorm2d]
    first, (unit, spatial), last = swapped[0], swapped[1], swapped[2]
    assert (first.momentum, unit.p, unit.inplace, spatial.p) == (None, 0.1, True, 0.2)
    assert (last.affine, last.training) == (False, False)


def test_torchs_dropout_passes_the_checks_and_mistakes_are_named():
    units, maps = nn.functional.dropout, nn.functional.dropout2d
    assert check_dropout.judge(lambda x, p, training: units(x, p, training))
    assert check_spatial_dropout.judge(lambda x, p, training: maps(x, p, training))
    goes_on = check_dropout.judge(lambda x, p, training: units(x, p, True))
    assert goes_on.named == "if dropout goes on in use"

    def one_mask(x, p, training):
        mask = torch.bernoulli(torch.full(x.shape[1:], 1 - p)) / (1 - p + 1e-30)
        return x * mask if training else x

    assert check_dropout.judge(one_mask).named == "with one mask for the whole batch"


# ---- the networks of the study


@pytest.mark.parametrize("kind, layer", [("unit", nn.Dropout), ("spatial", nn.Dropout2d)])
def test_dropout_stands_where_it_is_said_to_stand(kind, layer):
    def order(place):
        net = dropout_network(kind, place, 0.2)
        return [m for m in net.modules() if type(m) in (layer, nn.BatchNorm2d, nn.Conv2d)]

    def is_drop(m):
        return type(m) is layer

    before, after, last = (order(f"{p} norm") for p in ("before each", "after each", "after the last"))
    assert [sum(map(is_drop, ms)) for ms in (before, after, last)] == [6, 6, 1]
    assert all(type(b) is nn.BatchNorm2d for a, b in zip(before, before[1:]) if is_drop(a))
    assert all(type(a) is nn.BatchNorm2d for a, b in zip(after, after[1:]) if is_drop(b))
    assert is_drop(last[-2]) and type(last[-1]) is nn.Conv2d


def test_networks_of_one_seed_begin_with_the_same_weights():
    torch.manual_seed(0)
    plain = [p.clone() for p in face_network(nn.BatchNorm2d).parameters()]
    for place in ("before each norm", "after each norm", "after the last norm"):
        torch.manual_seed(0)
        for a, b in zip(plain, dropout_network("unit", place, 0.2).parameters()):
            assert (a == b).all()
