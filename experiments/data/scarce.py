"""Makes a class of Fashion-MNIST scarce, fills it up with a model's pictures, and says how many of it are found.

python experiments/data/scarce.py cut data/scarce
python experiments/data/scarce.py generate runs/scarce/vae data/scarce
python experiments/data/scarce.py recall runs/scarce/scarce runs/scarce/repeated runs/scarce/generated

cut writes scarce.npz and repeated.npz, in which the pictures that are left of the class are repeated; generate writes
generated.npz, in which what a run's conditional model makes is added to them instead. recall prints for each run the
share of the class's test pictures that it takes for that class, what share of those it takes for it are, and the
accuracy.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from deepmodels import augment, data
from deepmodels.data.sources import permutation
from deepmodels.training.loop import load_run
from deepmodels.training.workdir import read_config

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--label", type=int, default=4, help="the class; 4, coats, if it isn't given")
parser.add_argument("--keep", type=int, default=50, help="how many training pictures of it are left")
parser.add_argument("--data", default="fashion_mnist", help="name of the data set")
actions = parser.add_subparsers(dest="action", required=True)
actions.add_parser("cut").add_argument("folder", type=Path)
generate = actions.add_parser("generate")
generate.add_argument("run", help="the folder of a run of a conditional model")
generate.add_argument("folder", type=Path)
actions.add_parser("recall").add_argument("runs", nargs="+", help="folders of runs of a classifier")
options = parser.parse_args()


def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of a split."""
    source = data.create(options.data, split=split)
    records = data.gather(source, np.arange(len(source)))
    return records["image"], records["label"]


def write(name: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes a data set of these training records and all test records."""
    test_images, test_labels = read("test")
    path = options.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, train_image=images, train_label=labels, test_image=test_images, test_label=test_labels)
    print(f"{path}: {len(labels):,} pictures, {int((labels == options.label).sum()):,} of class {options.label}")


def normalised(folder: str) -> tuple[float, float]:
    """Returns the mean and deviation by which a run normalises pictures."""
    section = read_config(folder)["data"]
    return section.get("mean", 0.0), section.get("std", 1.0)


if options.action == "recall":
    images, labels = read("test")
    for folder in options.runs:
        model, variables, _ = load_run(folder)
        logits = jax.jit(model.apply)(variables, augment.normalize(jax.numpy.asarray(images), *normalised(folder)))
        found, true = np.asarray(logits).argmax(-1), labels == options.label
        hits = (found[true] == options.label).sum()
        shares = hits / true.sum(), hits / max(1, (found == options.label).sum()), (found == labels).mean()
        print(f"{folder}: recall {shares[0]:.1%}, precision {shares[1]:.1%}, accuracy of all {shares[2]:.1%}")
else:
    images, labels = read("train")
    (places,) = np.nonzero(labels == options.label)
    kept = places[permutation(len(places), 0)[: options.keep]]
    rest = np.flatnonzero(labels != options.label)
    more = len(places) - len(kept)
    if options.action == "cut":
        for name, chosen in {"scarce": kept, "repeated": np.resize(kept, len(places))}.items():
            order = np.concatenate([rest, chosen])
            write(f"{name}.npz", images[order], labels[order])
    else:
        model, variables, _ = load_run(options.run)
        mean, std = normalised(options.run)
        label = np.full(more, options.label, np.int32)
        made = model.apply(variables, jax.random.key(0), more, label=label, method="sample")
        made = np.round(255 * (np.asarray(made) * std + mean).clip(0, 1)).astype(np.uint8)
        order = np.concatenate([rest, kept])
        write("generated.npz", np.concatenate([images[order], made]), np.concatenate([labels[order], label]))
