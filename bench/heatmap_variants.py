"""The networks for heatmaps: how exact each variant is after equal training on the scenes' pets.

Run from the repository: `python bench/heatmap_variants.py` (`--pictures 16 --epochs 1 --seeds 1` to see
that it works). Every variant gets the same pictures, the same number of rounds and the recipe of lesson 24
(BCE on Gaussians, one-cycle, augmentation, flip averaging, DARK); it is judged on 400 pets that it has not
seen. A row is the mean over the seeds, with the standard deviation between them. Speed stands in
`bench/heatmap_networks.py`.
"""

import argparse
import statistics

from common import machine
from heatmap_networks import VARIANTS as UNTRAINED

from kpnb.core import seed_everything
from kpnb.evaluation import mean_points
from kpnb.heatmap_training import error_report, train_heatmaps
from kpnb.models import HeatmapNet, ResNet18Heatmap
from kpnb.scenes import pets

WEIGHTED = "efficientnet_lite0, top-down, stride 4, ImageNet weights"
VARIANTS = UNTRAINED | {
    "no last batch norm": lambda: ResNet18Heatmap(last_batchnorm=False),
    "stride 4, no last batch norm": lambda: ResNet18Heatmap(stride=4, last_batchnorm=False),
    WEIGHTED: lambda: HeatmapNet(
        backbone="efficientnet_lite0", decoder="top-down", stride=4, weights="DEFAULT"
    ),
}


def spread(values):
    return (
        f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
        if len(values) > 1
        else f"{values[0]:.2f}"
    )


def main():
    parser = argparse.ArgumentParser()
    for name, value in (("pictures", 800), ("size", 64), ("epochs", 12), ("seeds", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    print(
        machine(),
        f"{args.pictures} pictures of {args.size}×{args.size}, {args.epochs} rounds, {args.seeds} seeds\n",
        sep="\n",
        flush=True,
    )
    train, valid = (
        pets(n, args.size, seed=s, points=1, masks=False) for n, s in ((args.pictures, 1), (400, 2))
    )
    print("| network | mean error (px) | median (px) |\n|---|---|---|", flush=True)
    nose = error_report(mean_points(train.keypoints, train.visible).expand_as(valid.keypoints), valid)
    print(f"| always the mean nose | {nose['mean']:.2f} | {nose['median']:.2f} |", flush=True)
    for name, build in VARIANTS.items():
        runs = []
        for seed in range(args.seeds):
            seed_everything(seed)
            model = build()
            model.logits = True
            runs.append(
                train_heatmaps(
                    model,
                    train,
                    valid,
                    sigma=args.size / 32,
                    seed=seed,
                    epochs=args.epochs,
                    lr=2e-3,
                    progress=False,
                )
            )
        print(
            "|",
            name,
            "|",
            " | ".join(spread([r["accuracy"][k] for r in runs]) for k in ("mean", "median")),
            "|",
            flush=True,
        )


if __name__ == "__main__":
    main()
