"""Decoders: logits are refused, also where they look like a map."""

import pytest
import torch
from heatmap_cases import (
    SIZE,
    a_batch,
)
from torch.testing import assert_close

from kpnb.decoders import (
    POINT_DECODERS,
    decode_argmax,
    decode_centroid,
    decode_dark,
    decode_local_centroid,
    decode_quarter,
    decode_soft_argmax,
    decoder_error,
)
from kpnb.heatmaps import gaussian_heatmaps

pytestmark = pytest.mark.usefixtures("same_weights")


def test_decoders_called_directly_refuse_logits_also_where_the_peak_is_positive_all_around():
    batch = a_batch(1, 1)
    logits = gaussian_heatmaps(batch["keypoints"], SIZE, 16.0, 2).clamp(1e-6, 1 - 1e-6).logit()
    assert (logits > 0).flatten().sum() > 100
    for decoder in (decode_dark, decode_local_centroid, decode_centroid):
        with pytest.raises(ValueError, match="logits"):
            decoder(logits, 2)
        assert (decoder(logits.sigmoid(), 2) - batch["keypoints"]).norm() < 2.5
    for decoder in (decode_argmax, decode_quarter):
        assert_close(decoder(logits, 2), decoder(logits.sigmoid(), 2))
    with pytest.raises(ValueError, match="decode_soft_argmax without a beta takes logits"):
        decode_soft_argmax(gaussian_heatmaps(batch["keypoints"], SIZE, 8.0, 2), 2)


def test_other_silly_settings_are_refused_by_name():
    maps = torch.zeros(1, 1, 16, 16)
    for use, message in (
        (lambda: decode_dark(maps, blur=-1.0), "blur is -1.0"),
        (lambda: decode_local_centroid(maps, radius=-1), "radius is -1"),
        (lambda: decoder_error("best"), "how is 'best'; choose one of"),
        (lambda: decoder_error("DARK", n=0), "n is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize("how", ["argmax", "DARK"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_places_of_single_precision(how, dtype):
    maps = gaussian_heatmaps(a_batch(3)["keypoints"], SIZE, 6.0).to(dtype)
    assert_close(POINT_DECODERS[how](maps), POINT_DECODERS[how](maps.float()))
