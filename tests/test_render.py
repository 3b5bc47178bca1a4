"The renderer: its table of noise."

import torch

from kpnb.render import normal_rows


def test_a_row_of_noise_depends_on_its_start_alone():
    start = torch.tensor([0.1, 0.7, 0.1])
    rows = normal_rows(1000, start)
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])
    assert torch.equal(normal_rows(1000, start[1:2])[0], rows[1])
