"""Where PyTorch's DCGAN example keeps its weights: a generator and a discriminator, here under these names."""

from deepmodels.weights.convert import CONV, Rule, Rules, batch_norm

DCGAN: Rules = (
    *(Rule(f"generator.main.{3 * i}.weight", f"params/generator/conv{i}/kernel", CONV) for i in range(5)),
    *(row for i in range(4) for row in batch_norm(f"generator.main.{3 * i + 1}", f"generator/norm{i}")),
    Rule("discriminator.main.0.weight", "params/discriminator/conv0/kernel", CONV),
    *(
        Rule(f"discriminator.main.{3 * i - 1}.weight", f"params/discriminator/conv{i}/kernel", CONV)
        for i in range(1, 5)
    ),
    *(row for i in range(1, 4) for row in batch_norm(f"discriminator.main.{3 * i}", f"discriminator/norm{i}")),
)
