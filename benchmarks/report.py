"""The page of all rows that were measured, docs/benchmarks.md, and its plot."""

import csv
import tomllib
from collections.abc import Iterable
from pathlib import Path

import subjects

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
OURS, PLAIN = "deepmodels", "plain"
Key = tuple[str, str, str]  # device, model, task

_HEAD = """# Speed beside other libraries

Made by `deepmodels bench`; all rows are in `benchmarks/results/`, a file for each device and day, and the newest of
each measurement is here. Sides took turns in one run, in processes of their own; times are medians of the turns in
milliseconds, the least and the most behind them. `ratio` is the peer's time over ours: above 1 we are faster.
A step of `decode` is one token, of `denoise` one of the sampler's.

![Ratios](benchmarks.png)

- `profile`: our time without huge pages (`deepmodels/memory.py`) and the compiler options of `deepmodels/tuning.py`
  over that with them. Peers have no huge pages, as their users haven't.
- `compile`: seconds to lower and compile ours; of `decode` the first call less a later one.
- `GB`: the most memory of our process and of the peer's, the compiler's within; or of a GPU's allocator.
- `MFU`: operations of the model over those of the fastest matrix products in the same run. A multiply-add is two
  operations here (timm's GMACs, in the CSV's column `gmacs`, are the other convention), and a training step three
  forward passes; `HFU` counts what our step computes instead, recomputation included, the first layer's gradient by its
  input not. `MBU` of `decode`: bytes of the parameters for each token, over those that a copy reads and writes.
- `J`: joules of a step, of the whole device, by the driver's counter (NVML) or RAPL; a dash where it isn't measured.
"""


def rows_of(folder: Path) -> dict[Key, dict[str, dict[str, str]]]:
    """Returns the newest measurement of each device, model and task: a row for each side, by its name."""
    found: dict[Key, dict[str, dict[str, str]]] = {}
    for path in sorted(folder.glob("*-20??-??-??.csv"), key=lambda path: path.stem[-10:]):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            if row["by"] == OURS:
                found[_key(row)] = {}
        for row in rows:
            found[_key(row)][row["by"]] = row
    order = [*subjects.SUBJECTS]
    known = [key for name in order for key in found if key[1] == name]
    return {key: found[key] for key in [*known, *(key for key in found if key[1] not in order)]}


def _key(row: dict[str, str]) -> Key:
    return row["device"], row["model"], row["task"]


def write() -> None:
    """Writes the page and the plot."""
    found = rows_of(HERE / "results")
    (DOCS / "benchmarks.md").write_text(page(found, tomllib.loads((HERE / "notes.toml").read_text())))
    _plot(found)


def page(found: dict[Key, dict], notes: dict[str, dict[str, str]]) -> str:
    """Returns the page: a table for each device, and a line for each ratio below 1.

    Args:
      found: what `rows_of` gives.
      notes: what holds the time of a model's task.
    """
    parts = [_HEAD]
    for device in sorted({key[0] for key in found}):
        chosen = {key: sides for key, sides in found.items() if key[0] == device}
        parts += [f"\n## {device}\n", *_limits(chosen.values()), *_table(chosen), *_slow(chosen, notes)]
    return "\n".join([*parts, ""])


def _limits(measurements: Iterable[dict]) -> list[str]:
    """What the machine reached, and with what versions."""
    ours = [sides[OURS] for sides in measurements]
    measured = [row for row in ours if row["matrix_gflops"]]
    if not measured:
        return []
    spans = {
        name: f"{min(float(row[name]) for row in measured):g} to {max(float(row[name]) for row in measured):g}"
        for name in ("matrix_gflops", "copy_gbs")
    }
    return [
        f"{ours[0]['cores']} cores, {measured[-1]['dtype']}. Matrix products {spans['matrix_gflops']} GFLOP/s, copies "
        f"{spans['copy_gbs']} GB/s, over the runs; the data sheet's dense peak: {measured[-1]['peak_gflops']}.\n"
    ]


def _table(measurements: dict[Key, dict]) -> list[str]:
    lines = [
        "| model | task | batch | ours | peer | ratio | profile | compile | GB | MFU | HFU | MBU | J | date |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for (_, model, task), sides in measurements.items():
        ours = sides[OURS]
        plain = sides.get(PLAIN, {}).get("ratio") or "-"
        for by, peer in sides.items():
            if by in (OURS, PLAIN):
                continue
            told = [ours.get(name) or "-" for name in ("mfu", "hfu", "mbu")]
            joules = "-" if ours["joules"] in ("", "not measured") else ours["joules"]
            memory = f"{ours['peak_gb']}, {peer['peak_gb']}" if ours["peak_gb"] else "-"
            cells = [
                *(f"`{model}`", task, ours["batch_size"], _time(ours), f"{_time(peer)} {by}"),
                *(f"**{peer['ratio']}**", plain, ours["compile_s"] or "-", memory),
                *(*told, joules, ours["date"]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _time(row: dict[str, str]) -> str:
    return f"{row['step_time']} ({row['step_time_min']} to {row['step_time_max']})"


def _slow(measurements: dict[Key, dict], notes: dict[str, dict[str, str]]) -> list[str]:
    """A line for each ratio below 1: what holds the time, and what was tried."""
    lines = []
    for (_, model, task), sides in measurements.items():
        ratios = {by: float(row["ratio"]) for by, row in sides.items() if by not in (OURS, PLAIN)}
        if slower := {by: ratio for by, ratio in ratios.items() if ratio < 1}:
            beside = ", ".join(f"{ratio} of {by}" for by, ratio in slower.items())
            why = notes.get(model, {}).get(task, "not profiled.")
            lines.append(f"- `{model}`, {task}, {beside}: {why}")
    return ["\nBelow 1, and why:\n", *lines] if lines else []


def _plot(found: dict[Key, dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = [
        (f"{model}, {task} ({by})", float(row["ratio"]), device)
        for (device, model, task), sides in found.items()
        for by, row in sides.items()
        if by not in (OURS, PLAIN)
    ]
    devices = sorted({bar[2] for bar in bars})
    height = 1.2 * len(devices) + 0.22 * len(bars)
    counts = [sum(bar[2] == device for bar in bars) for device in devices]
    figure, axes = plt.subplots(
        len(devices), figsize=(8, height), squeeze=False, gridspec_kw={"height_ratios": counts}, layout="constrained"
    )
    for device, ax in zip(devices, axes[:, 0], strict=True):
        chosen = sorted((bar for bar in bars if bar[2] == device), key=lambda bar: bar[1])
        colors = ["#2a7f62" if ratio >= 1 else "#b5533c" for _, ratio, _ in chosen]
        drawn = ax.barh([name for name, *_ in chosen], [ratio - 1 for _, ratio, _ in chosen], left=1, color=colors)
        ax.bar_label(drawn, [f"{ratio:.2f}" for _, ratio, _ in chosen], padding=3, fontsize=7)
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_xscale("log")
        ax.set_xlim(
            min(0.6, *(0.9 * ratio for _, ratio, _ in chosen)), max(1.5, *(1.2 * ratio for _, ratio, _ in chosen))
        )
        ticks = [
            tick for tick in (0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50) if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]
        ]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_ylim(-0.7, len(chosen) - 0.3)
        ax.tick_params(labelsize=7)
        ax.set_title(device, fontsize=9)
        ax.set_xlabel("the peer's time over ours: to the right of 1 ours is faster", fontsize=8)
    figure.savefig(DOCS / "benchmarks.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    write()
