"Measures with known values, whatever stands in the places of points that cannot be seen."

import math
import subprocess
import sys

import pytest
import torch

from kpnb.core import make_generator
from kpnb.metrics import (
    IBUG_PUPILS,
    PCKCurve,
    distances,
    failure_rate,
    mae,
    mse,
    nme,
    normaliser,
    pck,
    per_point_error,
    picture_errors,
    plot_pck,
)

EMPTY = [math.nan, 0.0, -1.0, 1e9]
TARGET = torch.tensor([[[10.0, 10], [40, 10], [10, 50], [40, 50], [25, 30]]])
SEEN = torch.tensor([[True, True, True, True, False]])


def with_hole(place):
    target = TARGET.clone()
    target[~SEEN] = place
    return target


@pytest.mark.parametrize("place", EMPTY)
def test_the_box_of_nme_is_around_the_visible_points_only(place):
    assert nme(TARGET + torch.tensor([3.0, 4.0]), with_hole(place), SEEN, "box") == pytest.approx(
        5 / math.sqrt(30 * 40)
    )


@pytest.mark.parametrize("place", EMPTY)
def test_pck_by_box_does_not_grow_with_a_missing_point(place):
    curve = pck(TARGET + torch.tensor([3.0, 4.0]), with_hole(place), SEEN, "box")
    assert curve.at(0.14) == 0.0 and curve.at(0.15) == 1.0
    assert (curve.n_used, curve.n_ignored) == (4, 1)


def test_the_length_may_lie_between_the_middles_of_two_groups_of_points():
    target = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [30.0, 3.0], [34.0, 3.0], [2.0, 6.0]]])
    assert normaliser(target, eyes=(range(2), (2, 3))).item() == pytest.approx(math.hypot(30, 3))
    assert normaliser(target, eyes=([0, 1, 4], (2, 3))).item() == pytest.approx(math.hypot(30, 1))
    assert normaliser(target, eyes=(0, 3)).item() == pytest.approx(math.hypot(34, 3))
    seen = torch.tensor([[True, True, True, False, True]])
    assert normaliser(target, eyes=(range(2), (2, 3)), visible=seen).isnan().all()
    for eyes in ((range(2), ()), (range(2), (3, 9)), (0, 1, 2)):
        with pytest.raises(ValueError, match="two groups of them"):
            normaliser(target, eyes=eyes)
    many = torch.rand(3, 68, 2, generator=make_generator(0)) * 90
    pupils = many[:, 36:42].mean(1) - many[:, 42:48].mean(1)
    assert torch.allclose(normaliser(many, eyes=IBUG_PUPILS), pupils.norm(dim=-1).double(), rtol=1e-5)


def test_a_length_between_eyes_that_cannot_be_seen_is_not_used():
    two = TARGET.repeat(2, 1, 1)
    seen = torch.tensor([[True] * 5, [True, False, True, True, True]])
    for place in EMPTY:
        target = torch.where(seen[..., None], two, place)
        length = normaliser(target, eyes=(0, 1), visible=seen)
        assert length[0] == 30 and length[1].isnan()
        error = nme(two + torch.tensor([3.0, 4.0]), target, seen, eyes=(0, 1))
        assert error == pytest.approx(5 / 30) and (error.n_used, error.n_ignored) == (5, 5)


def test_a_picture_with_one_visible_point_has_no_box_and_is_counted_as_ignored():
    two = TARGET.repeat(2, 1, 1)
    seen = torch.tensor([[True] * 5, [True, False, False, False, False]])
    error = nme(two + torch.tensor([3.0, 4.0]), two, seen, "box")
    assert error == pytest.approx(5 / math.sqrt(30 * 40)) and (error.n_used, error.n_ignored) == (5, 5)


def test_normaliser_refuses_a_visible_point_without_a_place_and_boxes_that_are_inside_out():
    with pytest.raises(
        ValueError, match="picture 0, point 4 is marked visible, but its target is not a number"
    ):
        normaliser(with_hole(math.nan), "box", visible=torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"visible: found float32 \(1, 5\); expected bool"):
        normaliser(TARGET, "box", visible=SEEN.float())
    with pytest.raises(ValueError, match="box 0 is .* expected left < right"):
        normaliser(TARGET, "box", boxes=torch.tensor([[40.0, 50, 10, 10]]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float16, torch.float64])
def test_lengths_of_whole_number_coordinates_are_exact(dtype):
    target = TARGET.to(dtype)
    assert normaliser(target, "image", size=(90, 91)).item() == pytest.approx(math.sqrt(90 * 91), rel=1e-12)
    assert normaliser(target, "box").item() == pytest.approx(math.sqrt(1200), rel=1e-12)
    assert normaliser(target, eyes=(1, 0)).item() == 30
    boxes = torch.tensor([[5, 5, 10, 19]]).to(dtype)
    assert normaliser(target, "box", boxes=boxes).item() == pytest.approx(math.sqrt(70), rel=1e-12)


def stairs(**kw):
    "Ten points with errors of 1, 2, ... 10 % of the length."
    truth = torch.stack([torch.arange(10) * 10.0, torch.zeros(10)], -1)[None]
    pred = truth + torch.stack([torch.zeros(10), torch.arange(1, 11.0)], -1)
    return pck(pred, truth, norm="image", size=(100, 100), **kw)


def test_pck_at_is_exact_at_between_and_beyond_the_thresholds():
    curve = stairs(up_to=0.05, steps=3)
    for threshold, share in [
        (0, 0),
        (0.0099, 0),
        (0.01, 0.1),
        (0.0349, 0.3),
        (0.05, 0.5),
        (0.051, 0.5),
        (0.1, 1),
        (0.5, 1),
    ]:
        assert curve.at(threshold) == share, threshold
    for threshold, share in zip(curve.thresholds.tolist(), curve.share.tolist()):
        assert curve.at(threshold) == pytest.approx(share)


def test_pck_at_half_the_length_is_not_that_at_a_fifth():
    target = TARGET.repeat(1, 2, 1)
    away = torch.where(torch.arange(10)[:, None] < 5, 0.1, 0.4) * torch.tensor([100.0, 0.0])
    curve = pck(target + away, target, norm="image", size=(100, 100))
    assert (curve.at(0.2), curve.at(0.5)) == (0.5, 1.0)


def test_a_curve_without_errors_says_which_thresholds_it_knows():
    bare = PCKCurve(torch.tensor([0.1, 0.2]), torch.tensor([0.5, 0.75]), 0.0, 4, 0)
    assert (bare.at(0.1), bare.at(0.2)) == (0.5, 0.75)
    for unknown in (0.15, 0.5, 0.05):
        with pytest.raises(ValueError, match="only 2 thresholds from 0.1 to 0.2"):
            bare.at(unknown)
    for wrong in (-0.1, math.nan):
        with pytest.raises(ValueError, match="expected a share of the length, from 0"):
            stairs().at(wrong)


def test_a_threshold_beyond_the_drawn_curve_is_marked_at_its_true_share():
    ax = plot_pck(stairs(up_to=0.05), threshold=0.08)
    x, y = ax.lines[-1].get_data()
    assert (x[0], y[0]) == (pytest.approx(8), pytest.approx(80))


def test_measures_are_right_on_random_faces_with_random_holes():
    for seed in range(20):
        g = make_generator(seed)
        n, k = 4, 7
        target = torch.rand(n, k, 2, generator=g) * 80
        pred = target + torch.randn(n, k, 2, generator=g)
        seen = torch.rand(n, k, generator=g) < 0.7
        seen[:, :2] = True
        place = EMPTY[seed % 4]
        errors = picture_errors(
            torch.where(seen[..., None], pred, place),
            torch.where(seen[..., None], target, place),
            seen,
            "box",
        )
        for i in range(n):
            p, t = pred[i, seen[i]].double(), target[i, seen[i]].double()
            length = (t.amax(0) - t.amin(0)).prod().sqrt()
            assert errors[i] == pytest.approx(float((p - t).norm(dim=1).mean() / length), rel=1e-6)
        assert failure_rate(errors, float(errors.median())).n_used == n


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_measures_of_whole_numbers_are_those_of_the_same_floats(dtype):
    target, pred = TARGET.to(dtype), (TARGET + torch.tensor([3.0, -4.0])).to(dtype)
    for measure in (mse, mae, distances, per_point_error):
        found, expected = (
            torch.as_tensor(measure(p, t)) for p, t in ((pred, target), (pred.double(), target.double()))
        )
        assert torch.allclose(found.double(), expected.double(), rtol=1e-12), measure
    assert mse(pred, target) == 12.5 and mae(pred, target, size=(40, 30)) == pytest.approx(0.1)
    assert distances(pred, target).tolist() == [[5.0] * 5]


def test_a_measure_needs_no_drawing_and_no_other_module():
    command = [sys.executable, "-c", "import sys, kpnb.metrics; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert [m for m in loaded if m.startswith("kpnb.")] == ["kpnb.metrics"]
    assert not {"matplotlib", "pandas"} & {*loaded}
