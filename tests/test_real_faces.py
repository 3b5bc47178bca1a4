"The trainings on real faces, tried on drawn ones: what they judge, and which parts they hold back."

import math
from dataclasses import replace

import pytest
import torch

from kpnb.core import make_generator
from kpnb.crops import crop_faces
from kpnb.facial import all_known
from kpnb.recipes.real_faces import fifteen_of_68, imm_points, lfpw_68, lfpw_folds, wild_folds
from kpnb.scenes import faces

EMPTY = [math.nan, 0.0, -1.0, 1e9]


def album(n=4, size=(60, 80), seed=0, **kw):
    return all_known(faces(n, size, seed=seed, points=68, **kw))


def test_an_eye_is_placed_only_where_all_of_its_points_are_seen():
    ds = all_known(faces(3, 64, seed=4, points=68, masks=False))
    seen = ds.visible.clone()
    seen[:, 37] = False
    for place in EMPTY:
        fifteen = fifteen_of_68(
            replace(ds, keypoints=torch.where(seen[..., None], ds.keypoints, place), visible=seen)
        )
        assert not fifteen.visible[:, 1].any()
        assert torch.equal(fifteen.visible[:, 0], seen[:, 42:48].all(1))


@pytest.mark.parametrize("place", EMPTY)
def test_the_recipe_for_faces_in_the_wild_judges_visible_points_only(place):
    ds = crop_faces(album(14, (60, 80)), torch.tensor([[0, 0, 80, 60]] * 14), 32, margin=0)
    visible = ds.visible & (torch.rand(14, 68, generator=make_generator(0)) < 0.8)
    visible[:, [36, 45]] = ds.visible[:, [36, 45]]

    def run(keypoints):
        d = replace(ds, keypoints=keypoints, visible=visible)
        r = lfpw_68(data=(d[:8], d[8:]), epochs=1, progress=False, fast=False, device="cpu")
        return [float(r[k]) for k in ("nme", "nme_shaken", "mean_nme")]

    assert run(torch.where(visible[..., None], ds.keypoints, place)) == pytest.approx(
        run(ds.keypoints), rel=1e-6
    )


@pytest.mark.parametrize("folds", [lfpw_folds, wild_folds])
@pytest.mark.parametrize("fold", [-1, 5])
def test_a_part_that_does_not_exist_is_refused_before_anything_is_read(folds, fold):
    with pytest.raises(ValueError, match=f"fold is {fold}; expected 0 to 4"):
        folds(fold)


@pytest.mark.parametrize("training, wrong", [(imm_points, "big"), (lfpw_68, "vgg")])
def test_a_network_of_another_name_is_refused(training, wrong):
    with pytest.raises(ValueError, match=f"network is {wrong!r}; choose"):
        training(network=wrong)


def test_a_part_to_judge_cannot_choose_the_weights():
    parts = album(6, 32, gray=True), album(3, 32, gray=True)
    with pytest.raises(ValueError, match="restore_best is True; expected False"):
        imm_points(data=parts, epochs=1, progress=False, restore_best=True)
