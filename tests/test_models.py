"""Networks: real weight files and their paths, strict loading and devices.

Also places that move with the picture, and what one batch does to another.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from network_cases import count, pictures, randomised
from torch.testing import assert_close
from torchvision.models import ResNet18_Weights, ResNet50_Weights, resnet18

from kpnb import backbones, models
from kpnb.backbones import (
    CoarseToFine,
    ResNet18Gaussian,
    ResNet18Regressor,
    TopDownDecoder,
)
from kpnb.core import make_generator
from kpnb.models import (
    BACKBONES,
    DECODERS,
    Encoder,
    HeatmapNet,
    NoseNet,
    ResNet18Heatmap,
    ResNetEncoder,
    UpsampleDecoder,
)


@pytest.fixture(autouse=True)
def same_weights_every_time():
    torch.manual_seed(0)


ANSWERS = {
    "heatmap": lambda: ResNet18Heatmap(2),
    "half-pixel": lambda: ResNet18Heatmap(2, align_corners=False),
    "stride 4": lambda: ResNet18Heatmap(2, stride=4),
    "no last batch norm": lambda: ResNet18Heatmap(2, last_batchnorm=False),
    "top-down": lambda: HeatmapNet(2, decoder="top-down", stride=4),
    "lite0": lambda: HeatmapNet(2, "efficientnet_lite0", "top-down", 4),
    "regressor": lambda: ResNet18Regressor(2),
    "gaussian": lambda: ResNet18Gaussian(2),
    "coarse to fine": lambda: CoarseToFine(2, in_channels=3),
}


def flat(answer):
    return answer if isinstance(answer, torch.Tensor) else torch.cat(tuple(answer), -1)


# ---- sizes


def test_the_source_network_has_the_source_channels():
    net = ResNet18Heatmap(7)
    convs = [m for m in net.decoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [
        (512, 256),
        (256, 128),
        (128, 64),
        (64, 32),
        (32, 7),
    ]
    assert all(c.kernel_size == (3, 3) and c.padding == (1, 1) and c.stride == (1, 1) for c in convs)
    ups = [m for m in net.decoder.modules() if isinstance(m, torch.nn.Upsample)]
    assert len(ups) == 5 and all(
        u.scale_factor == 2 and u.mode == "bilinear" and u.align_corners for u in ups
    )
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.decoder.modules()) == 5
    assert sum(isinstance(m, torch.nn.ReLU) for m in net.decoder.modules()) == 4


@pytest.mark.parametrize(
    "name,channels",
    [
        ("resnet18", (64, 128, 256, 512)),
        ("resnet34", (64, 128, 256, 512)),
        ("resnet50", (256, 512, 1024, 2048)),
    ],
)
def test_resnet_parameters_are_torchvisions(name, channels):
    encoder, reference = ResNetEncoder(name), torchvision.models.get_model(name)
    assert count(encoder) == count(reference) - count(reference.fc)
    assert encoder.channels == channels == tuple(m.shape[1] for m in encoder(pictures(2, 3, 64, 64)))


def test_encoder_gives_torchvisions_features():
    reference, encoder = randomised(resnet18(num_classes=4)), ResNetEncoder().eval()
    encoder.load_state_dict(
        {k: v for k, v in reference.state_dict().items() if not k.startswith("fc")}
        | {"mean": encoder.mean, "std": encoder.std}
    )
    x = pictures()
    with torch.no_grad():
        assert_close(reference.fc(encoder(x)[-1].mean((2, 3))), reference(x))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_decoder_and_stride(backbone):
    x = pictures(2, 1)
    for decoder in DECODERS:
        for stride in (1, 4, 16):
            with torch.device("meta"):
                net = HeatmapNet(3, backbone, decoder, stride, in_channels=1)
            assert net(x.to("meta")).shape == (2, 3, 64 // stride, 96 // stride)
    maps = net.encoder(x.to("meta"))
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


# ---- answers


@pytest.mark.parametrize("name", ANSWERS)
def test_every_weight_gets_a_gradient(name):
    net = ANSWERS[name]().train()
    out = flat(net(pictures()))
    (out * torch.randn(out.shape, generator=make_generator(1))).sum().backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("name", ANSWERS)
def test_no_picture_depends_on_its_neighbours_in_eval_mode(name):
    net, x = randomised(ANSWERS[name]()), pictures(3)
    with torch.no_grad():
        assert_close(flat(net(x))[1:2], flat(net(x[1:2])), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ANSWERS)
def test_no_stray_tensor_on_meta(name):
    net = ANSWERS[name]()
    assert flat(net.to("meta")(pictures().to("meta"))).device.type == "meta"
    with torch.device("meta"):
        assert flat(ANSWERS[name]()(torch.empty(2, 3, 64, 96))).device.type == "meta"


@pytest.mark.parametrize("name", ["heatmap", "stride 4", "no last batch norm", "top-down", "lite0"])
def test_heatmaps_are_probabilities_and_logits_lead_to_them(name):
    net, x = randomised(ANSWERS[name]()), 5 * pictures()
    with torch.no_grad():
        probs, logits = net(x), net(x, logits=True)
        assert probs.min() >= 0 and probs.max() <= 1 and (logits - probs).abs().max() > 0.1
        assert_close(logits.sigmoid(), probs)
        net.logits = True
        assert_close(net(x), logits)
        assert_close(net(x, logits=False), probs)
        assert (net.space, ResNet18Heatmap().space, ResNet18Heatmap(logits=True).space) == (
            "logits",
            "probabilities",
            "logits",
        )
    assert (
        ResNet18Heatmap(logits=True).logits and HeatmapNet(logits=True).logits and not net.__class__().logits
    )


def test_bfloat16_answers_in_float32():
    x = pictures()
    for net in (ResNet18Heatmap(), ResNet18Regressor(3), ResNet18Gaussian(3)):
        net.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = flat(net(x))
        with torch.no_grad():
            expected = flat(net(x))
        assert found.dtype == torch.float32
        assert_close(found, expected, atol=0.05, rtol=0.05)


def test_double_precision_stays_double():
    for net in (ResNet18Heatmap(), HeatmapNet(1, "efficientnet_lite0", "top-down", 4)):
        assert net.double()(pictures().double()).dtype == torch.float64


def test_gradcheck_of_a_small_decoder():
    torch.manual_seed(0)
    decoder = UpsampleDecoder([3], 1, stride=8, channels=[2]).double().eval()
    z = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: decoder([z]), z, eps=1e-6)


def test_a_grey_picture_is_a_colour_picture_with_three_equal_channels():
    grey, colour = ResNet18Heatmap(in_channels=1), ResNet18Heatmap()
    colour.load_state_dict(grey.state_dict())
    x = pictures(2, 1)
    with torch.no_grad():
        assert_close(randomised(grey)(x), randomised(colour)(x.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    "shape,message",
    [
        (
            (1, 3, 100, 96),
            r"found pictures of 100×96 pixels; expected multiples of 32.*100 = 3·32 \+ 4, 96 = 3·32 \+ 0",
        ),
        ((1, 3, 0, 96), "found pictures of 0×96"),
        ((1, 1, 64, 64), r"expected floats in \[0, 1\] of shape \(N, 3, H, W\)"),
        ((3, 64, 64), "found torch.float32 pictures of shape"),
    ],
)
def test_wrong_pictures_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        ResNet18Heatmap()(torch.rand(shape))


def test_whole_numbers_and_wrong_options_are_refused():
    with pytest.raises(ValueError, match="found torch.uint8 pictures"):
        ResNet18Regressor()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match="backbone is 'vgg'; choose one of resnet18, resnet34, resnet50, efficientnet_lite0"
    ):
        HeatmapNet(1, "vgg")
    with pytest.raises(ValueError, match="decoder is 'up'; choose one of upsample, top-down"):
        HeatmapNet(1, decoder="up")
    with pytest.raises(ValueError, match="stride is 3; choose one of 1, 2, 4, 8, 16"):
        HeatmapNet(1, stride=3)
    with pytest.raises(ValueError, match="in_channels is 4; choose one of 1, 3"):
        ResNet18Gaussian(1, in_channels=4)
    with pytest.raises(ValueError, match=r"found 2 channels \(8, 4\); expected 4"):
        ResNet18Heatmap(channels=(8, 4))
    with pytest.raises(TypeError, match="last_batchnorm"):
        HeatmapNet(1, decoder="top-down", last_batchnorm=False)


def test_counts_and_strides_that_make_no_network_are_refused():
    for make in (HeatmapNet, ResNet18Heatmap, ResNet18Regressor, ResNet18Gaussian, CoarseToFine, NoseNet):
        for keypoints in (0, -1, 1.5, True):
            with pytest.raises(
                ValueError,
                match=f"{make.__name__}: keypoints is {keypoints}; expected a whole number of at least 1",
            ):
                make(keypoints)
    for decoder in (UpsampleDecoder, TopDownDecoder):
        for stride in (0, 3, 32):
            with pytest.raises(
                ValueError, match=f"{decoder.__name__}: stride is {stride}; choose one of 1, 2, 4, 8, 16"
            ):
                decoder([8] * 4, 1, stride)
    for kernel in (0, -3, 4):
        with pytest.raises(ValueError, match=f"kernel is {kernel}; expected an odd number"):
            models.conv_block(1, 2, kernel)


def test_the_special_case_and_the_general_class_share_their_state():
    special, general = ResNet18Heatmap(2), HeatmapNet(2, align_corners=True)
    general.load_state_dict(special.state_dict())
    with torch.no_grad():
        assert_close(randomised(special)(pictures()), randomised(general)(pictures()))


def test_low_start():
    for net in (HeatmapNet(2, decoder="top-down", stride=4), ResNet18Heatmap(last_batchnorm=False)):
        with torch.no_grad():
            assert 0.003 < net.train()(pictures()).median() < 0.05
    with torch.no_grad():
        assert 0.3 < ResNet18Heatmap().train()(pictures()).mean() < 0.7


# ---- blocks and heads


def test_a_block_keeps_halves_and_counts():
    x = pictures(2, 1, 60, 80)
    block = models.conv_block(1, 8)
    assert block(x).shape == (2, 8, 30, 40) and (block(x) >= 0).all()
    assert models.conv_block(1, 8, kernel=7, pool=False)(x).shape == (2, 8, 60, 80)
    bare = models.conv_block(1, 8, batchnorm=False)
    assert [type(m).__name__ for m in bare] == ["Conv2d", "ReLU", "MaxPool2d"]
    assert block[0].bias is None and bare[0].bias is not None


def test_soft_argmax_knows_flat_maps_and_peaks():
    soft = models.SoftArgmax2d()
    assert_close(soft(torch.zeros(1, 1, 6, 8)), torch.zeros(1, 1, 2))
    peak = torch.zeros(1, 2, 6, 8)
    peak[0, 0, 1, 6] = 60.0
    peak[0, 1, 5, 0] = 60.0
    assert_close(soft(peak), torch.tensor([[[6.5 / 4 - 1, 1.5 / 3 - 1], [0.5 / 4 - 1, 5.5 / 3 - 1]]]))
    with pytest.raises(ValueError, match=r"expected \(N,K,H,W\)"):
        soft(torch.zeros(6, 8))


def test_soft_argmax_is_the_mean_place_and_has_a_gradient():
    soft = models.SoftArgmax2d()
    z = torch.randn(3, 2, 6, 8, generator=make_generator(1), dtype=torch.float64, requires_grad=True)
    p = z.flatten(2).softmax(-1).view_as(z)
    rows, columns = (torch.arange(6) + 0.5) / 3 - 1, (torch.arange(8) + 0.5) / 4 - 1
    ys, xs = torch.meshgrid(rows, columns, indexing="ij")
    assert_close(soft(z), torch.stack([(p * xs).sum((2, 3)), (p * ys).sum((2, 3))], -1).float())
    soft(z).sum().backward()
    assert z.grad.abs().sum() > 0


def test_nose_net_shapes_parameters_and_outputs():
    net = NoseNet()
    assert count(net.head[1]) > 0.8 * count(net)
    assert NoseNet(keypoints=5, in_channels=3, size=(96, 96))(pictures(2, 3, 96, 96)).shape == (2, 5, 2)
    x = pictures(2, 1, 60, 80)
    soft = NoseNet(head="soft-argmax", channels=(16, 32, 64, 64), kernel=7)
    assert (soft(x).abs() <= 1).all() and soft(x).shape == (2, 1, 2)
    assert count(soft.head) == 65
    for output, below_zero in ((None, True), ("tanh", True), ("sigmoid", False), ("relu", False)):
        torch.manual_seed(0)
        assert bool(NoseNet(output=output)(x).min() < 0) == below_zero, output


def test_nose_net_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"shape \(2, 3, 60, 80\); expected \(N, 1, 60, 80\)"):
        NoseNet()(pictures(2, 3, 60, 80))
    with pytest.raises(ValueError, match="poolings leave nothing"):
        NoseNet(size=(6, 80))
    with pytest.raises(ValueError, match="head is 'magic'"):
        NoseNet(head="magic")
    with pytest.raises(ValueError, match="output is 'softmax'; choose one of None, tanh"):
        NoseNet(output="softmax")


@pytest.mark.parametrize("head", ["linear", "soft-argmax"])
def test_nose_net_runs_on_meta(head):
    x = pictures(2, 1, 60, 80).to("meta")
    assert NoseNet(head=head).to("meta")(x).shape == (2, 1, 2)


def test_a_soft_argmax_follows_a_shift_and_a_linear_head_does_not():
    spot = torch.zeros(2, 1, 64, 96)
    spot[0, 0, 28:36, 36:44] = 1.0
    spot[1, 0, 28:36, 44:52] = 1.0
    moved = {}
    for head in ("linear", "soft-argmax"):
        torch.manual_seed(1)
        net = NoseNet(size=(64, 96), head=head, channels=(8, 8, 8, 8)).eval()
        if head == "soft-argmax":
            torch.nn.init.constant_(net.head[0].weight, 1e3)
        with torch.no_grad():
            moved[head] = (net(spot)[1] - net(spot)[0])[0] * torch.tensor([48.0, 32.0])
    assert_close(moved["soft-argmax"], torch.tensor([8.0, 0.0]), atol=0.3, rtol=0)
    assert abs(moved["linear"][0] - 8) > 4


# ---- the parts of the heatmap network


def test_encoders_normalise_and_refuse():
    prepared = Encoder(1, [0.1, 0.2, 0.3]).prepare(torch.full((2, 1, 4, 4), 0.5))
    assert_close(prepared[0, :, 0, 0], torch.tensor([0.4, 0.3, 0.2]))
    assert [*Encoder().state_dict()] == ["mean", "std"]
    with pytest.raises(ValueError, match="found torch.uint8 pictures"):
        Encoder().prepare(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"expected floats in \[0, 1\] of shape \(N, 3, H, W\)"):
        Encoder().prepare(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="choose one of 1, 3"):
        Encoder(2)
    with pytest.raises(ValueError, match="choose one of IMAGENET1K_V1, DEFAULT"):
        ResNetEncoder(weights="IMAGENET")


def test_a_stage_up_has_the_parts_that_were_asked_for():
    up = models.up_stage
    assert up(5, 3)(torch.rand(2, 5, 6, 8)).shape == (2, 3, 12, 16)
    assert [type(m).__name__ for m in up(5, 3)] == ["Upsample", "Conv2d", "BatchNorm2d", "ReLU"]
    assert [type(m).__name__ for m in up(5, 3, batchnorm=False, relu=False)] == ["Upsample", "Conv2d"]
    assert up(5, 3)[1].bias is None and up(5, 3, batchnorm=False)[1].bias is not None
    assert [up(5, 3, a)[0].align_corners for a in (True, False)] == [True, False]


def test_half_pixel_upsampling_keeps_a_ramp_and_aligned_corners_stretch_it():
    off = {}
    for align in (True, False):
        row = ((torch.arange(8) + 0.5) * 32).view(1, 1, 1, -1).expand(1, 1, 8, 8)
        for _ in range(5):
            row = models.up_stage(1, 1, align)[0](row)
        off[align] = row[0, 0, 0] - (torch.arange(256) + 0.5)
    assert off[True][0] == off[False][0] == 15.5
    assert_close(off[False][32:-32], torch.zeros(192))
    assert off[True][64] > 7 and off[True][128].abs() < 0.1


@pytest.mark.parametrize("stride,size", [(1, (64, 96)), (4, (16, 24)), (16, (4, 6))])
def test_a_stride_makes_the_heatmap_smaller(stride, size):
    net = ResNet18Heatmap(2, stride=stride, in_channels=1)
    assert net(pictures(2, 1)).shape == (2, 2, *size)


def test_without_the_last_norm_a_heatmap_starts_dark():
    with torch.no_grad():
        dark = ResNet18Heatmap(last_batchnorm=False).eval()(pictures()).mean()
        grey = ResNet18Heatmap().eval()(pictures()).mean()
    assert dark < 0.05 < 0.3 < grey


def test_resnet_18_has_the_size_that_its_authors_report():
    class Last(torch.nn.Module):
        def forward(self, maps):
            return maps[-1].mean((2, 3))

    whole = torch.nn.Sequential(ResNetEncoder(), Last(), torch.nn.Linear(512, 1000)).eval()
    assert count(whole) == 11_689_512
    assert round(backbones.multiply_adds(whole, (224, 224)) / 1e9, 3) == 1.814


# ---- places


def shifted(decoder, cells=12):
    """How much a decoder's answer, far from the borders, differs from the moved one.

    Its input moves by one cell of 32 pixels."""
    z = torch.randn(1, 8, cells, cells + 1, generator=make_generator(2))
    side = [torch.randn(1, 8, cells * s, (cells + 1) * s, generator=make_generator(s)) for s in (8, 4, 2)]
    cut = lambda first: [m[..., first * m.shape[-2] // cells :][..., : m.shape[-2]] for m in (*side, z)]
    with torch.no_grad():
        a, b = decoder(cut(0)), decoder(cut(1))
    step, (h, w) = a.shape[-1] // cells, a.shape[-2:]
    inner = (slice(h // 3, -h // 3), slice(w // 3, -w // 3))
    return (
        a[..., step:][..., inner[0], inner[1]] - b[..., :-step][..., inner[0], inner[1]]
    ).abs().max() / a.std()


def test_half_pixel_decoders_move_with_the_picture_and_aligned_ones_do_not():
    torch.manual_seed(0)
    up = lambda align: UpsampleDecoder(
        [8] * 4, 1, stride=1, align_corners=align, channels=(6, 6, 4, 4)
    ).eval()
    down = lambda align: TopDownDecoder([8] * 4, 1, stride=4, align_corners=align, channels=6).eval()
    assert shifted(up(False)) < 1e-4 and shifted(down(False)) < 1e-4
    assert shifted(up(True)) > 0.01 and shifted(down(True)) > 0.01


def test_where_a_cell_goes_in_five_stages():
    z = torch.zeros(1, 1, 8, 8)
    z[..., 3, 3] = 1
    for align, expected in ((True, 3 * 255 / 7 + 0.5), (False, 3.5 * 32)):
        y = z
        for _ in range(5):
            y = models.up_stage(1, 1, align)[0](y)
        centre = (y[0, 0].sum(0) * (torch.arange(256) + 0.5)).sum() / y.sum()
        assert y.shape == (1, 1, 256, 256) and abs(centre - expected) < 0.3, (align, centre)


# ---- real weight files


def hub(tmp_path, monkeypatch, weights, network):
    """A torch hub cache whose file for these weights holds the given network.

    torchvision compares the hash in the name only after a download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_MODEL_ZOO", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("nothing may be downloaded")
    )
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / Path(weights.url).name)


@pytest.mark.parametrize("weights", [ResNet18_Weights.DEFAULT, "DEFAULT", ResNet18_Weights.IMAGENET1K_V1])
def test_resnet_weights_come_from_torchvisions_cache(weights, tmp_path, monkeypatch):
    torch.manual_seed(5)
    stored = randomised(resnet18(), seed=6)
    hub(tmp_path, monkeypatch, ResNet18_Weights.DEFAULT, stored)
    for net in (
        ResNet18Heatmap(2, weights=weights),
        ResNet18Regressor(2, weights),
        ResNet18Gaussian(2, weights),
        HeatmapNet(2, decoder="top-down", stride=4, weights=weights),
    ):
        state = net.encoder.state_dict()
        for name, value in stored.state_dict().items():
            if not name.startswith("fc."):
                assert torch.equal(state.pop(name), value), name
        assert sorted(state) == ["mean", "std"]


def test_resnet_weights_meet_the_pictures_that_they_expect(tmp_path, monkeypatch):
    hub(tmp_path, monkeypatch, ResNet18_Weights.DEFAULT, resnet18())
    net = ResNet18Heatmap(weights=ResNet18_Weights.DEFAULT)
    picture = (255 * pictures(1, 3, 256, 256)[0]).byte()
    preset = ResNet18_Weights.DEFAULT.transforms(crop_size=256, resize_size=256)
    assert_close(net.encoder.prepare(picture[None].float() / 255)[0], preset(picture), atol=1e-6, rtol=1e-6)
    grey = ResNet18Heatmap(weights=ResNet18_Weights.DEFAULT, in_channels=1)
    assert_close(
        grey.encoder.prepare(picture[None, :1].float() / 255)[0],
        preset(picture[:1].expand(3, -1, -1)),
        atol=1e-6,
        rtol=1e-6,
    )
    plain = ResNet18Heatmap()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain.encoder.mean, net.encoder.mean) and not torch.equal(
        plain.encoder.mean, torch.zeros(3, 1, 1)
    ), "a stored network keeps its normalisation"


def test_wrong_weights_are_refused(tmp_path, monkeypatch):
    hub(tmp_path, monkeypatch, ResNet18_Weights.DEFAULT, resnet18(num_classes=3))
    with pytest.raises(RuntimeError, match="size mismatch"):
        ResNet18Heatmap(weights=ResNet18_Weights.DEFAULT)
    with pytest.raises(TypeError, match="expected ResNet18_Weights"):
        ResNet18Heatmap(weights=ResNet50_Weights.DEFAULT)
    with pytest.raises(ValueError, match="weights is 'imagenet'; choose one of IMAGENET1K_V1, DEFAULT"):
        ResNet18Regressor(weights="imagenet")
    with pytest.raises(ValueError, match="weights is 'imagenet'; choose one of DEFAULT, None"):
        HeatmapNet(1, "efficientnet_lite0", weights="imagenet")


def test_every_other_network_can_be_imported_from_here_too():
    for name in backbones.__all__:
        assert getattr(models, name) is getattr(backbones, name)
    for name in ("SmallNet", "_pair", "__path__"):
        with pytest.raises(AttributeError, match=f"module 'kpnb.models' has no attribute '{name}'"):
            getattr(models, name)


def test_the_other_networks_are_loaded_only_when_they_are_asked_for():
    script = (
        "import sys; from kpnb.models import HeatmapNet; "
        "HeatmapNet(); print('kpnb.backbones' in sys.modules); "
        "HeatmapNet(decoder='top-down'); print('kpnb.backbones' in sys.modules); "
        "from kpnb.models import Lite0Encoder; print(Lite0Encoder.__module__)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True", "kpnb.backbones"]
