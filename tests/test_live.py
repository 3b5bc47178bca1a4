"`live` in the session: what `draw` may return, short forms of controls, their ends, and what is left behind."

import gc

import ipywidgets as W
import matplotlib.pyplot as plt
import numpy as np
import pytest

from kpnb.live import Live, live, sample_slider
from kpnb.style import figure


@pytest.fixture
def as_reader(monkeypatch):
    monkeypatch.delenv("IN_TEST", raising=False)


def small(**values):
    return figure(width=2, height=1)[1]


def drawn(draw, **controls):
    viewer = Live(draw, controls)
    viewer.redraw()
    viewer.close()
    return viewer


@pytest.mark.parametrize(
    "form",
    [
        lambda fig, ax: fig,
        lambda fig, ax: ax,
        lambda fig, ax: np.array([[ax]]),
        lambda fig, ax: (fig, ax),
        lambda fig, ax: [ax],
        lambda fig, ax: None,
    ],
)
def test_draw_may_return_a_figure_or_axes_in_any_form_or_leave_a_figure_behind(as_reader, form):
    assert drawn(lambda: form(*plt.subplots(figsize=(2, 1)))).error is None
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    "result, words",
    [(None, "draw returned None, and drew no figure"), ("a plot", "draw returned a value of type str")],
)
def test_what_is_no_picture_is_an_error(as_reader, result, words):
    assert words in str(drawn(lambda: result).error)


def test_short_forms_become_widgets_with_a_label():
    forms = [(0, 9), (0.0, 1.0, 0.1), [1, 2], True, "a", W.IntText()]
    kinds = [type(Live(small, {"x": v}).controls["x"]).__name__ for v in forms]
    assert kinds == ["IntSlider", "FloatSlider", "Dropdown", "Checkbox", "Text", "IntText"]
    controls = Live(small, {"learning_rate": (0, 9), "x": W.IntSlider(description="step")}).controls
    assert [c.description for c in controls.values()] == ["learning rate", "step"]
    controls = Live(small, {"x": (0, 9), "y": W.IntSlider(tooltip="mine")}).controls
    assert [c.tooltip for c in controls.values()] == ["x", "mine"]


@pytest.mark.parametrize("value", [object(), W.HBox([])])
def test_what_is_no_control_is_refused(value):
    with pytest.raises(TypeError, match="the control x is .* expected an ipywidget with a value"):
        Live(small, {"x": value})


@pytest.mark.parametrize(
    "widget, ends",
    [
        (W.IntSlider(1, min=-3, max=7), [-3, 7]),
        (W.FloatLogSlider(1, min=-2, max=3), [0.01, 1000.0]),
        (W.Dropdown(options=[("one", 1), ("two", 2), ("three", 3)]), [2, 3]),
        (W.SelectionSlider(options=range(100), value=5), [0, 99]),
        (W.Checkbox(False), [True]),
        (W.Text("a"), []),
        (W.FloatRangeSlider(value=(1, 2), min=0, max=5), [(0.0, 5.0)]),
        (W.SelectMultiple(options="ab", value=("a",)), [(), ("a", "b")]),
        (W.SelectionRangeSlider(options="abc", index=(0, 1)), [("a", "c")]),
        (W.Dropdown(options=[("a", (1, 2)), ("b", (3, 4))]), [(3, 4)]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_test_run_draws_at_the_first_values_and_at_the_ends(monkeypatch, widget, ends):
    monkeypatch.setenv("IN_TEST", "1")
    tried = []

    def note(x):
        tried.append(x)
        return small()

    first = widget.value
    live(note, x=widget)
    assert tried == [first, *ends]


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_not_collected_while_drawing_and_afterwards_as_before(as_reader, collects):
    inside = []

    def draw(fails):
        inside.append(gc.isenabled())
        if fails:
            raise ValueError
        return small()

    was = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        for fails in (False, True):
            drawn(draw, fails=fails)
            assert gc.isenabled() == collects
    finally:
        (gc.enable if was else gc.disable)()
    assert inside == [False, False]


def test_a_slider_for_samples():
    s = sample_slider("abcde", 2)
    assert (s.min, s.max, s.value, s.description) == (0, 4, 2, "sample")
    with pytest.raises(ValueError, match="sample 0 of 0"):
        sample_slider(0)
