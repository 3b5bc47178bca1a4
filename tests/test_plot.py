"Drawings whose parts are counted: what cannot be seen moves nothing, and text from outside stays text."

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from kpnb.core import VOID
from kpnb.plot import compare_table, plot_batch, plot_history, plot_keypoints, plot_mask
from kpnb.scenes import faces

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
    "key, best",
    [("valid_accuracy", 2), ("skill", 2), ("mean IoU", 2), ("valid_loss", 1), ("valid_error_px", 1)],
)
def test_the_ring_of_a_history_is_on_the_best_epoch_of_its_column(key, best):
    history = pd.DataFrame({key: [0.2, 0.9, 0.5]})
    ax = plot_history(history, keys=[key])
    assert ax.lines[-1].get_xdata()[0] == best
    assert plot_history(history, keys=[key], best="max").lines[-1].get_xdata()[0] == 2
    assert plot_history(history, keys=[key], best="min").lines[-1].get_xdata()[0] == 1


BAD = '<img src=x onerror="alert(1)">\'&'


def test_everything_that_a_table_shows_is_escaped():
    row = dict(what=BAD, unit=BAD, data=BAD, baseline=BAD, measured=BAD, reported=BAD, source=BAD)
    page = compare_table(
        [row, row | dict(source=f'{BAD} (https://example.org/"{BAD})')], caption=BAD
    )._repr_html_()
    assert "<img" not in page and 'onerror="' not in page and page.count("&lt;img") >= 14
    script = compare_table([dict(what="a", reported=1, source="x (javascript:alert(1))")])._repr_html_()
    assert "href" not in script  # only https becomes a link


def test_void_pixels_of_a_mask_are_called_unknown():
    ax = plot_mask(
        None, torch.tensor([[0, 1], [VOID, 1]]), names=["background", "hair"], ax=plot_keypoints(IMAGE)
    )
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["background", "hair", "unknown"]
