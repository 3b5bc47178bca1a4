"The style: on inside a block, off after it, and no wider than a notebook's column."

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from kpnb.style import COLOURS, STYLE, figure, label_colours, style, use_style


@pytest.fixture(autouse=True)
def as_before():
    before = dict(mpl.rcParams)
    yield
    mpl.rcParams.update(before)
    plt.close("all")


def test_the_style_holds_inside_the_block_only():
    before = dict(mpl.rcParams)
    with pytest.raises(KeyError), style():
        assert not mpl.rcParams["axes.spines.top"]
        raise KeyError
    assert dict(mpl.rcParams) == before
    use_style()
    assert not mpl.rcParams["legend.frameon"]


def test_what_a_backend_sets_inside_the_block_stays():
    assert "interactive" not in STYLE
    was, before = mpl.rcParams["interactive"], dict(mpl.rcParams)
    with style():
        mpl.interactive(not was)
    assert mpl.rcParams["interactive"] is not was
    mpl.interactive(was)
    assert dict(mpl.rcParams) == before


def test_figures_have_the_size_that_is_asked_for_and_no_more_than_a_column():
    fig, axes = figure(2, height=2.6)
    assert [len(axes), *fig.get_size_inches()] == [2, 9.0, 2.6]
    assert isinstance(figure()[1], Axes)
    with pytest.raises(ValueError, match="0 columns"):
        figure(0)


def test_labels_have_different_colours():
    assert len(np.unique(label_colours(25), axis=0)) == 25
    assert label_colours(3)[0].tolist() == [0, 0, 0]
    assert mpl.colors.to_hex(label_colours(3)[1]).upper() == COLOURS["orange"]
    with pytest.raises(ValueError, match="26 labels"):
        label_colours(26)
