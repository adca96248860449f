"""Train the classifier of this comparison: a minute on one thread. `python benchmarks/field/train_classifier.py`"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from field_model import WEIGHTS, Classifier, accuracy, load_classifier, pictures
from safetensors.torch import save_file

SEED, STEPS, BATCH = 0, 1200, 128
HELD_OUT_SEED = 10**6  # training draws from seeds below STEPS


def train() -> Classifier:
    """Adam, one cycle, label smoothing: without it cross entropy saturates to a gradient of exactly zero in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = Classifier()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=STEPS)
    began = time.monotonic()
    for step in range(STEPS):
        images, labels = pictures(BATCH, SEED + step)
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 199:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where to write the weights (float16 safetensors)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = train()
    weights = {name: weight.detach().half().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, options.out, metadata={"made_by": "train_classifier.py", "seed": str(SEED)})
    if options.out == WEIGHTS:
        model = load_classifier()  # what is committed is what is measured
    print(f"clean accuracy on 5000 held-out pictures: {accuracy(model, 5000, HELD_OUT_SEED):.4f}")


if __name__ == "__main__":
    main()
