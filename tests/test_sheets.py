"Contact sheets: every point of every picture is drawn, and what is hidden or left over is not."

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from test_plot import marked, parts

from kpnb.scenes import faces
from kpnb.sheets import plot_batch

DS = faces(12, size=40, seed=6)
BATCH = next(DS.batches(6, device="cpu"))
GUESSES = BATCH["keypoints"] + 1


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_every_point_is_drawn_and_the_hidden_ones_are_hollow():
    axes = plot_batch(DS)
    assert axes.shape == (2, 6)
    hollow = sum(len(l.get_xdata()) for ax in axes.flat for l in ax.lines if l.get_mfc() == "none")
    assert hollow == (~DS.visible).sum() > 0
    for ax, points in zip(axes.flat, DS.keypoints):
        assert np.sort(marked(ax, "o"), 0) == pytest.approx(np.sort(points.numpy(), 0), abs=1e-5)


def test_predictions_and_titles_stand_on_their_pictures():
    axes = plot_batch(BATCH, pred=GUESSES, titles=[f"picture {i}" for i in range(6)])
    assert (axes.shape, axes[0, 2].get_title()) == ((1, 6), "picture 2")
    assert len(marked(axes[0, 1], "X")) == GUESSES.shape[1]


def test_what_is_left_over_of_a_sheet_is_switched_off():
    axes = plot_batch(DS.images, 4, cols=3)
    assert (axes.shape, axes[1, 2].axison, len(axes[1, 2].images)) == ((2, 3), False, 0)


def test_masks_lie_over_the_pictures_and_below_the_points():
    axes = plot_batch(DS, 3, masks=True)
    assert (len(axes[0, 1].images), len(marked(axes[0, 1], "o"))) == (2, DS.keypoints.shape[1])


def test_a_contact_sheet_shows_the_same_whatever_hidden_points_hold():
    ds = faces(3, 40, seed=2, masks=False)
    seen = ds.visible.clone()
    seen[:, ::4] = False
    sheets = [
        plot_batch(
            {"image": ds.images, "keypoints": torch.where(seen[..., None], ds.keypoints, p), "visible": seen}
        )
        for p in (math.nan, -1.0, 1e9)
    ]
    first, *others = [[parts(ax) for ax in sheet.flat] for sheet in sheets]
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    "data, options, words",
    [
        (DS, dict(pred=GUESSES), "pred: found 6; expected one for each of the 12"),
        ({"x": 1}, {}, "no 'image'; found x"),
        (DS.images[0], {}, r"expected images \(N,C,H,W\)"),
        (BATCH["image"], dict(masks=True), "there are none"),
        (DS[:0], {}, "no picture"),
    ],
)
def test_what_is_refused(data, options, words):
    with pytest.raises(ValueError, match=words):
        plot_batch(data, **options)
