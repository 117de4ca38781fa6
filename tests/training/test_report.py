"""The report holds what it is given, leaves out what it isn't, and needs no other file."""

import base64
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from deepmodels.errors import ShapeError
from deepmodels.training import report
from deepmodels.training.report import draw_confusion, draw_curves, draw_filters, draw_samples, write_report

NAMES = ["cat", "dog", "<b>"]
HISTORY = [
    {"step": 0, "compile_seconds": 2.0},
    {"step": 1, "train/loss": 2.0, "train/accuracy": 0.3, "train/learning_rate": 0.1},
    {"step": 2, "train/loss": None, "train/accuracy": 0.5, "train/learning_rate": 0.05},
    {"step": 2, "validation/loss": 1.5, "validation/accuracy": 0.4},
    {"step": 3, "train/loss": 1.0, "train/accuracy": 0.6, "train/learning_rate": 0.0},
]


def make_samples(right=(True, False, False, True)):
    labels = np.array([0, 1, 2, 0])
    predictions = np.where(right, labels, (labels + 1) % 3)
    probabilities = np.full((4, 3), 0.1)
    probabilities[np.arange(4), predictions] = [0.5, 0.6, 0.9, 0.8]
    images = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8, 1)
    return {"images": images, "labels": labels, "predictions": predictions, "probabilities": probabilities}


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


@pytest.fixture(scope="module", autouse=True)
def as_runs_draw():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "DPI", 150)
        patch.setattr(report, "SHOWN", 24)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory, as_runs_draw):
    workdir = tmp_path_factory.mktemp("run")
    page = write_report(
        workdir,
        history=HISTORY,
        confusion=np.array([[5, 1, 0], [2, 3, 0], [0, 0, 4]]),
        class_names=NAMES,
        filters=np.random.default_rng(0).normal(size=(5, 5, 1, 6)),
        samples=make_samples(),
        summary_text="conv1  <Conv>",
        config_text="seed: 0",
        facts={"Test accuracy": 0.98761, "Parameters": 61706, "Devices": "8 x cpu"},
        title="lenet5 & <others>",
    )
    return workdir, page


def test_it_writes_the_page_and_the_pictures(written):
    workdir, page = written
    assert page == workdir / "report.html"
    names = {path.name for path in (workdir / "report").iterdir()}
    assert names == {"curves.png", "confusion.png", "filters.png", "samples.png", "mistakes.png"}
    for path in (workdir / "report").iterdir():
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 80, path
        assert pixels.std() > 5, path


def test_the_page_holds_its_pictures_and_needs_nothing_else(written):
    workdir, page = written
    text = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) == 5
    embedded = {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources}
    assert embedded == {path.read_bytes() for path in (workdir / "report").iterdir()}


def test_the_page_is_tidy_and_escaped(written):
    text = written[1].read_text()
    open_tags = []

    class Tidy(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img"):
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Tidy().feed(text)
    assert open_tags == []
    assert "<title>lenet5 &amp; &lt;others&gt;</title>" in text
    assert "conv1  &lt;Conv&gt;" in text
    assert "<th>Test accuracy</th><td>0.9876</td>" in text
    assert "<th>Parameters</th><td>61,706</td>" in text
    assert "prefers-color-scheme: dark" in text


def test_nothing_given_is_nothing_shown(tmp_path):
    text = write_report(tmp_path).read_text()
    assert list((tmp_path / "report").iterdir()) == []
    assert "<section>" not in text
    assert "<table>" not in text


def test_no_mistakes_is_no_picture_of_them(tmp_path):
    write_report(tmp_path, samples=make_samples(right=(True, True, True, True)))
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["samples.png"]


def test_curves_are_told_apart_by_what_they_were_measured_on():
    loss, accuracy, learning_rate = draw_curves(HISTORY).axes
    assert [line.get_label() for line in loss.lines] == ["train", "validation"]
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[1, 2.0], [3, 1.0]], [[2, 1.5]]]
    assert [line.get_label() for line in accuracy.lines] == ["train", "validation"]
    assert learning_rate.lines[0].get_ydata().tolist() == [0.1, 0.05, 0.0]
    assert len(draw_curves([{"step": 1, "loss": 0.5}]).axes) == 1


def test_the_confusion_matrix_says_counts_and_names_while_there_is_room():
    axes = draw_confusion(np.array([[5, 1], [0, 3]]), ["cat", "dog"]).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["1", "3", "5"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert axes.images[0].get_array()[0].tolist() == pytest.approx([5 / 6, 1 / 6])
    large = draw_confusion(np.eye(100, dtype=int)).axes[0]
    assert not large.texts
    assert len(large.get_yticks()) < 30


@pytest.mark.parametrize("shape", [(5, 5, 1, 6), (7, 7, 3, 64), (3, 3, 2, 100), (1, 1, 1, 1)])
def test_filters_of_any_kernel(shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    picture = np.asarray(draw_filters(kernel).axes[0].images[0].get_array())
    if shape[2] == 3:
        first = kernel[..., 0]
        np.testing.assert_allclose(picture[:7, :7], (first - first.min()) / np.ptp(first), rtol=1e-5)
    else:
        np.testing.assert_allclose(picture[: shape[0], : shape[1]], kernel[..., 0, 0])


def test_samples_say_what_was_predicted_how_surely_and_what_is_true():
    axes = draw_samples(make_samples(), [0, 1], NAMES).axes
    assert [a.get_title() for a in axes] == ["✓ cat 50%", "✗ <b> 60%"]
    assert [a.get_xlabel() for a in axes] == ["", "is dog"]


def test_mistakes_come_most_confident_first(tmp_path, monkeypatch):
    shown = []

    def draw(samples, indices, class_names):
        shown.append(list(indices))
        return draw_curves(HISTORY)

    monkeypatch.setattr("deepmodels.training.report.draw_samples", draw)
    write_report(tmp_path, samples=make_samples())
    assert shown == [[2, 1], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"confusion": np.zeros((3, 2))}, r"confusion: expected shape \(classes, classes\), got \(3, 2\)"),
        ({"confusion": np.eye(3, dtype=int), "class_names": ["a"]}, "class_names: expected 3, .* got 1"),
        ({"filters": np.zeros((3, 3))}, r"filters: expected shape"),
        ({"samples": make_samples() | {"images": np.zeros((4, 8, 8, 1))}}, r"samples\['images'\]: expected uint8"),
        ({"samples": make_samples() | {"labels": np.zeros(3, int)}}, r"samples\['labels'\]: .* N = 4, got \(3,\)"),
        ({"samples": make_samples() | {"probabilities": np.zeros(4)}}, r"samples\['probabilities'\]: expected"),
    ],
)
def test_bad_arrays_are_named_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(ShapeError, match=message):
        write_report(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_it_keeps_out_of_pyplot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now raises ImportError
    write_report(tmp_path, history=HISTORY, samples=make_samples(), filters=np.ones((3, 3, 1, 2)))
    assert (tmp_path / "report" / "curves.png").exists()


def test_examples_are_a_table_of_texts(tmp_path):
    examples = {"input": ["a <b> c", "x" * 500], "target": ["one", "two"]}
    page = write_report(tmp_path, examples=examples).read_text()
    assert "<tr><th>input</th><th>target</th></tr><tr><td>a &lt;b&gt; c</td><td>one</td></tr>" in page
    assert f"<td>{'x' * 239}…</td><td>two</td>" in page
