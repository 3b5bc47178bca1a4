"The stage: scenes as rows of numbers, and the numbers themselves."

import pytest
import torch

from kpnb.stage import Draws, Scene, check_range


@pytest.fixture
def scene():
    return Scene("face", {"yaw": torch.tensor([10.0, -20.0]), "skin": torch.rand(2, 3)})


def test_a_field_that_a_scene_has_not_is_named(scene):
    for ask in (lambda: scene.jaw, lambda: scene.replace(jaw=1.0)):
        with pytest.raises(AttributeError, match="a face scene has no field 'jaw'; it has skin, yaw"):
            ask()


def test_a_value_that_does_not_fit_its_field_is_refused(scene):
    with pytest.raises(ValueError) as e:
        scene.replace(yaw=torch.zeros(3))
    assert str(e.value) == "yaw: found a value of shape (3,); expected one that expands to (2,)"


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_the_number_of_rows_is_a_whole_number(n):
    with pytest.raises(ValueError, match=f"n: found {n!r}; expected a whole number from 1"):
        Draws(n, 1)


def test_the_bounds_of_a_range_belong_to_it():
    check_range(1, low=0, high=1)
    with pytest.raises(ValueError, match="high: found 1.5; expected a number from 0 to 1"):
        check_range(1, low=0, high=1.5)
    with pytest.raises(ValueError, match="low: found nan"):
        check_range(1, low=float("nan"))
