"""Print what stock diffusers makes of a folder with classes: `python benchmarks/stock_classes.py`, 3 minutes.

A network is trained on digits by class (see guidance.py) and saved. A process in which this package cannot be
imported loads the folder by `DiffusionPipeline.from_pretrained(folder)`, without a flag, and samples. A
classifier of real digits says whether they are what was asked for.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import sklearn.datasets
import torch
from sklearn.svm import SVC

from guidance import train

_STOCK = """
import sys
sys.modules["ddpm_from_scratch"] = None
import numpy, torch
from diffusers import DiffusionPipeline
folder, out, count, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pipe = DiffusionPipeline.from_pretrained(folder)
pipe.set_progress_bar_config(disable=True)
labels, generator = [i % 10 for i in range(count)], torch.Generator().manual_seed(1)
made = pipe(count, class_labels=labels, num_inference_steps=steps, generator=generator, output_type="np")
numpy.save(out, made.images)
print(f"{type(pipe).__name__} with {type(pipe.scheduler).__name__}")
"""


def main() -> None:
    """Train, save, sample in both ways, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--num_updates", type=int, default=1500)
    parser.add_argument("--num_inference_steps", type=int, default=100)
    parser.add_argument("--num_samples", type=int, default=500)
    options = parser.parse_args()
    count, steps = options.num_samples, options.num_inference_steps
    digits = sklearn.datasets.load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    classifier = SVC(C=10).fit(images[::2].flatten(1).numpy(), labels[::2].numpy())
    pipeline = train(images[::2], labels[::2], options.num_updates)
    asked = torch.arange(count) % 10
    made = {
        "this package": pipeline(
            count, torch.Generator().manual_seed(1), steps, class_labels=asked, output_type="np"
        ).images
    }
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        out = Path(folder) / "images.npy"
        command = [sys.executable, "-c", _STOCK, folder, str(out), str(count), str(steps)]
        name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        made[name] = np.load(out)
    for name, pictures in made.items():
        share = classifier.score(2 * pictures.reshape(count, -1) - 1, asked.numpy())
        print(f"{name:55}  {share:.1%} recognised as asked")
    first, second = made.values()
    print(f"largest difference of a pixel: {abs(first - second).max():.2g}")


if __name__ == "__main__":
    main()
