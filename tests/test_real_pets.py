"""The recipe for real pets: a study that is resumed, and hidden points."""

import sys

import pytest
from heatmap_cases import (
    as_dataset,
    forgotten,
    hidden_points_change_nothing,
    tiny,
)

from kpnb.recipes import real_pets
from kpnb.recipes.real_pets import pet_curve, pet_noses

pytestmark = pytest.mark.usefixtures("same_weights")


def pets_trained(b):
    data = as_dataset(b, 1)
    return pet_noses(data=(data, data), start=tiny(1), epochs=1, scales=(1.0,), sigma=4.0, progress=False)[
        "pred"
    ]


USES = {  # every public name whose call, or one of its methods, takes labels -> what it makes of a batch
    "pet_noses": pets_trained,
}


def test_no_function_with_labels_is_forgotten_here():
    assert not forgotten(real_pets, USES)


@pytest.mark.parametrize("name", USES)
def test_coordinates_of_hidden_points_change_nothing(name):
    hidden_points_change_nothing(USES[name])


def test_a_curve_is_resumed_only_with_the_settings_of_its_file(tmp_path, monkeypatch):
    asked = []

    def instead(network, pictures, **settings):
        asked.append((network, pictures, settings.get("sigma")))
        return {"accuracy": {"mean": 1.0, "median": 2.0}, "network": None}

    monkeypatch.setattr(sys.modules[pet_curve.__module__], "pet_noses", instead)
    path = tmp_path / "curve.csv"
    first = pet_curve((6,), ["hourglass"], 8, path, sigma=3.0, progress=False)
    again = pet_curve((6, 12), ["hourglass"], 8, path, sigma=3.0)
    assert len(first) == 2 and len(again) == 4 and asked.count(("hourglass", 6, 3.0)) == 2
    for other in ({"sigma": 2.0}, {"sigma": 3.0, "size": 64}, {}):
        with pytest.raises(ValueError, match=r"curve.csv: row 1 was measured with sigma=3.0, and now it is"):
            pet_curve((6,), ["hourglass"], 8, path, **other)
    for content, message in (
        ("network,scenes,pictures,mean,median\nhourglass,0,6,1,2\n", "no column settings"),
        ("", "no CSV that can be read"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"curve.csv: .*{message}"):
            pet_curve((6,), ["hourglass"], 8, path, sigma=3.0)
