"Losses of points against torch, their slopes, and hidden points that may hold anything."

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from kpnb.losses import PointLoss, l1, l2, smooth_l1, wing

EMPTY = [math.nan, 0.0, -1.0, 1e9]
LOSSES = [l2, l1, smooth_l1, wing, partial(smooth_l1, beta=7.5), partial(wing, w=4.0, epsilon=1.0)]
D = torch.arange(-1200, 1201).double() * 0.025


@pytest.mark.parametrize("beta", [0.1, 1.0, 7.5])
def test_smooth_l1_is_that_of_torch(beta):
    theirs = F.smooth_l1_loss(D, torch.zeros_like(D), beta=beta, reduction="none")
    assert torch.allclose(smooth_l1(D, beta), theirs, rtol=0, atol=1e-12)


def test_l1_and_l2_are_those_of_torch():
    zero = torch.zeros_like(D)
    assert torch.equal(l1(D), F.l1_loss(D, zero, reduction="none"))
    assert torch.allclose(l2(D), F.mse_loss(D, zero, reduction="none") / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("w, epsilon", [(10.0, 2.0), (4.0, 1.0), (0.5, 3.0)])
def test_the_parts_of_wing_meet(w, epsilon):
    below, above = wing(torch.tensor([w - 1e-9, w + 1e-9], dtype=torch.float64), w, epsilon)
    assert below == pytest.approx(w * math.log(1 + w / epsilon), abs=1e-6)
    assert above == pytest.approx(float(below), abs=1e-6)
    assert wing(torch.tensor([w + 5.0]).double(), w, epsilon) - above == pytest.approx(5, abs=1e-6)


@pytest.mark.parametrize("f", LOSSES)
def test_a_loss_is_even_grows_and_has_the_slope_that_it_says(f):
    y = f(D)
    assert torch.allclose(y, y.flip(0)) and y[1200] == 0 and (y[1200:].diff() > 0).all()
    at = torch.cat([torch.linspace(0.3, 3.7, 9), torch.linspace(10.2, 30, 9)]).double().requires_grad_()
    assert torch.autograd.gradcheck(f, at)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (partial(smooth_l1, beta=0), "beta is 0"),
        (partial(smooth_l1, beta=math.nan), "beta is nan"),
        (partial(wing, w=-1.0), "w is -1.0"),
        (partial(wing, epsilon=0), "epsilon 0"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        wrong(D)


SEEN = torch.tensor([[True, False], [True, True]])


def batch(place):
    points = torch.tensor([[[3.0, 4], [11, 5]], [[30.0, 1], [7, 9]]])
    points[~SEEN] = place
    return {"image": torch.zeros(2, 3, 20, 40), "keypoints": points, "visible": SEEN}


@pytest.mark.parametrize("place", EMPTY)
@pytest.mark.parametrize("f", LOSSES)
def test_a_hidden_point_changes_neither_the_loss_nor_its_gradient(f, place):
    answer = torch.zeros(2, 2, 2, requires_grad=True)  # the middle: (20, 10)
    loss = PointLoss(f)(answer, batch(place))
    differences = torch.tensor([17.0, 6, 10, 9, 13, 1])
    assert float(loss.detach()) == pytest.approx(float(f(differences).mean()), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, answer)
    assert gradient.isfinite().all() and (gradient[~SEEN] == 0).all() and (gradient[SEEN] != 0).all()


def test_point_loss_counts_its_points_and_tells_its_name():
    assert PointLoss(l1).batch_weight(batch(0.0)) == 3
    assert [repr(PointLoss(f)) for f in (wing, l2)] == ["PointLoss(wing)", "PointLoss(l2)"]
    with pytest.raises(ValueError, match=r"the network answers \(2, 1, 2\); expected \(2, 2, 2\)"):
        PointLoss()(torch.zeros(2, 1, 2), batch(0.0))
