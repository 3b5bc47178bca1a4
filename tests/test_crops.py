"Boxes that are a little off, crops of any shape, and the mean of a picture and its mirror image."

import pytest
import torch
from torch import nn

from kpnb.crops import crop_faces, point_boxes, predict_mirrored, shake_boxes
from kpnb.geometry import denormalise, to_original, transform_points
from kpnb.keypoints import KeypointDataset
from kpnb.scenes import faces


@pytest.fixture(scope="module")
def album():
    return faces(30, (60, 80), seed=0, points=68, masks=False)


@pytest.fixture(scope="module")
def exact(album):
    return point_boxes(album.keypoints, album.visible)


def test_shaken_boxes_move_and_grow_as_far_as_said_and_no_further(exact):
    assert torch.allclose(shake_boxes(exact, 0, 0), exact, atol=1e-4)
    assert torch.equal(shake_boxes(exact, generator=1), shake_boxes(exact, generator=1))
    many = exact[:1].repeat(4000, 1)
    shaken, extent = shake_boxes(many, 0.05, 0.1), many[:, 2:] - many[:, :2]
    moved = ((shaken[:, :2] + shaken[:, 2:]) - (many[:, :2] + many[:, 2:])).abs() / 2 / extent
    grown = (shaken[:, 2:] - shaken[:, :2]) / extent
    assert 0.049 < moved.max() < 0.0501 and 0.899 < grown.min() < 0.902 and 1.098 < grown.max() < 1.101
    with pytest.raises(ValueError, match=r"scale 1\.0"):
        shake_boxes(exact, scale=1.0)


def test_points_without_a_box_between_them_are_refused_by_picture():
    points = torch.tensor([[[3.0, 9.0], [7.0, 2.0]], [[3.0, 9.0], [torch.nan, 2.0]]])
    assert point_boxes(points[:1]).tolist() == [[3, 2, 7, 9]]
    with pytest.raises(ValueError, match="picture 1 has no two known points"):
        point_boxes(points)


@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize("size", [96, (64, 112), (200, 90)])
def test_points_come_home_from_crops_of_any_shape(album, exact, size, keep_aspect):
    wild = shake_boxes(exact, 0.6, 0.8, 3)
    there = crop_faces(album, wild, size, margin=0.1, keep_aspect=keep_aspect)
    assert (to_original(there) - album.keypoints).abs().max() < 0.01
    scale = there.to_file.diagonal(dim1=1, dim2=2)[:, :2]
    assert not keep_aspect or (scale[:, 0] / scale[:, 1] - 1).abs().max() < 1e-4
    corner = torch.tensor(there.size[::-1])
    assert torch.equal(
        there.visible,
        album.visible & (there.keypoints >= 0).all(-1) & (there.keypoints <= corner).all(-1),
    )


def test_a_squeezed_crop_is_the_box_and_its_margin(album, exact):
    squeezed = crop_faces(album, exact, (50, 90), margin=0.1, keep_aspect=False)
    grown = (exact[:, 2:] - exact[:, :2]) * 0.1
    corners = torch.tensor([[0.0, 0], [90, 50]]).expand(len(album), 2, 2)
    found = transform_points(corners, squeezed.to_file).flatten(1)
    assert torch.allclose(found.float(), exact + torch.cat([-grown, grown], 1), atol=1e-3)
    with pytest.raises(ValueError, match=r"found boxes \(3, 4\); expected"):
        crop_faces(album, exact[:3])


def test_a_crop_of_everything_changes_nothing():
    ds = faces(3, 40, seed=1)
    same = crop_faces(ds, torch.tensor([[0.0, 0, 40, 40]] * 3), 40, margin=0)
    assert torch.equal(same.masks, ds.masks) and torch.equal(same.images, ds.images)


class Rows(nn.Module):
    "Answers that depend on the picture: each point at its place, plus the brightness of the left half."

    def __init__(self, points):
        super().__init__()
        self.points = nn.Parameter(points)

    def forward(self, x):
        light = x[..., : x.shape[-1] // 2].mean((1, 2, 3)).view(-1, 1, 1)
        return self.points + light * torch.tensor([1.0, 0.0])


def test_the_mirrored_answer_is_mirrored_back_with_its_sides_exchanged():
    ds = KeypointDataset(torch.zeros(1, 1, 10, 20, dtype=torch.uint8), torch.zeros(1, 3, 2), pairs=[(0, 1)])
    ds.images[..., :10] = 255
    three = torch.tensor([[0.2, 0.1], [-0.4, 0.3], [0.1, 0.5]])
    direct, other = three + torch.tensor([1.0, 0]), three[[1, 0, 2]] * torch.tensor([-1.0, 1.0])
    found = predict_mirrored(Rows(three), ds, device="cpu")[0]
    assert torch.allclose(found, denormalise((direct + other) / 2, (10, 20)), atol=1e-4)
