"The score of the public exercise: one by one, in batches, and with holes."

import math
from dataclasses import replace

import pytest
import torch
from network_cases import Constant
from torch import nn

from kpnb.facial import ExerciseDataset, all_known, evaluate_batched, evaluate_masked, evaluate_model
from kpnb.models import NoseNet
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


def test_samples_of_another_form_are_refused_by_number(samples):
    flat = {"image": torch.zeros(1, 48, 48), "keypoints": torch.zeros(30)}
    for data, says in (
        ([(1, 2)], "sample 0 is a tuple"),
        ([samples[0], flat], "sample 1: found image"),
        (samples.ds, "expected normalised coordinates"),
        ([], "empty"),
    ):
        for score in (evaluate_model, evaluate_batched):
            with pytest.raises(ValueError, match=says):
                score(MIDDLE, data if data is not samples.ds else list(pixels(samples.ds)))
    with pytest.raises(ValueError, match=r"the model answers \(1, 2304\)"):
        evaluate_model(nn.Flatten(), samples)
    with pytest.raises(ValueError, match="all 15 points are missing"):
        evaluate_masked(MIDDLE, [flat | {"keypoints": torch.full((15, 2), math.nan)}])


def pixels(ds):
    "Samples whose points somebody forgot to normalise."
    for i in range(len(ds)):
        yield {"image": ds.images[i].float() / 255, "keypoints": ds.keypoints[i]}


def test_batches_leave_the_weights_where_they_were(samples):
    net = NoseNet(15, (48, 48))
    before = {k: (v.stride(), v.data_ptr()) for k, v in net.named_parameters()}
    evaluate_batched(net, samples)
    assert {k: (v.stride(), v.data_ptr()) for k, v in net.named_parameters()} == before


def test_a_point_with_half_a_coordinate_is_missing():
    def sample(*points):
        return {"image": torch.zeros(1, 9, 9), "keypoints": torch.tensor(points)}

    data = [sample([0.5, 0.5], [0.3, math.nan]), sample([0.1, 0.1], [0.1, 0.1])]
    result = evaluate_masked(Constant(torch.zeros(2, 2)), data)
    assert float(result) == pytest.approx(1 / (2 * (0.25 + 0.01 + 0.01) / 3), rel=1e-5)
    assert (result.n_used, result.n_ignored) == (3, 1)
