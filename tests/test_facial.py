"The score of the public exercise: one by one, in batches, and with holes."

import math
from dataclasses import replace

import pytest
import torch
from network_cases import Constant
from torch import nn

from kpnb.facial import ExerciseDataset, all_known, evaluate_batched, evaluate_masked, evaluate_model
from kpnb.scenes import faces

MIDDLE = Constant(torch.zeros(15, 2))


@pytest.fixture(scope="module")
def samples():
    ds = faces(9, 48, seed=2, gray=True, masks=False)
    return ExerciseDataset(replace(ds, visible=None))  # every point has a place


def holes(samples, k=3):
    visible = samples.ds.visible & (torch.arange(15) != k)
    return ExerciseDataset(replace(samples.ds, visible=visible))


def test_the_score_is_one_over_twice_the_mean_squared_error(samples):
    mse = samples.keypoints.double().pow(2).mean()
    for score in (evaluate_model, evaluate_batched, evaluate_masked):
        assert float(score(MIDDLE, samples)) == pytest.approx(float(1 / (2 * mse)), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 9, 100])
def test_batches_of_any_size_give_the_same_score(samples, batch_size):
    one_by_one = [samples[i] for i in range(len(samples))]  # a list of dicts, as in the exercise
    for score in (evaluate_batched, evaluate_masked):
        for data in (samples, one_by_one):
            assert float(score(MIDDLE, data, batch_size)) == pytest.approx(evaluate_model(MIDDLE, samples))


def test_a_perfect_answer_scores_without_end(samples):
    one = [samples[0]] * 3
    perfect = Constant(samples[0]["keypoints"])
    assert [float(f(perfect, one)) for f in (evaluate_model, evaluate_batched, evaluate_masked)] == [
        math.inf
    ] * 3


def test_missing_points_are_refused_or_counted(samples):
    for score in (evaluate_model, evaluate_batched):
        with pytest.raises(ValueError, match="sample 0 has missing points"):
            score(MIDDLE, holes(samples))
    masked = evaluate_masked(MIDDLE, holes(samples))
    rest = samples.keypoints[:, torch.arange(15) != 3].double()
    assert float(masked) == pytest.approx(float(1 / (2 * rest.pow(2).mean())), rel=1e-5)
    assert (masked.n_used, masked.n_ignored) == (9 * 14, 9)


def test_a_score_leaves_the_network_in_the_mode_in_which_it_was(samples):
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48 * 48, 30))
    for score in (evaluate_model, evaluate_batched, evaluate_masked):
        for mode in (True, False):
            dropping.train(mode)
            assert score(dropping, samples) == score(dropping, samples)
            assert all(m.training == mode for m in dropping.modules())


def test_all_known_counts_places_in_the_picture_and_no_others():
    ds = faces(2, 48, seed=5, gray=True, masks=False)
    points = ds.keypoints.clone()
    points[0, 0], points[0, 1], points[0, 2] = torch.tensor([[-1.0, 5.0], [5.0, 48.5], [math.nan, 3.0]])
    hidden = replace(ds, keypoints=points, visible=torch.zeros(2, 15, dtype=torch.bool))
    assert all_known(hidden).visible.sum(1).tolist()[0] == 12
