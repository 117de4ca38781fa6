"""Where the authors' PyTorch code keeps the weights of pix2pix and CycleGAN: a file for each network.

Here the name of the network stands before its own names: "G." and "D." of pix2pix; "G_A." and "D_A." of CycleGAN's
direction there, which ours call "forth", "G_B." and "D_B." of the way back.
"""

from deepmodels.weights.convert import Rule, Rules, batch_norm, conv

_DOWNS = 8


def _unet(source: str, target: str) -> Rules:
    rows, block = [], f"{source}.model"
    for i in range(_DOWNS):
        inner = i == _DOWNS - 1
        down, up = (0, 3) if i == 0 else (1, 3 if inner else 5)
        rows += [conv(f"{block}.model.{down}", f"{target}/down{i}"), conv(f"{block}.model.{up}", f"{target}/up{i}")]
        if i:
            rows += [batch_norm(f"{block}.model.{up + 1}", f"{target}/up{i}_norm")]
            rows += [] if inner else [batch_norm(f"{block}.model.2", f"{target}/down{i}_norm")]
        block += ".model.1" if i == 0 else ".model.3"
    return tuple(row for group in rows for row in group)


def _patches(source: str, target: str) -> Rules:
    places = (0, 2, 5, 8, 11)
    convs = [conv(f"{source}.model.{place}", f"{target}/conv{i}") for i, place in enumerate(places)]
    norms = [batch_norm(f"{source}.model.{place + 1}", f"{target}/norm{i + 1}") for i, place in enumerate(places[1:4])]
    return tuple(row for group in (*convs, *norms) for row in group)


def _resnet(source: str, target: str) -> Rules:
    places = {1: "first", 4: "down0", 7: "down1", 19: "up1", 22: "up0", 26: "last"}  # of nine blocks
    blocks = {10 + i: f"block{i}" for i in range(9)}
    named = [conv(f"{source}.model.{place}", f"{target}/{name}") for place, name in places.items()]
    for place, name in blocks.items():
        named += [
            conv(f"{source}.model.{place}.conv_block.{n}", f"{target}/{name}_conv{i}") for n, i in ((1, 1), (5, 2))
        ]
    return tuple(row for group in named for row in group)


PIX2PIX: Rules = (*_unet("G", "generator"), *_patches("D", "discriminator"))
CYCLEGAN: Rules = (
    *_resnet("G_A", "generator/forth"),
    *_resnet("G_B", "generator/back"),
    *_patches("D_A", "discriminator/forth"),
    *_patches("D_B", "discriminator/back"),
    Rule("{*}.running_mean", None),  # of instance normalisation, in old files; nothing uses them
    Rule("{*}.running_var", None),
)
