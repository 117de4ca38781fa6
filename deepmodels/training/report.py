"""The report of a finished run: curves, confusion matrix, filters and samples as PNGs, and one page that shows them."""

import base64
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepmodels.errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {  # metric: title, in this order
    "loss": "Loss",
    "accuracy": "Accuracy",
    "mean_iou": "Mean IoU",
    "perplexity": "Perplexity",
    "psnr": "PSNR (dB)",
    "kl": "KL (nats)",
    "discriminator_loss": "Discriminator's loss",
    "generator_loss": "Generator's loss",
    "learning_rate": "Learning rate",
}
_COLORS = ("#2563eb", "#ea580c", "#059669", "#7c3aed", "#db2777")
_INK, _MUTED, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_RIGHT, _WRONG = "#15803d", "#dc2626"
DPI = 150  # of the pictures; in tests fewer
SHOWN = 24  # samples, and mistakes, at most; in tests fewer
_LONGEST = 240  # characters of a text in the table of examples
_SEGMENTED = 12  # samples at most that show a class for each pixel
_MAX_NAMED = 40  # classes; the confusion matrix of more has no room for their names
_MAX_COUNTED = 15  # classes; nor, of more, for the counts


def write_report(
    workdir: Path | str,
    *,
    history: Sequence[Mapping[str, float]] = (),
    confusion: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    filters: np.ndarray | None = None,
    samples: Mapping[str, np.ndarray] | None = None,
    examples: Mapping[str, Sequence[str]] | None = None,
    attention: Sequence[tuple[Sequence[str], Sequence[str], np.ndarray]] | None = None,
    pictures: Mapping[str, Path] | None = None,
    summary_text: str = "",
    config_text: str = "",
    facts: Mapping[str, Any] | None = None,
    title: str = "Training report",
) -> Path:
    """Writes report.html, which needs no other file, and the PNGs it shows into report/; returns the page's path.

    Every part is left out if its argument is None or empty.
    - history: what metrics.jsonl holds: dicts with "step" and metrics, named as in `PANELS`,
      "loss" and "accuracy" say, for training and with a prefix for anything else ("validation/loss"); None where a
      value wasn't finite
    - confusion: counts of shape (classes, classes), rows the true class; `class_names` has one name per class
    - filters: the first layer's kernel, of shape (height, width, channels in, channels out)
    - samples: "images" uint8 (N, height, width, 1 or 3), "labels" and "predictions" integers (N,), "probabilities"
      float (N, classes); or, of each pixel, "labels" and "predictions" integers (N, height, width), the predictions
      perhaps smaller, for the middle
    - examples: texts by column, {"input": [...], "target": [...], "prediction": [...]}, as many in each; of a long text
      the beginning is shown
    - attention: of a few texts each, the tokens that were read, S of them, and written, T, and weights (layers, T, S)
    - pictures: PNGs by name, shown as they are, a small one larger
    - summary_text, config_text: shown as they are
    - facts: what the table at the top says, in its order; text, or numbers (a whole number gets its thousands)

    Raises ShapeError if an array has another shape than that.
    """
    if confusion is not None and (confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]):
        raise ShapeError(f"confusion: expected shape (classes, classes), got {confusion.shape}")
    if confusion is not None and class_names is not None and len(class_names) != len(confusion):
        raise ShapeError(f"class_names: expected {len(confusion)}, one per row of confusion, got {len(class_names)}")
    if filters is not None and filters.ndim != 4:
        raise ShapeError(f"filters: expected shape (height, width, channels in, channels out), got {filters.shape}")
    if samples is not None:
        _check_samples(samples)

    figures: dict[str, tuple[str, Figure]] = {}
    if any(_series(history, metric) for metric in PANELS):
        figures["curves"] = "Training curves", draw_curves(history)
    if confusion is not None:
        figures["confusion"] = "Confusion matrix", draw_confusion(confusion, class_names)
    if samples is not None and samples["labels"].ndim == 3:
        figures["samples"] = "Sample predictions", draw_segmentation(samples, class_names)
    elif samples is not None and len(samples["images"]):
        wrong = np.flatnonzero(samples["predictions"] != samples["labels"])
        if len(wrong):
            surest = wrong[np.argsort(-_confidence(samples)[wrong], kind="stable")]
            figures["mistakes"] = "Most confident mistakes", draw_samples(samples, surest[:SHOWN], class_names)
        shown = np.arange(min(SHOWN, len(samples["images"])))
        figures["samples"] = "Sample predictions", draw_samples(samples, shown, class_names)
    if filters is not None:
        figures["filters"] = "First-layer filters", draw_filters(filters)
    if attention:
        figures["attention"] = "Attention of what was written to what was read", draw_attention(attention)

    workdir = Path(workdir)
    folder = workdir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    sections = []
    for name, (heading, figure) in figures.items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=DPI, facecolor="white")
        data = base64.b64encode(path.read_bytes()).decode()
        image = f'<img alt="{escape(heading)}" src="data:image/png;base64,{data}">'
        sections.append(f"<section><h2>{escape(heading)}</h2><figure>{image}</figure></section>")
    for name, path in (pictures or {}).items():
        data = base64.b64encode(path.read_bytes()).decode()
        image = f'<img class="pixels" alt="{escape(name)}" src="data:image/png;base64,{data}">'
        heading = f"{name.capitalize()}: {path.name}"
        sections.append(f"<section><h2>{escape(heading)}</h2><figure>{image}</figure></section>")
    if examples is not None:
        sections.append(f"<section><h2>Examples</h2>{_examples(examples)}</section>")
    for heading, text in (("Model", summary_text), ("Config", config_text)):
        if text:
            sections.append(f"<section><h2>{heading}</h2><pre>{escape(text)}</pre></section>")
    page = workdir / "report.html"
    page.write_text(_page(title, facts or {}, sections), encoding="utf-8")
    return page


def draw_curves(history: Sequence[Mapping[str, float]]) -> "Figure":
    """Returns a figure with a panel each for loss, accuracy and learning rate, as far as `history` holds them."""
    panels = {metric: series for metric in PANELS if (series := _series(history, metric))}
    figure = _figure(4.6 * len(panels), 3.4, layout="constrained")
    for number, (metric, series) in enumerate(panels.items(), start=1):
        axes = _axes(figure, len(panels), number)
        axes.set_title(PANELS[metric], loc="left", fontsize=11, fontweight="bold", color=_INK)
        axes.set_xlabel("step", color=_MUTED)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        for color, (label, (steps, values)) in zip(_COLORS, series.items(), strict=False):
            few = {"marker": "o", "markersize": 3.5, "linewidth": 1.8} if len(steps) <= 30 else {"linewidth": 1.2}
            axes.plot(steps, values, color=color, label=label, **few)
        if len(series) > 1:
            axes.legend(frameon=False, labelcolor=_INK, fontsize=9)
        axes.margins(x=0.02)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
        if metric == "accuracy":
            axes.yaxis.set_major_formatter("{x:.0%}")
    return figure


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str] | None = None) -> "Figure":
    """Returns a figure of a confusion matrix (rows the true class), coloured by each row's shares.

    Up to fifteen classes show their counts too, up to forty their names.
    """
    classes = len(confusion)
    names = [str(name) for name in class_names or range(classes)]
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = min(9.0, max(4.6, 2.2 + 0.5 * classes))
    figure = _figure(side + 0.8, side, layout="constrained")
    axes = _axes(figure)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted", color=_MUTED)
    axes.set_ylabel("true", color=_MUTED)
    if classes <= _MAX_NAMED:
        size = 9 if classes <= _MAX_COUNTED else 7
        axes.set_xticks(range(classes), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
        axes.set_yticks(range(classes), names, fontsize=size)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if classes <= _MAX_COUNTED:
        axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        for row, column in np.argwhere(confusion > 0):
            color = "white" if shares[row, column] > 0.5 else _INK
            axes.text(column, row, f"{confusion[row, column]:,}", ha="center", va="center", color=color, fontsize=8.5)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, format="{x:.0%}")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=_MUTED)
    bar.set_label("share of the true class", color=_MUTED, fontsize=9)
    return figure


def draw_filters(filters: np.ndarray) -> "Figure":
    """Returns a figure of the filters of a kernel of shape (height, width, channels in, channels out), up to 64.

    Three input channels show as colours, each filter scaled to its own range; otherwise the first channel shows with
    white at zero, red above and blue below, all filters on one scale.
    """
    filters = np.moveaxis(np.asarray(filters, np.float32)[..., :64], -1, 0)
    count, height, width, channels = filters.shape
    if channels == 3:
        low, high = filters.min((1, 2, 3), keepdims=True), filters.max((1, 2, 3), keepdims=True)
        pixels = (filters - low) / np.where(high > low, high - low, 1.0)
    else:
        pixels = filters[..., :1]
    columns = min(count, 16 if count > 32 else 8)
    rows = -(-count // columns)
    gap = max(1, width // 8)
    mosaic = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, pixels.shape[-1]), np.nan)
    for number, picture in enumerate(pixels):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        mosaic[top : top + height, left : left + width] = picture
    figure = _figure(0.72 * columns, 0.72 * columns * mosaic.shape[0] / mosaic.shape[1])
    axes = _picture(figure, 0, 0, 1, 1)
    if channels == 3:
        axes.imshow(np.where(np.isnan(mosaic), 1.0, mosaic), interpolation="nearest")
    else:
        limit = np.nanmax(np.abs(mosaic)) or 1.0
        axes.set_facecolor(_GRID)  # shows between the filters, whose zero is white
        axes.imshow(mosaic[..., 0], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    return figure


def draw_samples(
    samples: Mapping[str, np.ndarray], indices: Sequence[int], class_names: Sequence[str] | None = None
) -> "Figure":
    """Returns a figure of the samples at `indices` with their predictions, green if right, else red with the truth.

    `samples` is as in `write_report`.
    """

    def name(label: int) -> str:
        text = str(class_names[label]) if class_names is not None else str(label)
        return text if len(text) <= 16 else text[:15] + "…"

    columns = min(8, len(indices))
    rows = -(-len(indices) // columns)
    cell_width, cell_height, side = 1.45, 1.85, 1.3  # inches; a line of text fits above the picture and one below
    figure = _figure(cell_width * columns, cell_height * rows)
    confidence = _confidence(samples)
    for number, index in enumerate(indices):
        left = number % columns + (1 - side / cell_width) / 2
        bottom = rows - 1 - number // columns + (1 - side / cell_height) / 2
        size = side / cell_width / columns, side / cell_height / rows
        axes = _picture(figure, left / columns, bottom / rows, *size)
        pixels = samples["images"][index]
        axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
        label, prediction = int(samples["labels"][index]), int(samples["predictions"][index])
        right = label == prediction
        color = _RIGHT if right else _WRONG
        mark = "✓" if right else "✗"
        axes.set_title(f"{mark} {name(prediction)} {confidence[index]:.0%}", fontsize=8, color=color, pad=4)
        axes.set_xlabel("" if right else f"is {name(label)}", fontsize=8, color=_MUTED, labelpad=3)
        for spine in axes.spines.values():
            spine.set(visible=True, color=color, linewidth=1.6)
    return figure


def draw_segmentation(samples: Mapping[str, np.ndarray], class_names: Sequence[str] | None = None) -> "Figure":
    """Returns a figure of the first twelve samples, each as image, true classes and predicted classes side by side.

    `samples` is as in `write_report`, of each pixel. What has another number than a class's, as pixels have that count
    for nothing, stays white.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    count = min(_SEGMENTED, len(samples["images"]))
    classes = len(class_names) if class_names else 1 + max(samples[name].max() for name in ("labels", "predictions"))
    names = [str(name) for name in class_names or range(classes)]
    colors = [_GRID, *(_COLORS[i % len(_COLORS)] for i in range(classes - 1))]  # beyond six classes colours come again
    rows, side, gap, foot = -(-count // 2), 1.3, 0.12, 0.55  # inches
    width, height = 6 * side + 9 * gap, rows * (side + gap) + foot
    figure = _figure(width, height)
    for number in range(count):
        image, label = samples["images"][number], samples["labels"][number]
        prediction = samples["predictions"][number]
        whole = np.full(label.shape, -1)
        top, left = (np.array(label.shape) - prediction.shape) // 2
        whole[top : top + prediction.shape[0], left : left + prediction.shape[1]] = prediction
        bottom = foot + (rows - 1 - number // 2) * (side + gap)
        for i, (title, pixels) in enumerate({"image": image, "truth": label, "prediction": whole}.items()):
            start = gap + number % 2 * (3 * side + 4 * gap) + i * (side + gap)
            axes = _picture(figure, start / width, bottom / height, side / width, side / height)
            if title == "image":
                axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
            else:
                shown = np.ma.masked_outside(pixels, 0, classes - 1)
                axes.imshow(shown, cmap=ListedColormap(colors), vmin=-0.5, vmax=classes - 0.5, interpolation="nearest")
            if number // 2 == rows - 1:
                axes.set_xlabel(title, fontsize=8, color=_MUTED, labelpad=3)
    keys = [Patch(color=color, label=name) for color, name in zip(colors, names, strict=True)]
    figure.legend(handles=keys[:20], loc="lower center", ncols=min(6, classes), frameon=False, fontsize=8)
    return figure


def draw_attention(looks: Sequence[tuple[Sequence[str], Sequence[str], np.ndarray]]) -> "Figure":
    """Returns a figure of the weights of attention: a row for each text, a column for each layer, black is all of it.

    `looks` is `attention` as in `write_report`.
    """
    cell, margin, gap = 0.16, 1.0, 0.3  # inches; of a token, of their names, between layers
    layers = max(len(weights) for _, _, weights in looks)
    wide, heights = max(len(source) for source, _, _ in looks), [len(written) * cell for _, written, _ in looks]
    width, height = 2 * margin + layers * (wide * cell + gap), sum(heights) + len(looks) * (margin + gap)
    figure, top = _figure(width, height), height
    for number, (source, written, weights) in enumerate(looks):
        top -= margin + heights[number]
        for layer, shares in enumerate(weights):
            left = margin + layer * (wide * cell + gap)
            size = len(source) * cell, heights[number]
            axes = _picture(figure, left / width, top / height, size[0] / width, size[1] / height)
            axes.imshow(shares, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            axes.spines[:].set(visible=True, color=_GRID)
            axes.xaxis.tick_top()
            axes.set_xticks(range(len(source)), _plain_text(source), rotation=90, fontsize=7, color=_INK)
            axes.set_yticks(range(len(written)) if layer == 0 else [], _plain_text(written) if layer == 0 else [])
            axes.tick_params(length=0, labelsize=7)
            if len(weights) > 1:
                axes.set_xlabel(f"layer {layer + 1}", fontsize=8, color=_MUTED, labelpad=3)
        top -= gap
    return figure


def draw_sweep(
    metric: str, values: Sequence[float], parameters: Mapping[str, Sequence[Any]], logarithmic: Collection[str] = ()
) -> "Figure":
    """Returns a figure with a panel for each parameter of a sweep, a point in it for each trial; the first is the best.

    Args:
      metric: name of what is compared.
      values: of the metric, one for each trial.
      parameters: by name, one value for each trial.
      logarithmic: names of those that are shown on a logarithmic axis.
    """
    columns = min(4, len(parameters))
    rows = -(-len(parameters) // columns)
    figure = _figure(3.6 * columns + 0.6, 3.2 * rows, layout="constrained")
    spread = min(values) > 0 and max(values) > 50 * min(values)
    for number, (name, column) in enumerate(parameters.items(), start=1):
        axes = _axes(figure, columns, number, rows)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_xlabel(name, color=_MUTED)
        if spread:
            axes.set_yscale("log")
        if number % columns == 1 or columns == 1:
            axes.set_ylabel(metric, color=_MUTED)
        if all(type(value) in (int, float) for value in column):
            places = list(column)
            if name in logarithmic:
                axes.set_xscale("log")
            if len(set(places)) <= 6:  # the values themselves, in place of powers of ten and what is between
                axes.set_xticks(sorted(set(places)), [f"{place:.4g}" for place in sorted(set(places))])
                axes.minorticks_off()
        else:
            labels = list(dict.fromkeys(map(str, column)))
            places = [labels.index(str(value)) for value in column]
            axes.set_xticks(range(len(labels)), labels)
            axes.margins(x=0.3)
        axes.scatter(places, values, s=26, color=_COLORS[0], alpha=0.75, linewidths=0, zorder=3)
        axes.scatter(places[:1], values[:1], s=64, color=_COLORS[1], linewidths=0, zorder=3, label="best")
        if number == 1:
            axes.legend(frameon=False, fontsize=9)
    return figure


def _plain_text(tokens: Sequence[str]) -> list[str]:
    """Tokens as matplotlib takes them, which would read a formula between dollar signs."""
    return [token.strip().replace("$", r"\$") for token in tokens]


def _check_samples(samples: Mapping[str, np.ndarray]) -> None:
    images = samples["images"]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ShapeError(
            f"samples['images']: expected uint8 of shape (N, height, width, 1 or 3), got {images.dtype} {images.shape}"
        )
    if samples["labels"].ndim == 3:
        for name in ("labels", "predictions"):
            if samples[name].ndim != 3 or len(samples[name]) != len(images):
                raise ShapeError(
                    f"samples[{name!r}]: expected shape (N, height, width) with N = {len(images)}, as there are labels "
                    f"for each pixel, got {samples[name].shape}"
                )
        return
    for name, ndim in (("labels", 1), ("predictions", 1), ("probabilities", 2)):
        if samples[name].ndim != ndim or len(samples[name]) != len(images):
            axes = "(N,)" if ndim == 1 else "(N, classes)"
            raise ShapeError(
                f"samples[{name!r}]: expected shape {axes} with N = {len(images)}, got {samples[name].shape}"
            )


def _confidence(samples: Mapping[str, np.ndarray]) -> np.ndarray:
    """The probability given to each prediction."""
    return np.take_along_axis(samples["probabilities"], samples["predictions"][:, None], axis=1)[:, 0]


def _series(history: Sequence[Mapping[str, float]], metric: str) -> dict[str, tuple[list[int], list[float]]]:
    """The steps and values of one metric, by what it was measured on: "train", or the prefix of its name."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for line in history:
        for name, value in line.items():
            prefix, _, last = name.rpartition("/")
            if last == metric and value is not None:
                steps, values = found.setdefault(prefix or "train", ([], []))
                steps.append(int(line["step"]))
                values.append(float(value))
    return found


def _figure(width: float, height: float, layout: str | None = None) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    if layout:
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    return figure


def _axes(figure: "Figure", columns: int = 1, number: int = 1, rows: int = 1) -> "Axes":
    axes = figure.add_subplot(rows, columns, number)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.tick_params(colors=_MUTED, labelcolor=_INK, labelsize=9, length=3)
    return axes


def _picture(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    axes = figure.add_axes((left, bottom, width, height), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def _examples(examples: Mapping[str, Sequence[str]]) -> str:
    def cell(text: str) -> str:
        return f"<td>{escape(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + '…')}</td>"

    head = "".join(f"<th>{escape(name)}</th>" for name in examples)
    rows = ("".join(map(cell, row)) for row in zip(*examples.values(), strict=True))
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _page(title: str, facts: Mapping[str, Any], sections: Sequence[str]) -> str:
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(_fact(fact))}</td></tr>" for name, fact in facts.items()
    )
    table = f"<table>{rows}</table>" if rows else ""
    return _HTML.format(title=escape(title), table=table, sections="\n".join(sections))


def _fact(value: Any) -> str:
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ground: #f8fafc; --card: #fff; --ink: #1f2937; --muted: #6b7280; --line: #e5e7eb }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ground: #0f172a; --card: #1e293b; --ink: #e2e8f0; --muted: #94a3b8; --line: #334155 }}
}}
* {{ box-sizing: border-box }}
body {{ margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif }}
h1 {{ margin: 0 0 1.25rem; font-size: 1.75rem; line-height: 1.2 }}
h2 {{ margin: 2rem 0 .6rem; font-size: 1.1rem }}
table {{ width: 100%; border-collapse: collapse; background: var(--card); border-radius: .6rem; overflow: hidden;
  box-shadow: 0 0 0 1px var(--line) }}
th, td {{ padding: .5rem .9rem; text-align: left; border-bottom: 1px solid var(--line) }}
tr:last-child > * {{ border-bottom: 0 }}
th {{ width: 14rem; font-weight: 500; color: var(--muted) }}
td {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere }}
figure {{ margin: 0; padding: .75rem; background: #fff; border-radius: .6rem; box-shadow: 0 0 0 1px var(--line) }}
img.pixels {{ width: 40rem; image-rendering: pixelated }}
img {{ display: block; margin: 0 auto; max-width: 100%; max-height: 46rem; height: auto }}
pre {{ margin: 0; padding: .9rem; background: var(--card); border-radius: .6rem; box-shadow: 0 0 0 1px var(--line);
  overflow-x: auto; font: .8rem/1.45 ui-monospace, monospace }}
@media (max-width: 36rem) {{ th {{ width: auto }} body {{ padding-top: 1.25rem }} }}
</style>
</head>
<body>
<h1>{title}</h1>
{table}
{sections}
</body>
</html>
"""
