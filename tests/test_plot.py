"Drawings whose parts are counted: what cannot be seen moves nothing, and what is no picture is refused."

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from kpnb.core import VOID
from kpnb.plot import plot_heatmap, plot_keypoints, plot_mask
from kpnb.style import COLOURS, label_colours

IMAGE = torch.zeros(1, 40, 60)
POINTS = torch.tensor([[10.0, 10], [50.0, 10], [30.0, 25], [20.0, 30]])
SEEN = torch.tensor([True, True, True, False])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def parts(ax):
    "Markers, error lines, names with their side, and limits of a drawing."
    marks = sorted((line.get_marker(), *np.round(xy, 3)) for line in ax.lines for xy in line.get_xydata())
    errors = sorted(
        np.round(segment, 3).ravel().tolist() for c in ax.collections for segment in c.get_segments()
    )
    names = [(t.get_text(), t.get_ha()) for t in ax.texts]
    return marks, errors, names, ax.get_xlim(), ax.get_ylim()


def marked(ax, marker):
    "Places (N,2) of the markers of one kind."
    return np.concatenate(
        [l.get_xydata() for l in ax.lines if l.get_marker() == marker] or [np.zeros((0, 2))]
    )


def drawn(place, **kw):
    points = POINTS.clone()
    points[~SEEN] = place
    return parts(plot_keypoints(IMAGE, points, visible=SEEN, **kw))


@pytest.mark.parametrize("place", [-1.0, 1e9, -1e9, math.inf])
def test_a_hidden_point_outside_the_picture_is_drawn_like_one_that_is_nan(place):
    for kw in ({}, dict(pred=POINTS + 2), dict(names="abcd"), dict(pairs=[(0, 1)], legend=True)):
        marks, errors, names, *limits = drawn(place, **kw)
        expected = drawn(math.nan, **kw)
        assert (marks, errors, names, *limits) == expected


def test_hidden_points_change_no_mark_line_or_name_of_the_others():
    kw = dict(pred=POINTS + 2, names="abcd")
    there, gone = drawn(POINTS[~SEEN], **kw), drawn(math.nan, **kw)
    for a, b in zip(there[:3], gone[:3]):
        assert [x for x in a if x in b] == b
    assert (
        len(there[0]) == len(gone[0]) + 1 and len(there[1]) == len(gone[1]) + 2
    )  # its ring, and its line in white and colour
    assert there[3:] == gone[3:] == ((0, 60), (40, 0))


def test_names_stand_on_the_outside_of_the_visible_points():
    sides = dict(drawn(torch.tensor([0.0, 0.0]), names="abcd")[2])
    assert sides == {"a": "right", "b": "left", "c": "left", "d": "right"}
    assert dict(drawn(torch.tensor([59.0, 39.0]), names="abcd")[2]) == sides | {"d": "left"}


def test_a_hidden_point_in_the_picture_is_a_ring():
    ax = plot_keypoints(IMAGE, POINTS, visible=SEEN)
    rings = [line for line in ax.lines if line.get_mfc() == "none"]
    assert len(rings) == 1 and rings[0].get_xydata().tolist() == [[20, 30]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64])
def test_points_of_any_type_are_drawn_in_place(dtype):
    assert parts(plot_keypoints(IMAGE, POINTS.to(dtype), pred=(POINTS + 2).to(dtype))) == parts(
        plot_keypoints(IMAGE, POINTS, pred=POINTS + 2)
    )


def test_void_pixels_of_a_mask_are_called_unknown():
    ax = plot_mask(
        None, torch.tensor([[0, 1], [VOID, 1]]), names=["background", "hair"], ax=plot_keypoints(IMAGE)
    )
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["background", "hair", "unknown"]


def shown(image):
    "What `plot_keypoints` gives to matplotlib for a picture."
    return np.asarray(plot_keypoints(image).images[0].get_array())


def test_pictures_of_many_kinds_are_shown():
    assert shown(torch.zeros(3, 4, 5)).shape == (4, 5, 3)
    assert shown(torch.ones(1, 4, 5, requires_grad=True)).shape == (4, 5)
    assert shown(torch.ones(4, 5).bool()).max() == 1.0
    assert shown(torch.full((4, 5), 0.5, dtype=torch.bfloat16))[0, 0] == 0.5


@pytest.mark.parametrize(
    "image, words",
    [
        (torch.zeros(2, 3, 4, 5), "take one picture of the batch"),
        (np.zeros((4, 5, 3)), "are its channels last?"),
        (torch.linspace(-3, 3, 243).view(3, 9, 9), "undo a normalisation"),
        (torch.full((3, 9, 9), math.nan), "values from nan"),
        (torch.full((9, 9), 200), "type int64"),
    ],
)
def test_what_is_no_picture_is_refused(image, words):
    with pytest.raises(ValueError, match=words):
        plot_keypoints(image)


def test_sides_have_their_colours_and_one_line_each_in_the_legend():
    ax = plot_keypoints(IMAGE, POINTS, pairs=[(0, 1)], visible=[1, 1, 1, 0], legend=True)
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == ["left", "right", "truth", "truth, not visible"]
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["left"].get_mfc() == COLOURS["sky"]
    assert lines["left"].get_xydata().tolist() == [[10, 10]]
    assert lines["truth, not visible"].get_mfc() == "none"


@pytest.mark.parametrize(
    "points, options, words",
    [
        (POINTS[0], {}, r"points has the shape \(2,\); expected \(N,2\)"),
        (POINTS, dict(pred=POINTS[:3]), r"pred has the shape \(3, 2\); expected \(4,2\)"),
        (POINTS, dict(visible=[True]), r"visible has the shape \(1,\); expected \(4,\)"),
        (POINTS, dict(names=["nose"]), "names: found 1; expected 4"),
    ],
)
def test_points_that_are_refused(points, options, words):
    with pytest.raises(ValueError, match=words):
        plot_keypoints(IMAGE, points, **options)


def test_a_prediction_and_its_error_are_drawn_where_both_are_known():
    lost = POINTS.clone()
    lost[1] = math.nan
    ax = plot_keypoints(IMAGE, lost, pred=POINTS + 2)
    assert len(marked(ax, "o")) == 3 and marked(ax, "X") == pytest.approx(POINTS.numpy() + 2)
    there = [0, 2, 3]
    lines = np.stack([POINTS[there], POINTS[there] + 2], 1)
    assert np.allclose(ax.collections[0].get_segments(), lines)


HEAT = torch.zeros(8, 12)
HEAT[2, 3], HEAT[5, 6] = 2.0, 0.5


def layer(ax):
    return ax.images[1].get_array()


def test_a_heatmap_is_stretched_over_the_picture_and_clear_where_it_is_low():
    ax = plot_heatmap(IMAGE, HEAT)
    alpha = layer(ax)[..., 3]
    assert ax.images[1].get_extent() == [0, 60, 40, 0]
    assert np.unravel_index(alpha.argmax(), alpha.shape) == (2, 3)
    assert alpha.max() == pytest.approx(0.85) and (alpha > 0).sum() == 2
    assert layer(plot_heatmap(IMAGE, torch.zeros(6, 8)))[..., 3].max() == 0
    assert layer(plot_heatmap(IMAGE, torch.tensor([[-2.0, 0.0]]), vmin=-2))[0, 0, 3] == 0


@pytest.mark.parametrize(
    "heatmap, words",
    [
        (HEAT - 1, "pass probabilities"),
        (HEAT.expand(5, 8, 12), r"take heatmap.amax\(0\)"),
        (torch.tensor([[0.1, math.nan]]), "1 values that are NaN"),
    ],
)
def test_heatmaps_that_are_refused(heatmap, words):
    with pytest.raises(ValueError, match=words):
        plot_heatmap(IMAGE, heatmap)


MASK = torch.zeros(40, 60, dtype=torch.int64)
MASK[10:20], MASK[30:] = 2, VOID


def test_labels_have_their_colours_and_the_background_is_clear():
    colours = layer(plot_mask(IMAGE, MASK))
    assert colours[15, 0].tolist() == pytest.approx([*label_colours(3)[2], 0.6])
    assert colours[0, 0, 3] == 0 and colours[35, 0].tolist() == [1, 1, 1, 0.6]
    assert layer(plot_mask(IMAGE, MASK, background=None))[0, 0].tolist() == [0, 0, 0, 0.6]


@pytest.mark.parametrize(
    "mask, names, words",
    [
        (MASK.clamp(max=4), list("abcd"), "mask holds the label 4; expected 0 to 3"),
        (MASK.float(), None, "type float32; expected whole numbers"),
        (MASK[None], None, "one label for each pixel"),
        (MASK[:30], None, r"expected the same \(H,W\)"),
    ],
)
def test_masks_that_are_refused(mask, names, words):
    with pytest.raises(ValueError, match=words):
        plot_mask(IMAGE, mask, names)
