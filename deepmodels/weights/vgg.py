"""Where other libraries keep the weights of VGG: their numbers count every layer, so that each size has its own."""

from collections.abc import Mapping

from deepmodels.weights.convert import Rules, Transform, batch_norm, conv, dense, flatten_dense

_STAGE_SIZES = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}

# timm's dense layers are convolutions that see the whole map: (out, C, H, W) and (H * W * C, out)
_WHOLE_MAP = Transform(
    lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]),
    lambda w: w.reshape(7, 7, 512, -1).transpose(3, 2, 0, 1),
)
_PIXEL = Transform(lambda w: w.reshape(w.shape[:2]).transpose(1, 0), lambda w: w.transpose(1, 0)[..., None, None])


def _features(stage_sizes: tuple[int, ...], norm: bool) -> Rules:
    rows, number = [], 0
    for i, size in enumerate(stage_sizes):
        for j in range(size):
            rows += conv(f"features.{number}", f"stage{i}_conv{j}")
            number += 1
            if norm:
                rows += batch_norm(f"features.{number}", f"stage{i}_norm{j}")
                number += 1
            number += 1  # the ReLU
        number += 1  # the max-pooling
    return tuple(rows)


_TORCHVISION_DENSE = (
    *dense("classifier.0", "dense1", flatten_dense(512, 7, 7)),
    *dense("classifier.3", "dense2"),
    *dense("classifier.6", "head"),
)
_TIMM_DENSE = (
    *dense("pre_logits.fc1", "dense1", _WHOLE_MAP),
    *dense("pre_logits.fc2", "dense2", _PIXEL),
    *dense("head.fc", "head"),
)


def _tables(dense_rows: Rules) -> dict[str, Rules]:
    return {
        name + suffix: _features(sizes, norm=bool(suffix)) + dense_rows
        for name, sizes in _STAGE_SIZES.items()
        for suffix in ("", "_bn")
    }


TORCHVISION: Mapping[str, Rules] = _tables(_TORCHVISION_DENSE)
TIMM: Mapping[str, Rules] = _tables(_TIMM_DENSE)
