"""The exercise's score of 298 faces, beside `kpnb.facial.evaluate_batched`.

The exercise asks for one picture at a time.

Run from the repository: `python bench/evaluate_model.py`. Three ways give the score picture by picture:
torch's DataLoader with batch_size=1 over samples that are parsed from a table's text each time they are
asked for, which is how the public exercise stores its faces; the same DataLoader over `ExerciseDataset`,
whose pictures lie in memory; and `evaluate_model`, without a DataLoader. Before anything is timed, all ways
must give the same score to 5 digits.
"""

import statistics

import numpy as np
import torch
from common import machine, measure, table
from torch import nn
from torch.utils.data import DataLoader

from kpnb.backbones import CoarseToFine
from kpnb.facial import ExerciseDataset, all_known, evaluate_batched, evaluate_model
from kpnb.models import NoseNet
from kpnb.scenes import faces

BATCHED = "evaluate_batched"


class TextRows:
    "Faces as a table stores them: 30 numbers, and 9216 grey values in one string; parsed for each sample."

    def __init__(self, ds):
        self.rows = [
            (points.flatten().tolist(), " ".join(map(str, image.flatten().tolist())))
            for points, image in zip(ds.keypoints, ds.ds.images)
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        points, text = self.rows[i]
        image = np.array([int(v) for v in text.split()], np.uint8).reshape(1, 96, 96)
        return {"image": torch.from_numpy(image).float() / 255, "keypoints": torch.tensor(points).view(-1, 2)}


@torch.no_grad()
def with_loader(model, dataset):
    "The score as an exercise's notebook computes it."
    model.eval()
    loss, total = nn.MSELoss(), 0.0
    for sample in DataLoader(dataset, batch_size=1):
        total += loss(model(sample["image"]).view(1, -1, 2), sample["keypoints"]).item()
    return 1 / (2 * total / len(dataset))


def main():
    torch.manual_seed(0)
    samples = ExerciseDataset(all_known(faces(298, 96, seed=2, gray=True, masks=False)))
    text = TextRows(samples)
    networks = {
        "one fully connected layer": nn.Sequential(nn.Flatten(), nn.Linear(96 * 96, 30)),
        "two fully connected layers, 256 units": nn.Sequential(
            nn.Flatten(), nn.Linear(96 * 96, 256), nn.ReLU(), nn.Linear(256, 30)
        ),
        "NoseNet with 4, 8, 16 channels": NoseNet(15, (96, 96), channels=(4, 8, 16)),
        "CoarseToFine": CoarseToFine(15),
    }
    print(machine())
    for name, model in networks.items():
        ways = {
            "DataLoader, parsed from text": lambda m=model: with_loader(m, text),
            "DataLoader": lambda m=model: with_loader(m, samples),
            "evaluate_model": lambda m=model: evaluate_model(m, samples),
            BATCHED: lambda m=model: evaluate_batched(m, samples),
        }
        scores = [way() for way in ways.values()]
        assert max(scores) - min(scores) < 1e-5 * statistics.mean(scores), (name, scores)
        seconds = measure(ways, runs=7, warmup=1)
        print(
            f"\n### {name}: 298 pictures\n\n"
            f"{table(seconds, BATCHED, dict.fromkeys(ways, 'pictures and activations'))}",
            flush=True,
        )


if __name__ == "__main__":
    main()
