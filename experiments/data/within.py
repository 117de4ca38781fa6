"""Makes weights of one network those of a part of a larger one, for a run that begins with them.

python experiments/data/within.py runs/srresnet/checkpoints/2500 generator runs/generator.npz
"""

import argparse

from deepmodels.weights import files

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("source", help="a checkpoint, or any file of the network's weights")
parser.add_argument("part", help="the name of the network in the larger one")
parser.add_argument("target", help="the .npz file to write")
options = parser.parse_args()

arrays = files.read(options.source)
placed = {}
for name, array in arrays.items():
    collection, _, rest = name.partition("/")
    if collection in ("params", "batch_stats"):
        placed[f"{collection}/{options.part}/{rest}"] = array
files.write(options.target, placed)
print(f"{options.target}: {len(placed)} arrays")
