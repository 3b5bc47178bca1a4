"The drawn cats and dogs: their point sets, parts and labels."

import pytest
import torch

from kpnb.animals import PET_LABELS, build_pet, pet_points
from kpnb.scenes import sample_pets


@pytest.mark.parametrize("points", [1, 8])
def test_pairs_name_each_point_once_and_leave_only_the_middle(points):
    columns, names, pairs = pet_points(points)
    flat = [k for pair in pairs for k in pair]
    assert len(set(flat)) == len(flat) and len(names) == len(columns) == points
    alone = {names[k] for k in set(range(points)) - set(flat)}
    assert not any("left" in n or "right" in n for n in alone)


def test_all_parts_have_a_label_and_all_points_a_place():
    parts, points = build_pet(sample_pets(5, 1))
    assert points.shape == (5, 8, 3) and points.isfinite().all()
    assert all(0 <= label < len(PET_LABELS) for part in parts for label in (part.label, part.inner))
    assert all(part.centre.shape == (5, 3) and part.axes.shape == (5, 3, 3) for part in parts)


def test_a_scene_is_built_row_by_row():
    scene = sample_pets(4, 2)
    assert torch.allclose(build_pet(scene)[1][2:3], build_pet(scene[2])[1], atol=1e-6)
