"""The careless annotator errs by as much as he says, and more on the far side of a turned head."""

from dataclasses import replace

import pytest
import torch

from kpnb.label_noise import POINTS, label_sigma, noisy_faces, noisy_labels


def test_errors_have_the_standard_deviation_that_is_said():
    exact, noisy, sigma = noisy_faces(300, 3)
    assert sigma.shape == (300, 5) and sigma.min() >= 1.0 and sigma.max() > 3
    z = ((noisy.keypoints - exact.keypoints) / sigma[..., None]).flatten()
    assert abs(z.mean()) < 4 / len(z) ** 0.5 and abs(z.std() - 1) < 4 / (2 * len(z)) ** 0.5


def test_the_far_side_of_a_turned_head_is_guessed():
    exact = noisy_faces(2, 3)[0]
    meta = exact.meta | {"yaw": torch.tensor([40.0, -40.0]), "blur": torch.tensor([1.0, 1.0])}
    turned = label_sigma(replace(exact, meta=meta))
    left, right = turned[:, 0], turned[:, 1]  # the eyes
    assert left[0] == pytest.approx(right[1].item()) and left[1] == pytest.approx(right[0].item())
    assert torch.allclose(turned[:, 2], torch.full((2,), 2.0))  # the nose belongs to no side
    # positive yaw looks towards larger x, and turns away the eye on that side
    far = "left" if abs(left[0] - 2.0) > 1e-3 else "right"
    assert exact.pairs and far == "left"


def test_a_sigma_of_other_points_is_refused():
    exact, _, sigma = noisy_faces(8, 3)
    with pytest.raises(ValueError, match=r"sigma is \(3, 5\)"):
        noisy_labels(exact, sigma[:3])


def test_what_leaves_the_picture_is_not_visible():
    exact, _, sigma = noisy_faces(8, 3)
    far = noisy_labels(exact, 100 * sigma, 0)
    inside = ((far.keypoints >= 0) & (far.keypoints < 48)).all(-1)
    assert torch.equal(far.visible, exact.visible & inside) and not far.visible.all()


def test_faces_are_those_of_the_seed_and_can_be_made_strange():
    exact = noisy_faces(60, 3)[0]
    assert exact.keypoint_names == list(POINTS) and exact.size == (48, 48)
    assert torch.equal(exact.keypoints, noisy_faces(60, 3)[0].keypoints)
    assert (noisy_faces(60, 3, roll=60)[0].meta["roll"].abs() > 40).any()
