"The drawn people and animals: their point sets, parts and labels."

import pytest
import torch

from kpnb.animals import PET_LABELS, build_pet, pet_points
from kpnb.features import FACE_LABELS
from kpnb.people import build_face, face_points
from kpnb.scenes import render, sample_faces, sample_pets

KINDS = {"face": (sample_faces, build_face, FACE_LABELS, 70), "pet": (sample_pets, build_pet, PET_LABELS, 8)}


@pytest.mark.parametrize(
    "which, points",
    [(face_points, 1), (face_points, 15), (face_points, 68), (pet_points, 1), (pet_points, 8)],
)
def test_pairs_name_each_point_once_and_leave_only_the_middle(which, points):
    columns, names, pairs = which(points)
    flat = [k for pair in pairs for k in pair]
    assert len(set(flat)) == len(flat) and len(names) == len(columns) == points
    alone = {names[k] for k in set(range(points)) - set(flat)}
    assert not any("left" in n or "right" in n for n in alone)


@pytest.mark.parametrize("sample, build, labels, k", KINDS.values(), ids=KINDS)
def test_all_parts_have_a_label_and_all_points_a_place(sample, build, labels, k):
    parts, points = build(sample(5, 1))
    assert points.shape == (5, k, 3) and points.isfinite().all()
    assert all(0 <= label < len(labels) for part in parts for label in (part.label, part.inner))
    assert all(part.centre.shape == (5, 3) and part.axes.shape == (5, 3, 3) for part in parts)


@pytest.mark.parametrize("sample, build, labels, k", KINDS.values(), ids=KINDS)
def test_a_scene_is_built_row_by_row(sample, build, labels, k):
    scene = sample(4, 2)
    assert torch.allclose(build(scene)[1][2:3], build(scene[2])[1], atol=1e-6)


@pytest.mark.parametrize(
    "field, values, label",
    [
        ("hat", 3, "hat"),
        ("glasses", 3, "glasses"),
        ("occluder", 6, "occluder"),
        ("beard", 4, "hair"),
        ("style", 8, "hair"),
    ],
)
def test_a_face_wears_what_its_scene_says(field, values, label):
    bare = sample_faces(5, 3, yaw=20.0).replace(hat=0, glasses=0, occluder=0, beard=0, style=0)
    for value in range(values):
        masks = render(bare.replace(**{field: value}), 64).masks
        there = (masks == FACE_LABELS.index(label)).flatten(1).any(1)
        assert bool(there.all() if value else not there.any()), value
