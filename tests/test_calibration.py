"""Probabilities and logits are never taken for each other in any module, and void is never guessed."""

import inspect

import matplotlib.pyplot as plt
import pytest
import torch
from mask_cases import case

import kpnb.calibration as calibration
import kpnb.confidences as confidences
import kpnb.gaussians as gaussians
import kpnb.likelihood as likelihood
import kpnb.map_spread as map_spread
import kpnb.mask_losses as mask_losses
import kpnb.mask_plots as mask_plots
import kpnb.mask_training as mask_training
import kpnb.masks as masks
import kpnb.recipes.cured_runs as cured_runs
import kpnb.scaling as scaling
import kpnb.uncertainty as uncertainty
from kpnb.calibration import Reliability, classwise_ece, ece
from kpnb.confidences import answered, brier, check_probabilities, confidence_and_hits, nll
from kpnb.mask_losses import mask_loss, pixel_hits
from kpnb.mask_plots import plot_segmentation
from kpnb.mask_training import predict_logits
from kpnb.recipes.cured_runs import cure_runs
from kpnb.scaling import LocalTemperature, TemperatureScaling, VectorScaling, ensemble


class Fixed(torch.nn.Module):
    "A network that answers the same, whatever it sees."

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer[: len(x)]


def pictures(n, size):
    from kpnb.keypoints import KeypointDataset

    return KeypointDataset(torch.zeros(n, 3, size, size).byte(), torch.zeros(n, 0, 2))


def votes(logits):
    batch = {
        "image": torch.zeros(len(logits), 1, 16, 16),
        "keypoints": torch.full((len(logits), logits.shape[1], 2), 8.0),
        "visible": torch.ones(logits.shape[:2]).bool(),
    }
    return map_spread.MapCrossEntropy()(logits, batch)


# public function, class or method -> (logits, labels) -> anything;
# by the axis over which a softmax goes: classes, or the cells of a map
OVER_CLASSES = {
    "confidences.nll": nll,
    "scaling.Scaler.fit": lambda z, t: TemperatureScaling().fit(z, t),
    "scaling.Scaler.__call__": lambda z, t: VectorScaling(z.shape[1])(z),
    "scaling.TemperatureScaling.forward": lambda z, t: TemperatureScaling()(z),
    "scaling.VectorScaling.forward": lambda z, t: VectorScaling(z.shape[1])(z),
    "scaling.LocalTemperature.forward": lambda z, t: LocalTemperature(z.shape[1])(z),
    "scaling.LocalTemperature.temperature": lambda z, t: LocalTemperature(z.shape[1]).temperature(z),
    "scaling.ensemble": lambda z, t: ensemble([2 * z - z, z]),
    "cured_runs.cure_runs": lambda z, t: cure_runs(
        [{"logits": z, "masks": t, "apart_logits": z, "apart_masks": t}]
    ),
    "masks.logits_only": lambda z, t: masks.logits_only(z),
    "mask_losses.mask_loss": lambda z, t: mask_loss(z, {"mask": t}),
    "mask_losses.focal_loss": lambda z, t: mask_losses.focal_loss(z, {"mask": t}),
    "mask_losses.dice_loss": lambda z, t: mask_losses.dice_loss(z, {"mask": t}),
    "mask_losses.pixel_hits": lambda z, t: pixel_hits(z, {"mask": t}),
    "mask_plots.plot_segmentation": lambda z, t: plt.close(
        plot_segmentation(torch.zeros(3, *t.shape[1:]), t[0], z[0])[0].figure
    ),
    "mask_training.predict_logits": lambda z, t: predict_logits(Fixed(z), pictures(len(z), z.shape[-1])),
}
OVER_CELLS = {
    "map_spread.map_covariance": lambda z, t: map_spread.map_covariance(z),
    "map_spread.MapCrossEntropy.__call__": lambda z, t: votes(z),
}
PROBABILITIES = {
    "confidences.confidence_and_hits": confidence_and_hits,
    "calibration.Reliability.update": lambda p, t: Reliability().update(p, t),
    "calibration.classwise_ece": classwise_ece,
    "confidences.brier": brier,
    "confidences.check_probabilities": lambda p, t: check_probabilities(p, t != 255, p.amax(1)),
    "confidences.answered": lambda p, t: answered(p, t),
}
NO_SCORES = {  # their `output` is no tensor of logits, but a mean with a second number
    "likelihood.DistributionLoss.__call__",
    "likelihood.RootMeanSquare.__call__",
    "gaussians.decode_mean",
}

MODULES = (
    calibration,
    confidences,
    scaling,
    cured_runs,
    mask_losses,
    mask_plots,
    mask_training,
    masks,
    gaussians,
    map_spread,
    likelihood,
    uncertainty,
)


def takers(*names):
    "Public functions and methods of the modules that have a parameter of one of these names."
    found = set()
    for module in MODULES:
        short = module.__name__.split(".")[-1]
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing):
                members = {
                    f"{name}.{k}": v
                    for k, v in vars(thing).items()
                    if inspect.isfunction(v) and (not k.startswith("_") or k == "__call__")
                }
            else:
                members = {name: thing} if inspect.isfunction(thing) else {}
            found |= {
                f"{short}.{k}"
                for k, v in members.items()
                if set(names) & set(inspect.signature(v).parameters)
            }
    return found


def test_every_function_that_takes_logits_or_probabilities_is_tested_here():
    tested = set(OVER_CLASSES) | set(OVER_CELLS)
    assert takers("logits", "output") - NO_SCORES <= tested
    assert takers("probs") == set(PROBABILITIES)


@pytest.mark.parametrize("name", OVER_CLASSES)
def test_probabilities_are_refused_where_logits_are_expected(name):
    for kind in (torch.float32, torch.float64):
        for seed in range(3):
            z, t = case(seed, kind=kind)
            OVER_CLASSES[name](z, t)
            OVER_CLASSES[name](z.log_softmax(1), t)  # logarithms of probabilities are logits
            OVER_CLASSES[name](z - z.amin() + 1, t)  # and so are numbers above 0
            with pytest.raises(ValueError, match="expected logits"):
                OVER_CLASSES[name](z.softmax(1), t)


@pytest.mark.parametrize("name", OVER_CELLS)
def test_maps_of_probabilities_are_refused_where_logits_are_expected(name):
    z, t = case(size=4)
    OVER_CELLS[name](z, t)
    with pytest.raises(ValueError, match="probabilities"):
        OVER_CELLS[name](z.flatten(2).softmax(-1).view_as(z), t)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_logits_are_refused_where_probabilities_are_expected(name):
    for seed in range(3):
        z, t = case(seed)
        PROBABILITIES[name](z.softmax(1), t)
        for wrong in (z, z.log_softmax(1), z.sigmoid()):
            with pytest.raises(ValueError, match="expected probabilities"):
                PROBABILITIES[name](wrong, t)


def with_labels(z, t, ignore):
    p = z.softmax(1)
    return {
        "nll": lambda: nll(z, t, ignore),
        "brier": lambda: brier(p, t, ignore),
        "classwise_ece": lambda: classwise_ece(p, t, 10, ignore),
        "confidence_and_hits": lambda: confidence_and_hits(p, t, ignore)[0].sum(),
        "Reliability": lambda: ece(Reliability(10, ignore).update(p, t).compute()),
        "fit": lambda: torch.tensor(TemperatureScaling().fit(z, t, ignore).temperature),
    }


@pytest.mark.parametrize("name", with_labels(*case(), None))
def test_255_is_not_taken_for_void_where_it_is_a_class(name):
    z = 2 * torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    t = torch.where(
        torch.arange(400) % 5 == 0,
        255,
        torch.multinomial(z.softmax(1), 1, generator=torch.Generator().manual_seed(1))[:, 0],
    )
    with pytest.raises(ValueError, match="300 classes.*ignore=None"):
        with_labels(z, t, 255)[name]()
    assert with_labels(z, t, None)[name]().isfinite().all() == with_labels(z, t, -1)[name]().isfinite().all()
    torch.testing.assert_close(
        with_labels(z, t, None)[name](), with_labels(z, t, -100)[name](), equal_nan=True
    )


@pytest.mark.parametrize("name", with_labels(*case(), None))
@pytest.mark.parametrize("ignore", [-1, -100, 300])
def test_a_label_of_void_that_a_mask_of_bytes_cannot_hold_occurs_nowhere(name, ignore):
    g = torch.Generator().manual_seed(0)
    z, t = (
        torch.randn(800, 256, generator=g),
        torch.arange(800).remainder(256).byte(),
    )  # 255 and 156 are what -1 and -100 become in a byte
    torch.testing.assert_close(
        with_labels(z, t, ignore)[name](), with_labels(z, t, None)[name](), equal_nan=True
    )


@pytest.mark.parametrize("name", with_labels(*case(), None))
def test_a_label_that_no_class_has_is_named(name):
    z, t = case(void=False)
    for label in (-1, -100, 4):
        odd = t.long()
        odd[2, 3, 4] = label
        with pytest.raises(ValueError, match=rf"target\[2, 3, 4\] is {label}; expected 0 to 3, or 255"):
            with_labels(z, odd, 255)[name]()


def test_an_error_far_into_a_stream_names_its_sample():
    p, t = torch.full((40, 2, 3), 0.5), torch.zeros(40, 3).long()
    p[31, 0, 1] = 0.9
    for call in (lambda: Reliability(chunk=12).update(p, t), lambda: brier(p, t)):
        with pytest.raises(ValueError, match=r"sample 31, place \(1,\)"):
            call()
    t[33, 2] = 7
    with pytest.raises(ValueError, match=r"target\[33, 2\] is 7"):
        Reliability(chunk=12).update(torch.full((40, 2, 3), 0.5), t)
