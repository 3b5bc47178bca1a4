"PNG files of figures, whose layout stays, and of pictures and overlays, which are what they show."

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from kpnb.png import overlay_png, picture_png, side_by_side, to_png
from kpnb.scenes import faces
from kpnb.style import figure, style

FACE = faces(1, size=96, seed=6).images[0]


@pytest.fixture(autouse=True)
def in_style():
    with style():
        yield
    plt.close("all")


def read(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def panel(top, title):
    fig, axes = figure(2, width=6, height=2.4)
    axes[0].plot([0, top])
    axes[0].set(xlabel="step", ylabel="loss", title=title)
    axes[1].imshow(np.eye(3))
    axes[1].axis("off")
    return fig


def titled(value):
    fig = panel(value, "a")
    fig.suptitle(f"value {value}")
    fig.text(value / 2000, 0.5, "here")
    return fig


def places(fig):
    return np.concatenate([ax.get_window_extent().extents for ax in fig.axes])


def test_a_figure_has_the_size_that_it_says():
    fig, ax = figure(height=2.5)
    ax.plot([0, 1], [0, 1])
    png, width, height = to_png(fig)
    assert png[:4] == b"\x89PNG" and read(png).shape == (height, width, 3) == (250, 500, 3)


def test_axes_lie_where_the_full_layout_would_put_them():
    known, kinds, pictures = {}, [], {}
    for top, title in [
        (1, "a"),
        (1, "b"),
        (2000, "b"),
        (1990, "c"),
        (1, "two\nlines"),
        (1, "b"),
        (2000, "b"),
        (1, "a"),
    ]:
        fig, full = panel(top, title), panel(top, title)
        png = to_png(fig, known)
        full.canvas.draw()
        assert abs(places(fig) - places(full)).max() < 4
        assert type(fig.get_layout_engine()) is ConstrainedLayoutEngine and fig.axes[0].get_in_layout()
        assert png == pictures.setdefault((top, title), png)  # the same values, the same picture
        kinds.append(len(known))
    assert kinds == [1, 1, 2, 2, 3, 3, 3, 3]


def test_no_layout_and_no_tick_is_worked_out_again_and_no_pixel_differs():
    known, first = {}, {}
    for value in (1100, 1900, 1100, 1500):
        fig = titled(value)
        png = to_png(fig, known)
        assert png == first.setdefault(value, png)
        fig.set_layout_engine("none")  # by matplotlib alone, at the positions that it has
        assert png == to_png(fig)
        full = titled(value)
        full.canvas.draw()
        for text, other in zip(fig.texts, full.texts):
            assert np.allclose(text.get_position(), other.get_position(), atol=0.01)
    assert len(known) == 1 and "_update_ticks" not in vars(fig.axes[0].xaxis)


@pytest.mark.parametrize(
    "image", [FACE, FACE.permute(1, 2, 0), FACE / 255, (FACE / 255).numpy(), FACE[:1], FACE[0]]
)
def test_a_picture_is_what_it_was(image):
    png, width, height = picture_png(image)
    expected = FACE.permute(1, 2, 0).numpy()
    assert (width, height) == (96, 96)
    assert (read(png) == (expected if 3 in image.shape else expected[..., 0])).all()


@pytest.mark.parametrize(
    "image, words",
    [
        (FACE[None], r"shape \(1, 3, 96, 96\)"),
        (FACE.float(), "floats must lie in 0 to 1"),
        (FACE.int(), "type int32"),
        (FACE / 255 * torch.nan, "nan"),
    ],
)
def test_what_is_no_picture_is_refused(image, words):
    with pytest.raises(ValueError, match=words):
        picture_png(image)


HEAT = torch.zeros(4, 6)
HEAT[1, 2] = 0.5


def test_an_overlay_is_clear_where_it_is_0():
    alpha = read(overlay_png(HEAT))[..., 3]
    assert alpha.shape == (4, 6) and alpha.max() == 255 and (alpha > 0).sum() == 1
    assert read(overlay_png(np.array([[0, 1, 255]])))[0, :, 3].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    "overlay, words",
    [
        (-HEAT, "must not be negative"),
        (np.array([[99]]), "labels from 99"),
        (HEAT[0], r"shape \(6,\)"),
        (HEAT.bool().numpy().astype(complex), "type complex128"),
    ],
)
def test_what_is_no_overlay_is_refused(overlay, words):
    with pytest.raises(ValueError, match=words):
        overlay_png(overlay)


def test_pictures_stand_in_a_row_on_white():
    small, large = (picture_png(torch.zeros(h, w, dtype=torch.uint8))[0] for h, w in ((2, 3), (4, 5)))
    row = read(side_by_side([small, large]))
    assert row.shape == (4, 8, 3) and row[:2].max() == 0 and row[2:, :3].min() == 255
    assert side_by_side([small]) == small
