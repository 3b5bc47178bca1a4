"Figures: rays, paint and turns."

import torch

from kpnb.core import make_generator
from kpnb.figures import edge, over, ray_hit, turned


def test_a_ray_meets_a_sphere_or_misses_it():
    xy = torch.tensor([[0.0, 0.0], [0.6, 0.0], [2.0, 0.0]])
    depth, normal, place = ray_hit(xy, torch.zeros(3), torch.eye(3))
    assert torch.allclose(depth, torch.tensor([1.0, 0.8, -torch.inf]))
    assert torch.allclose(normal[:2], place[:2])


def test_paint_covers_half_of_a_pixel_on_the_line():
    assert edge(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0.0, 0.5, 1.0]
    black, white = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    assert torch.equal(over(black, white, torch.full((1, 2, 2), 0.25)), white / 4)


def test_turns_are_rotations():
    angles = torch.rand(3, 20, generator=make_generator(0)) * 180 - 90
    r = turned(*angles)
    assert torch.allclose(r @ r.mT, torch.eye(3).expand(20, 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.det(r), torch.ones(20), atol=1e-6)
