"""Masks: what is void, which answers are logits, and where a cropped pixel came from.

The recipe of the source is here, too.
"""

import inspect

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import kpnb.confusion as confusion
import kpnb.mask_losses as mask_losses
import kpnb.mask_networks as mask_networks
import kpnb.mask_plots as mask_plots
import kpnb.mask_training as mask_training
import kpnb.masks as masks
import kpnb.recipes.real_masks as real_masks
import kpnb.segmentation as segmentation
from kpnb.confusion import Confusion
from kpnb.core import DataError
from kpnb.geometry import to_original
from kpnb.keypoints import KeypointDataset
from kpnb.mask_losses import counted_pixels, dice_loss, focal_loss, mask_loss, pixel_hits
from kpnb.mask_plots import plot_segmentation
from kpnb.mask_training import fit_masks
from kpnb.masks import boundary, preprocess, relabel
from kpnb.optimisation import make_optimizer
from kpnb.recipes.real_masks import recipe, source_networks, voc_squares
from kpnb.scenes import pets
from kpnb.segmentation import PARTS, SmallFCN, few_labels


def case(seed=0, classes=4, n=2, size=8):
    g = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, classes, size, size, generator=g), torch.randint(
        0, classes, (n, size, size), generator=g
    )


def masked(n=8, size=32, seed=0):
    "Pictures with a bright half, which is class 1."
    g = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, size, size).byte()
    for m, c in zip(masks, torch.randint(8, size - 8, (n,), generator=g).tolist()):
        m[:, c:] = 1
    return KeypointDataset(
        (masks[:, None] * 200).expand(-1, 3, -1, -1).contiguous(),
        torch.zeros(n, 0, 2),
        masks=masks,
        mask_names=["dark", "bright"],
    )


def with_masks(z, m, **ignore):
    return {
        "mask_loss": lambda: mask_loss(z, {"mask": m}, **ignore),
        "focal_loss": lambda: focal_loss(z, {"mask": m}, **ignore),
        "dice_loss": lambda: dice_loss(z, {"mask": m}, **ignore),
        "pixel_hits": lambda: pixel_hits(z, {"mask": m}, **ignore),
        "Confusion": lambda: Confusion(z.shape[1], **ignore).update(z.argmax(1), m).accuracy(),
    }


@pytest.mark.parametrize("name", with_masks(*case()))
def test_labels_that_no_class_has_are_named(name):
    z, m = case()
    for label in (-1, -100, 4, 200):
        odd = m.clone()
        odd[1, 2, 3] = label
        with pytest.raises(ValueError, match=rf"label {label}\b.*expected 0 to 3, or 255 for void"):
            with_masks(z, odd)[name]()


@pytest.mark.parametrize("name", [*with_masks(*case()), "counted_pixels", "boundary"])
def test_masks_that_are_no_whole_numbers_are_refused(name):
    z, m = case()
    calls = lambda m: (
        with_masks(z, m)
        | {"counted_pixels": lambda: counted_pixels({"mask": m}), "boundary": lambda: boundary(m)}
    )
    calls(m)[name]()
    for odd in (m.float(), m.half(), m > 1):
        with pytest.raises(ValueError, match="expected whole numbers"):
            calls(odd)[name]()


@pytest.mark.parametrize("name", with_masks(*case()))
def test_255_is_not_taken_for_void_where_it_is_a_class(name):
    g = torch.Generator().manual_seed(0)
    z, m = torch.randn(1, 300, 20, 20, generator=g), torch.randint(0, 300, (1, 20, 20), generator=g)
    m[:, ::4] = 255
    with pytest.raises(ValueError, match="300 classes.*ignore=None"):
        with_masks(z, m)[name]()
    z[:, 255, 1:] = z.amax() + 1  # only the first row of 255 is answered wrong
    right = {
        "mask_loss": F.cross_entropy(z, m),
        "focal_loss": focal_loss(z, {"mask": m}, ignore=-1),
        "dice_loss": dice_loss(z, {"mask": m}, ignore=-1),
        "pixel_hits": (z.argmax(1) == m).float().mean(),
        "Confusion": (z.argmax(1) == m).float().mean(),
    }[name]
    assert float(with_masks(z, m, ignore=None)[name]()) == pytest.approx(float(right), rel=1e-5)


@pytest.mark.parametrize("ignore", [255, -100, -1, 0])
def test_void_may_have_any_label_that_is_said(ignore):
    z, m = case()
    m[:, :3] = ignore
    known = m != ignore
    assert float(mask_loss(z, {"mask": m}, ignore)) == pytest.approx(
        float(F.cross_entropy(z.movedim(1, -1)[known], m[known])), rel=1e-5
    )
    hits = (z.argmax(1) == m)[known].float().mean()
    assert float(pixel_hits(z, {"mask": m}, ignore)) == pytest.approx(float(hits))
    counter = Confusion(4, ignore=ignore).update(z.argmax(1), m)
    assert counter.accuracy() == pytest.approx(float(hits)) and counter.n_ignored == int((~known).sum())
    assert (
        counted_pixels({"mask": m}, ignore) == int(known.sum())
        and counted_pixels({"mask": m}, None) == m.numel()
    )


def test_minus_one_as_void_is_not_255_in_a_mask_of_bytes():
    m = torch.full((1, 4, 4), 255).byte()
    answer = torch.full((1, 4, 4), 255)
    assert (
        Confusion(256, ignore=-1).update(answer, m).n_ignored == 0 and counted_pixels({"mask": m}, -1) == 16
    )


def test_a_boundary_is_right_for_labels_above_300_too():
    m = torch.full((1, 6, 8), 400)
    m[:, :, 4:] = 600
    m[:, 0] = 255
    assert boundary(m, 1)[0, 1].nonzero().flatten().tolist() == [3, 4] and not boundary(m, 1)[0, 0].any()


def test_no_name_can_have_the_label_of_void():
    with pytest.raises(ValueError, match="256 names; expected at most 255"):
        relabel(masked(), {0: 0, 1: 255}, [str(k) for k in range(256)])


def test_weights_count_the_pixels_of_a_class_as_torch_does():
    z, m = case()
    m[0, :3] = 255
    weight = [1.0, 0.5, 3.0, 0.0]
    right = F.cross_entropy(z, m, torch.tensor(weight), ignore_index=255)
    assert float(mask_loss(z, {"mask": m}, weight=weight)) == pytest.approx(float(right), rel=1e-5)
    assert float(mask_loss(z, {"mask": m}, weight=[2.0] * 4)) == pytest.approx(
        float(mask_loss(z, {"mask": m})), rel=1e-5
    )
    assert float(mask_loss(z, {"mask": torch.full_like(m, 255)}, weight=weight)) == 0
    with pytest.raises(ValueError, match="found 3 weights; expected one for each of 4 classes"):
        mask_loss(z, {"mask": m}, weight=weight[:3])


def test_the_focal_loss_is_the_cross_entropy_of_doubtful_pixels():
    z, m = case()
    m[0, :3] = 255
    known = m != 255
    each = F.cross_entropy(z.movedim(1, -1)[known], m[known], reduction="none")
    for gamma in (0.0, 1.0, 2.0):
        right = ((1 - (-each).exp()) ** gamma * each).mean()
        assert float(focal_loss(z, {"mask": m}, gamma=gamma)) == pytest.approx(float(right), rel=1e-5)
    assert float(focal_loss(z, {"mask": torch.full_like(m, 255)})) == 0
    sure = (400.0 * F.one_hot(m.clamp(max=3), 4).movedim(-1, 1)).requires_grad_()
    focal_loss(sure, {"mask": m}, gamma=0.5).backward()
    assert not sure.grad.any()  # a pixel that is surely right has a slope, and it is 0


def test_the_dice_loss_is_that_of_the_definition_and_leaves_void_and_absent_classes_out():
    z, m = case()
    m[m == 3] = 2
    m[0, :3] = 255
    known = m != 255
    p, t = z.softmax(1).movedim(1, -1)[known], F.one_hot(m[known], 4).float()
    right = 1 - (2 * (p * t).sum(0) / (p + t).sum(0)).mean()
    assert float(dice_loss(z, {"mask": m})) == pytest.approx(float(right), rel=1e-4)
    perfect = 1e3 * F.one_hot(m.clamp(max=3), 4).movedim(-1, 1).float()  # class 3: neither true nor answered
    assert float(dice_loss(perfect, {"mask": m})) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(z, {"mask": torch.full_like(m, 255)})) == pytest.approx(0, abs=1e-6)


class Known(nn.Module):
    """Answers with its only weight as the score of class 1.

    The weight grows with each step, so that later epochs are worse."""

    def __init__(self):
        super().__init__()
        self.score = nn.Parameter(torch.tensor(-20.0))

    def forward(self, x):
        return torch.stack([-self.score.expand(x[:, 0].shape), self.score.expand(x[:, 0].shape)], 1)


def test_fit_masks_keeps_the_epoch_of_the_best_accuracy():
    ds = masked()
    dark = KeypointDataset(
        ds.images, ds.keypoints, masks=torch.zeros_like(ds.masks), mask_names=ds.mask_names
    )
    bright = KeypointDataset(
        ds.images, ds.keypoints, masks=torch.ones_like(ds.masks), mask_names=ds.mask_names
    )
    model = Known()
    sgd = lambda params, lr: torch.optim.SGD(params, lr=lr)
    history = fit_masks(
        model,
        bright,
        dark,
        epochs=5,
        lr=5.0,
        optimizer=sgd,
        schedule=None,
        monitor="valid_accuracy",
        fast=False,
        progress=False,
    )
    found = history["valid_accuracy"]
    assert max(found) == 1 and min(found) == 0
    assert history.best["valid_accuracy"] == 1
    assert (
        float(pixel_hits(model(torch.zeros(8, 3, 32, 32)), {"mask": dark.masks})) == 1
    )  # the weights that are left are those of the best epoch


def scene(size, n=3, seed=0, k=4):
    "Pictures whose two first channels say where a pixel lies, with points."
    g = torch.Generator().manual_seed(seed)
    h, w = size
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    images = torch.stack([x, y, x * 0], 0)[None].expand(n, -1, -1, -1).clamp(max=255).byte().contiguous()
    points = torch.rand(n, k, 2, generator=g) * torch.tensor([w, h])
    masks = ((x // 7 + y // 5) % 5).byte()[None].expand(n, -1, -1).contiguous()
    return KeypointDataset(images, points, masks=masks, mask_names=list("abcde"))


@pytest.mark.parametrize("seed", range(6))
def test_points_find_back_to_the_file_after_any_chain_with_preprocess(seed):
    g = torch.Generator().manual_seed(seed)
    size = tuple(torch.randint(40, 120, (2,), generator=g).tolist())
    ds = start = scene(size, seed=seed)
    for step in torch.randint(0, 3, (3,), generator=g).tolist():
        if step == 0:
            ds = ds.resize(tuple(torch.randint(30, 150, (2,), generator=g).tolist()))
        if step == 1:
            ds = preprocess(ds, int(torch.randint(20, 60, (1,), generator=g)))
        if step == 2:
            ds = preprocess(ds.resize((44, 61)), 32)
    assert (to_original(ds) - start.keypoints).abs().max() < 0.01
    assert (ds.visible <= start.visible).all()


def test_pictures_of_differing_sizes_are_cropped_one_by_one():
    parts = [scene(size, n=1, seed=i) for i, size in enumerate([(50, 80), (64, 40), (33, 33)])]
    got = preprocess([p.images[0] for p in parts], 24, [p.masks[0] for p in parts])
    assert (
        len(got) == 3
        and got.size == (24, 24)
        and got.meta["original_size"].tolist() == [[50, 80], [64, 40], [33, 33]]
    )
    for i, p in enumerate(parts):
        alone = preprocess(p, 24)
        assert torch.equal(got.images[i : i + 1], alone.images) and torch.equal(
            got.masks[i : i + 1], alone.masks
        )
    middle = to_original(got, torch.full((3, 1, 2), 12.0))
    assert (middle[:, 0] - torch.tensor([[40.0, 25], [20, 32], [16.5, 16.5]])).abs().max() < 0.6


def test_files_of_differing_sizes_are_read_upright_with_their_masks(tmp_path):
    ds = scene((50, 80), n=1)
    picture, mask = Image.fromarray(ds.images[0].movedim(0, -1).numpy()), Image.fromarray(ds.masks[0].numpy())
    turned = Image.Exif()
    turned[0x0112] = 6  # the file's columns are the picture's rows, from the right
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=turned)
    mask.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a_mask.png")
    picture.save(tmp_path / "b.png")
    mask.save(tmp_path / "b_mask.png")
    got = preprocess(
        [tmp_path / "a.png", tmp_path / "b.png"], 32, [tmp_path / "a_mask.png", tmp_path / "b_mask.png"]
    )
    right = preprocess(ds, 32)
    assert got.names == ["a.png", "b.png"]
    for i in range(2):
        assert torch.equal(got.images[i], right.images[0]) and torch.equal(got.masks[i], right.masks[0])


def test_files_that_cannot_be_what_they_should_are_named(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    Image.new("L", (40, 30)).save(tmp_path / "small.png")
    Image.new("L", (41, 30)).save(tmp_path / "wide.png")
    Image.new("L", (40, 30)).save(tmp_path / "m.jpg")
    Image.new("I;16", (40, 30)).save(tmp_path / "deep.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    a = tmp_path / "a.png"
    preprocess([a], 16, [tmp_path / "small.png"])
    for picture, mask, text in (
        (a, "wide.png", "a.png.*expected"),
        (a, "m.jpg", "m.jpg.*JPEG"),
        (a, "a.png", "a.png.*index picture"),
        ("deep.png", None, "deep.png.*8 bits"),
        (a, "torn.png", "torn.png"),
        ("torn.png", None, "torn.png"),
    ):
        with pytest.raises(ValueError, match=text):
            preprocess([tmp_path / picture], 16, None if mask is None else [tmp_path / mask])
    with pytest.raises(DataError):
        preprocess([tmp_path / "torn.png"], 16)
    with pytest.raises(ValueError, match="1 pictures and 2 masks"):
        preprocess([a], 16, [a, a])


def test_voc_is_cut_as_the_source_did(tmp_path):
    folder, ds = tmp_path / "VOCdevkit/VOC2012", [scene((50, 80), n=1), scene((70, 40), n=1)]
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for i, d in enumerate(ds):
        Image.fromarray(d.images[0].movedim(0, -1).numpy()).save(folder / f"JPEGImages/{i}.jpg")
        Image.fromarray(d.masks[0].numpy()).save(folder / f"SegmentationClass/{i}.png")
    (folder / "ImageSets/Segmentation/train.txt").write_text("1\n0\n")
    (folder / "ImageSets/Segmentation/val.txt").write_text("0\n")
    got = voc_squares("train", 32, tmp_path)
    assert got.size == (32, 32) and got.names == ["1.jpg", "0.jpg"] and len(got.mask_names) == 21
    assert torch.equal(got.masks[1], preprocess(ds[0], 32).masks[0]) and torch.equal(
        voc_squares("valid", 32, tmp_path).masks[0], got.masks[1]
    )


def test_the_recipe_of_the_source_has_momentum_and_no_weight_decay():
    ds, torch_net = masked(4), nn.Conv2d(3, 2, 1)
    start = {k: v.clone() for k, v in torch_net.state_dict().items()}
    trained, _ = recipe(ds, None, torch_net, epochs=3, batch_size=2, fast=False, progress=False)
    assert (
        not make_optimizer(torch_net, "sgd", 0.01).param_groups[0]["weight_decay"]
        and make_optimizer(torch_net, "sgd").param_groups[0]["momentum"] == 0.9
    )
    by_hand = nn.Conv2d(3, 2, 1)
    by_hand.load_state_dict(start)
    fit_masks(
        by_hand,
        ds,
        epochs=3,
        batch_size=2,
        lr=0.01,
        optimizer="sgd",
        weight_decay=0.0,
        schedule=None,
        seed=0,
        fast=False,
        progress=False,
    )
    assert torch.equal(trained.weight, by_hand.weight)


def test_the_sources_networks_keep_the_curves_of_both_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(
        inspect.getmodule(source_networks),
        "FCN",
        lambda classes, name, weights_backbone: nn.Conv2d(3, classes, 1),
    )  # theirs are large
    train, test, valid = masked(4, seed=1), masked(2, seed=2), masked(3, seed=3)
    columns, how = (
        ["train_loss", "train_accuracy", "valid_loss", "valid_accuracy"],
        dict(epochs=2, batch_size=2, fast=False, progress=False),
    )
    got = source_networks(train, test, tmp_path, (None,), ("fcn_resnet50",), valid=valid, **how)[
        "fcn_resnet50 from scratch"
    ]
    assert got["history"].df[columns].notna().all().all() and len(got["history"]) == 2
    assert torch.equal(got["apart_masks"], valid.masks) and got["history"]["valid_loss"][-1] == pytest.approx(
        float(mask_loss(got["apart_logits"], {"mask": valid.masks})), rel=1e-3
    )
    again = source_networks(train, test, tmp_path, (None,), ("fcn_resnet50",), valid=valid, **how)[
        "fcn_resnet50 from scratch"
    ]
    assert again["history"]["train_accuracy"] == pytest.approx(got["history"]["train_accuracy"], abs=1e-6)
    (tmp_path / "fcn_resnet50_from_scratch.json").write_text(
        '{"1": 0.25}'
    )  # stopped between the last checkpoint and its accuracy
    again = source_networks(train, test, tmp_path, (None,), ("fcn_resnet50",), valid=valid, **how)[
        "fcn_resnet50 from scratch"
    ]
    assert again["history"]["train_accuracy"] == pytest.approx(
        [0.25, got["history"]["train_accuracy"][1]], abs=1e-6
    )
    (tmp_path / "fcn_resnet50_from_scratch.json").write_text("[1]")
    with pytest.raises(DataError, match="from_scratch.json"):
        source_networks(train, test, tmp_path, (None,), ("fcn_resnet50",), valid=valid, **how)


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_the_lessons_network_answers_in_the_size_of_its_pictures(backbone):
    for channels, size in ((3, (64, 48)), (1, (50, 70))):
        model = SmallFCN(5, backbone, in_channels=channels, width=8).eval()
        with torch.no_grad():
            assert model(torch.rand(1, channels, *size)).shape == (1, 5, *size)
    with pytest.raises(ValueError, match="choose one of resnet18"):
        SmallFCN(5, "vgg")


def test_what_stands_in_front_of_a_pet_is_void_and_every_part_has_a_class():
    raw = pets(12, 48, seed=1, points=1)
    few, place = few_labels(raw), raw.mask_names.index
    assert few.mask_names == list(PARTS)
    assert torch.equal(few.masks == 255, raw.masks == place("occluder"))
    for name in ("eyes", "nose", "mouth"):
        assert (few.masks[raw.masks == place(name)] == PARTS.index("features")).all()
    assert (few.masks[raw.masks == place("collar")] == PARTS.index("body")).all()


def test_the_key_below_a_row_of_pictures_names_every_label_that_has_a_colour():
    z, m = case()
    image = torch.zeros(3, 8, 8)
    plain = plot_segmentation(image, m[0], z[0], list("abcd"))
    assert not plain[0].figure.legends
    axes = plot_segmentation(image, m[0], z[0], list("abcd"), key=True)
    names = [x.get_text() for x in axes[0].figure.legends[0].get_texts()]
    assert names == ["b", "c", "d", "void"]
    unnamed = plot_segmentation(image, m[0], z[0], key=True)[0].figure.legends
    assert unnamed[0].get_texts()[0].get_text() == "label 1"
    plt.close("all")


def test_every_function_that_answers_about_masks_says_what_void_is():
    "A new function with a mask among its arguments must have its void tested here."
    tested = {"preprocess", "boundary", "plot_segmentation"}  # these keep labels as they are, or draw them
    modules = (
        masks,
        mask_losses,
        confusion,
        mask_training,
        mask_plots,
        mask_networks,
        segmentation,
        real_masks,
    )
    taking = {
        n
        for module in modules
        for n in module.__all__
        if inspect.isfunction(f := getattr(module, n))
        and {"mask", "masks"} & set(inspect.signature(f).parameters)
    }
    assert taking == tested
