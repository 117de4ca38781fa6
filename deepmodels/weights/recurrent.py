"""Where other libraries keep the weights of recurrent networks.

torch's `RNN`, `LSTM` and `GRU` have the gates of a layer in one array, in the order in which ours has them too, and two
biases, which a model takes with `recurrent_bias=True`.
"""

from collections.abc import Mapping

from deepmodels.weights.convert import DENSE, Rule, Rules


def recurrent(source: str, target: str) -> Rules:
    """Returns the rows of a `torch.nn.RNN`, `LSTM` or `GRU`, of any number of layers and in both directions.

    Args:
      source: the module's name with a dot behind it, "lstm."; or "" where the module is the whole.
      target: the path of our stack inside "params".
    """
    return tuple(
        row
        for theirs, ours in (("l{layer}", "layer{layer}"), ("l{layer}_reverse", "layer{layer}_reverse"))
        for row in (
            Rule(f"{source}weight_ih_{theirs}", f"params/{target}/{ours}/kernel", DENSE),
            Rule(f"{source}weight_hh_{theirs}", f"params/{target}/{ours}/recurrent_kernel", DENSE),
            Rule(f"{source}bias_ih_{theirs}", f"params/{target}/{ours}/bias"),
            Rule(f"{source}bias_hh_{theirs}", f"params/{target}/{ours}/recurrent_bias"),
        )
    )


TORCH: Mapping[str, Rules] = {name: recurrent("", "stack") for name in ("elman", "lstm", "bilstm", "gru")}


def _g2p_stack(source: str, target: str) -> Rules:
    return (
        Rule(f"{source}_emb", f"params/{'token' if source == 'enc' else 'target'}_embed/embedding"),
        Rule(f"{source}_w_ih", f"params/{target}/layer0/kernel", DENSE),
        Rule(f"{source}_w_hh", f"params/{target}/layer0/recurrent_kernel", DENSE),
        Rule(f"{source}_b_ih", f"params/{target}/layer0/bias"),
        Rule(f"{source}_b_hh", f"params/{target}/layer0/recurrent_bias"),
    )


# https://github.com/Kyubyong/g2p, checkpoint20.npz
G2P_EN: Rules = (
    *_g2p_stack("enc", "encoder"),
    *_g2p_stack("dec", "decoder"),
    Rule("fc_w", "params/head/kernel", DENSE),
    Rule("fc_b", "params/head/bias"),
)
