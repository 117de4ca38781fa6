"""Makes the weights that fine-tuning begins with of a deep belief network's: unrolled to an autoencoder, or untied.

python experiments/data/unroll.py runs/deep/layer3/checkpoints/5500 runs/deep/unrolled.npz
python experiments/data/unroll.py --untie runs/dbn/layer2/checkpoints/5500 runs/dbn/untied.npz
"""

import argparse

from deepmodels import trees
from deepmodels.models.boltzmann import unroll, untie
from deepmodels.weights import files

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--untie", action="store_true", help="recognition weights of its own, for the up-down algorithm")
parser.add_argument("source", help="a checkpoint, or any file of the network's weights")
parser.add_argument("target", help="the .npz file to write")
options = parser.parse_args()

arrays = files.read(options.source)
params = {name.removeprefix("params/"): array for name, array in arrays.items() if name.startswith("params/")}
made = (untie if options.untie else unroll)(params)
files.write(options.target, trees.flatten({"params": made}))
print(f"{options.target}: {trees.count(made):,} parameters")
