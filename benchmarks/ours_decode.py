"""Our side of a decoding benchmark: `deepmodels.generate` with one prompt, the parameters taken apart before."""

import jax
import turns

from deepmodels import generation, loading
from deepmodels.layers.stack import unstack

PROMPT = [*range(100, 1700, 100)]


def start(arguments: list[str]):
    """Returns (step, facts) for the arguments [a model's folder, number of tokens]."""
    folder, count = arguments[0], int(arguments[1])
    model, variables = loading.load_folder(folder, cast=True)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    variables = jax.jit(unstack)(variables)

    def step() -> list[int]:
        return generation.generate(model, variables, [PROMPT], max_new_tokens=count)[0].tokens

    return step, {"version": f"jax {jax.__version__}", "bytes": size, "tokens": step()}


if __name__ == "__main__":
    turns.serve(start)
