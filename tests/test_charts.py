"Curves whose best epoch is the right one, and a table in which nothing is made up and text stays text."

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from kpnb.charts import compare_table, plot_history

EPOCHS = np.arange(1, 41)
FRAME = pd.DataFrame(
    {
        "epoch": EPOCHS,
        "train_loss": 0.5 * 0.88**EPOCHS + 1e-3,
        "valid_loss": 0.5 * 0.88**EPOCHS + 4e-3 + 2e-6 * np.maximum(0, EPOCHS - 24) ** 3,
        "R": 1 - 0.9**EPOCHS,
    }
)
FIRST = FRAME.valid_loss.idxmin() + 1


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def ring(ax):
    return ax.lines[-1].get_xdata()[0]


def test_the_ring_stands_on_the_lowest_point_of_the_last_curve():
    ax = plot_history(FRAME)
    mark = next(line for line in ax.lines if line.get_label().startswith("best"))
    assert mark.get_xydata()[0] == pytest.approx([FIRST, FRAME.valid_loss.min()])
    assert mark.get_label() == f"best: {FRAME.valid_loss.min():.3g} in epoch {FIRST}"
    assert (ax.get_yscale(), ax.get_xlabel()) == ("log", "epoch")


def test_a_history_may_be_a_frame_hold_one_or_be_rows_or_columns():
    history = type("History", (), {"df": FRAME})()
    for same in (FRAME, history, FRAME.to_dict("records"), FRAME.to_dict("list")):
        assert (plot_history(same).lines[1].get_ydata() == FRAME.valid_loss.values).all()
    ax = plot_history(FRAME.drop(columns="epoch"), keys=["R"], best="max", log=True)
    assert (ax.lines[0].get_xdata()[0], ring(ax)) == (1, 40)


def test_a_history_that_knows_its_best_epoch_is_believed():
    known = type("History", (), {"df": FRAME, "best_epoch": 12})()
    assert ring(plot_history(known)) == 12
    assert ring(plot_history(known, best="min")) == FIRST
    assert ring(plot_history(FRAME, best="max")) == 1


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


def test_values_that_have_no_logarithm_get_a_plain_axis():
    ax = plot_history({"train_loss": [1.0, 0.0, -1.0]})
    assert (ax.get_yscale(), len(ax.lines)) == ("linear", 2)


@pytest.mark.parametrize(
    "history, options, words",
    [
        (FRAME, dict(keys=["valid_los"]), r"no column \['valid_los'\]; found train_loss, valid_loss, R"),
        ({"loss": [1, 2]}, {}, "no column train_loss or valid_loss"),
        (FRAME, dict(best="lowest"), "best is 'lowest'"),
    ],
)
def test_histories_that_are_refused(history, options, words):
    with pytest.raises(ValueError, match=words):
        plot_history(history, **options)


SOURCE = "Example et al. (https://example.org/paper)"
ROWS = [
    dict(
        what="nose error",
        unit="px",
        data="test faces",
        baseline=7.123456,
        reported="0.9",
        source=SOURCE,
        measured=torch.tensor(0.8123456),
    ),
    dict(what="nose error", unit="px", data="no augmentation", baseline=7.123456, measured=(1.31, 0.04)),
]


def test_numbers_are_rounded_for_reading_and_what_is_missing_is_a_dash():
    table = compare_table(ROWS)
    assert table.df["measured here"].tolist() == ["0.8123", "1.31 ± 0.04"]
    assert table.df["reported"].tolist() == ["0.9", "–"] and table.df["source"][1] == "–"
    assert repr(table).splitlines()[2].split("  ")[0] == "nose error (px)"
    assert compare_table([dict(what="a", value=float("nan"))]).df["measured here"][0] == "nan"


def test_a_value_is_reported_if_it_has_a_source_and_else_measured():
    table = compare_table([dict(what="x", value=0.1, source="s"), dict(what="y", value=2048)])
    assert table.df[["reported", "measured here"]].values.tolist() == [["0.1", "–"], ["–", "2,048"]]


@pytest.mark.parametrize(
    "rows, error, words",
    [
        (
            [dict(what="a"), dict(what="b", reported=1.0)],
            ValueError,
            r"row 1 \(b\) has a reported number without its source",
        ),
        ([dict(what="a", mesured=1.0)], ValueError, "row 0 has the key 'mesured'"),
        ([dict(value=1.0)], ValueError, "does not say what was measured"),
        ([dict(what="a", value=[0.0, 0.0, 0.0])], TypeError, "is not a number"),
    ],
)
def test_rows_that_are_refused(rows, error, words):
    with pytest.raises(error, match=words):
        compare_table(rows)


BAD = '<img src=x onerror="alert(1)">\'&'


def test_everything_that_a_table_shows_is_escaped():
    row = dict(what=BAD, unit=BAD, data=BAD, baseline=BAD, measured=BAD, reported=BAD, source=BAD)
    page = compare_table(
        [row, row | dict(source=f'{BAD} (https://example.org/"{BAD})')], caption=BAD
    )._repr_html_()
    assert "<img" not in page and 'onerror="' not in page and page.count("&lt;img") >= 14
    script = compare_table([dict(what="a", reported=1, source="x (javascript:alert(1))")])._repr_html_()
    assert "href" not in script  # only https becomes a link
    assert '<td style="text-align:left;padding:2px 12px"><a href="https://example.org/paper">' in (
        compare_table(ROWS)._repr_html_()
    )
    assert compare_table([dict(what="a<b", value=3)])._repr_html_().count("a&lt;b") == 1
