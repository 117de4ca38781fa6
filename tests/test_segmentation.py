"""Segmentation: its objective against counts by hand, its pictures, and its report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import data, objectives
from deepmodels.data.shapes import CLASSES, ShapesSource
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.objectives.segmentation import border_weights
from deepmodels.training.report import draw_segmentation, write_report

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 5, 6, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, (4, 5, 6)).astype(np.int32)
LABELS[1, :2] = 255
LABELS[2][LABELS[2] == 1] = 0  # an image that lacks a class


def call(logits, batch, **options):
    return objectives.create("segmentation", **options)(
        lambda images, key=None: (images, {}), {"image": logits, **batch}, None
    )


def by_hand(logits, label, weight=None):
    """Loss, accuracy and mean IoU of one image."""
    keep = label != 255
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = np.array([-log_p[y, x, label[y, x]] for y, x in np.argwhere(keep)])
    weights = np.ones(len(losses)) if weight is None else weight[keep]
    answer, truth = logits.argmax(-1)[keep], label[keep]
    ious = [((answer == k) & (truth == k)).sum() / ((answer == k) | (truth == k)).sum() for k in np.unique(truth)]
    return (losses * weights).sum() / weights.sum(), (answer == truth).mean(), np.mean(ious)


def test_metrics_are_means_over_images_of_each_images_own():
    loss, (metrics, _) = call(jnp.asarray(LOGITS), {"label": jnp.asarray(LABELS)})
    expected = np.mean([by_hand(*pair) for pair in zip(LOGITS, LABELS, strict=True)], axis=0)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    np.testing.assert_allclose([metrics[name] for name in ("loss", "accuracy", "mean_iou")], expected, rtol=1e-5)


def test_means_over_batches_weighted_by_images_are_those_of_the_whole():
    def metrics(rows, padding=0):
        mask = jnp.concatenate([jnp.ones(len(rows)), jnp.zeros(padding)])
        take = [*rows, *[0] * padding]
        values = call(jnp.asarray(LOGITS[take]), {"label": jnp.asarray(LABELS[take]), "example_mask": mask})[1][0]
        return np.array([values[name] for name in ("loss", "accuracy", "mean_iou")])

    parts = (3 * metrics([0, 1, 2]) + 1 * metrics([3], padding=2)) / 4
    np.testing.assert_allclose(parts, metrics([0, 1, 2, 3]), rtol=1e-5)


def test_an_image_without_labels_costs_nothing_and_has_finite_gradients():
    label = jnp.full((2, 5, 6), 255)
    loss, (metrics, _) = call(jnp.asarray(LOGITS[:2]), {"label": label})
    assert (loss, metrics["accuracy"], metrics["mean_iou"]) == (0, 1, 1)
    gradient = jax.grad(lambda logits: call(logits, {"label": label})[0])(jnp.asarray(LOGITS[:2]))
    np.testing.assert_array_equal(gradient, 0)


def test_weights_of_classes_and_of_pixels():
    weight = RNG.uniform(0, 2, LABELS.shape).astype(np.float32)
    by_class = np.array([0.2, 1.0, 3.0])
    loss, _ = call(
        jnp.asarray(LOGITS),
        {"label": jnp.asarray(LABELS), "weight": jnp.asarray(weight)},
        class_weights=by_class.tolist(),
    )
    whole = weight * by_class[np.where(LABELS == 255, 0, LABELS)]
    rows = zip(LOGITS, LABELS, whole, strict=True)
    np.testing.assert_allclose(loss, np.mean([by_hand(*row)[0] for row in rows]), rtol=1e-5)
    with pytest.raises(ConfigError, match="class_weights: expected one for each of 3 classes, got 2"):
        call(jnp.asarray(LOGITS), {"label": jnp.asarray(LABELS)}, class_weights=(1, 2))


def test_auxiliary_logits_count_by_their_weight():
    batch = {"label": jnp.asarray(LABELS)}
    outputs = jnp.asarray(LOGITS), (jnp.asarray(LOGITS[..., ::-1]),)
    main, auxiliary = call(outputs[0], batch)[0], call(outputs[1][0], batch)[0]
    np.testing.assert_allclose(call(outputs, batch, auxiliary_weight=0.4)[0], main + 0.4 * auxiliary, rtol=1e-6)


def test_labels_of_an_unpadded_network_are_cropped_around_the_middle():
    padded = np.pad(LABELS, ((0, 0), (2, 2), (3, 3)), constant_values=7)
    np.testing.assert_allclose(*(call(jnp.asarray(LOGITS), {"label": jnp.asarray(x)})[0] for x in (LABELS, padded)))
    with pytest.raises(ShapeError, match=r"expected shape \(batch, 5, 6\) or larger, got \(4, 4, 6\)"):
        call(jnp.asarray(LOGITS), {"label": jnp.asarray(LABELS[:, :4])})


def test_the_softmax_of_bfloat16_logits_is_float32():
    assert call(jnp.asarray(LOGITS, jnp.bfloat16), {"label": jnp.asarray(LABELS)})[0].dtype == jnp.float32


def test_border_weights_are_equation_2():
    instances = np.zeros((9, 12), int)
    instances[2:7, 1:4] = 1
    instances[3:6, 6:9] = 2
    instances[8, 11] = 5
    weights = border_weights(instances, w0=10, sigma=5)
    background = instances == 0
    for y, x in np.ndindex(9, 12):
        distances = sorted(np.hypot(*(np.argwhere(instances == n) - (y, x)).T).min() for n in (1, 2, 5))
        term = 10 * np.exp(-(sum(distances[:2]) ** 2) / 50) if background[y, x] else 0
        balance = 54 / (background if background[y, x] else ~background).sum()
        np.testing.assert_allclose(weights[y, x], balance + term, rtol=1e-5)
    one = border_weights((instances == 1).astype(int))
    assert len(np.unique(one)) == 2  # no gap to teach
    np.testing.assert_allclose(border_weights(np.zeros((3, 4), int)), 0.5)


def test_shapes_depend_on_split_and_index_alone():
    source = data.create("shapes", split="train", size=32)
    again = data.create("shapes", split="train", size=32)
    test = data.create("shapes", split="test", size=32)
    assert (len(source), len(test)) == (4_000, 500)
    for index in (0, 3_999):
        np.testing.assert_array_equal(source[index]["image"], again[index]["image"])
        np.testing.assert_array_equal(source[index]["label"], again[index]["label"])
    assert (source[0]["image"] != source[1]["image"]).any()
    assert (source[0]["image"] != test[0]["image"]).any()
    image, label = source[0]["image"], source[0]["label"]
    assert (image.shape, image.dtype, label.shape, label.dtype) == ((32, 32, 1), np.uint8, (32, 32), np.uint8)
    with pytest.raises(IndexError):
        source[4_000]
    with pytest.raises(ConfigError, match="size: expected 24 pixels or more, got 8"):
        data.create("shapes", split="train", size=8)


def test_shapes_are_what_they_were():
    """A change of the drawing changes every result that was measured with it."""
    record = ShapesSource("test")[7]
    # a little room, as processors differ in the last bit of a cosine
    assert record["image"].sum(dtype=int) == pytest.approx(432_537, abs=10)
    assert record["label"].sum(dtype=int) == pytest.approx(1_476, abs=6)


def test_shapes_have_every_class_and_grey_alone_does_not_tell_them():
    records = [ShapesSource("train")[index] for index in range(40)]
    labels, images = (np.stack([record[name] for record in records]) for name in ("label", "image"))
    shares = [(labels == k).mean() for k in range(len(CLASSES))]
    assert 0.5 < shares[0] < 0.85
    assert min(shares[1:]) > 0.04
    best = sum(
        max(np.bincount(labels[images[..., 0] // 8 == g], minlength=4))
        for g in range(32)
        if (images[..., 0] // 8 == g).any()
    )
    assert best / labels.size < shares[0] + 0.05  # the best rule by the grey is hardly better than "background"


def test_the_report_shows_image_truth_and_prediction(tmp_path):
    samples = {
        "images": RNG.integers(0, 255, (3, 16, 16, 1)).astype(np.uint8),
        "labels": RNG.integers(0, 4, (3, 16, 16)).astype(np.uint8),
        "predictions": RNG.integers(0, 4, (3, 12, 12)),
    }
    samples["labels"][0, :4] = 255
    figure = draw_segmentation(samples, CLASSES)
    assert len(figure.axes) == 9
    shown = figure.axes[2].images[0].get_array()
    assert shown.mask[:2].all()  # an unpadded network has no answer near the border
    np.testing.assert_array_equal(shown[2:14, 2:14], samples["predictions"][0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(CLASSES)
    page = write_report(tmp_path, samples=samples, class_names=CLASSES)
    assert (tmp_path / "report" / "samples.png").is_file()
    assert "Sample predictions" in page.read_text()
    with pytest.raises(ShapeError, match=r"samples\['predictions'\]: expected shape \(N, height, width\) with N = 3"):
        write_report(tmp_path, samples=samples | {"predictions": np.zeros(3, int)})
