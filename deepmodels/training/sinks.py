"""Where a run's metrics go: two files in its folder, always, and the viewers that were asked for beside them."""

import csv
import io
import json
import math
import netrc
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from deepmodels.errors import ConfigError, DataError, unknown
from deepmodels.training.workdir import replace, writing


class Sink(Protocol):
    """Takes a run's metrics, step by step; a sink that can't show images ignores them.

    Those that write into a run's folder raise DiskError where they can't.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of one step; steps come in rising order, some more than once (train, then evaluate)."""

    def images(self, step: int, name: str, png: Path | np.ndarray) -> None:
        """Records an image: the path of a PNG, or uint8 of shape (height, width, channels)."""

    def close(self) -> None:
        """Writes out what is pending; the sink takes nothing afterwards."""


class JsonLines(Sink):
    """Metrics as one JSON object per line, "step" first, on disk as soon as `scalars` returns.

    A value that isn't finite is null, as JSON has no NaN; the CSV file of the same run says which it was. With
    `resume_step`, lines of later steps are cut off, and a last line that a killed process left torn is dropped;
    without it, the file starts empty. Raises DataError if another line of the file is damaged.
    """

    def __init__(self, path: Path | str, resume_step: int | None = None) -> None:
        self._path = Path(path)
        found = [] if resume_step is None else read_json_lines(path)
        replace(self._path, "".join(_json_line(line) for line in found if line["step"] <= resume_step))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        line = _json_line({"step": int(step)} | {name: float(value) for name, value in values.items()})
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line)


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """Returns the lines that `JsonLines` wrote to `path`, none if there is no file; a torn last line is left out.

    Raises DataError if any other line isn't a JSON object with a "step".
    """
    found = []
    for number, line in enumerate(_whole_lines(Path(path)), start=1):
        try:
            found.append(json.loads(line))
            int(found[-1]["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f'{path}, line {number}: expected a JSON object with a "step", got {line[:80]!r}; delete that line'
            ) from error
    return found


class Csv(Sink):
    """Metrics as a table, "step" first, one row per call of `scalars`, and an empty cell where a row has no value.

    The file is replaced as a whole, atomically, when a metric appears that has no column yet; values that aren't
    finite are nan, inf and -inf. `resume_step` is as in `JsonLines`.
    """

    def __init__(self, path: Path | str, resume_step: int | None = None) -> None:
        self._path = Path(path)
        self._columns, rows = ["step"], []
        if resume_step is not None:
            self._columns, rows = _read_csv(self._path)
        self._rewrite([row for row in rows if int(row["step"]) <= resume_step])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": int(step)} | {name: float(value) for name, value in values.items()}
        new = [name for name in row if name not in self._columns]
        if new:
            _, rows = _read_csv(self._path)
            self._columns += new
            self._rewrite([*rows, row])
        else:
            with writing(self._path), self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace(self._path, text.getvalue())


class TensorBoard(Sink):
    """Metrics and images for TensorBoard, in the folder `path`; steps after `resume_step` are shown as purged.

    Raises ConfigError if tensorboardX isn't installed.
    """

    def __init__(self, path: Path | str, resume_step: int | None = None) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard", "tensorboardX") from error
        purge_step = None if resume_step is None else resume_step + 1
        self._path = Path(path)
        self._writer = SummaryWriter(str(path), purge_step=purge_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)
        self._flush()

    def images(self, step: int, name: str, png: Path | np.ndarray) -> None:
        self._writer.add_image(name, _pixels(png), step, dataformats="HWC")
        self._flush()

    def _flush(self) -> None:
        with writing(self._path):  # its own thread dies of a full disk, and says nothing
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB(Sink):
    """Metrics and images for Weights & Biases, as the run of the folder `path`, which a resumed run carries on.

    It works offline, keeping the run in `path` for `wandb sync`, unless WANDB_MODE says otherwise or there is a key
    (WANDB_API_KEY, or `wandb login`'s). Raises ConfigError if wandb isn't installed.
    """

    def __init__(self, path: Path | str, resume_step: int | None = None) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb", "wandb") from error
        self._image = wandb.Image
        path = Path(path).resolve()
        identity = path / "wandb_run"
        if resume_step is None or not identity.exists():
            identity.write_text(uuid.uuid4().hex[:16])
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "deepmodels"),
            name=path.name,
            id=identity.read_text().strip(),
            dir=str(path),
            resume="allow",
            mode=os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline"),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def images(self, step: int, name: str, png: Path | np.ndarray) -> None:
        self._run.log({name: self._image(_pixels(png))}, step=step)

    def close(self) -> None:
        self._run.finish()


_VIEWERS: dict[str, Callable[[Path, int | None], Sink]] = {
    "tensorboard": lambda workdir, resume_step: TensorBoard(workdir / "tensorboard", resume_step),
    "wandb": WandB,
}


def create_sinks(workdir: Path | str, names: Sequence[str] = (), resume_step: int | None = None) -> list[Sink]:
    """Returns the sinks of a run: metrics.jsonl and metrics.csv in `workdir`, then those named.

    `names` holds "tensorboard", "wandb" or neither. `resume_step` is the step of the checkpoint that the run goes on
    from, None for a run from the start: what was recorded after it is cut off. Raises ConfigError for any other name,
    and if a sink's package isn't installed.
    """
    for name in names:
        if name not in _VIEWERS:
            raise unknown("sink", name, _VIEWERS)
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    return [
        JsonLines(workdir / "metrics.jsonl", resume_step),
        Csv(workdir / "metrics.csv", resume_step),
        *(_VIEWERS[name](workdir, resume_step) for name in names),
    ]


def _json_line(values: Mapping[str, Any]) -> str:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns and rows that `Csv` wrote; a new file's if there is none."""
    reader = csv.DictReader(_whole_lines(path))
    columns = list(reader.fieldnames or ["step"])
    if columns[0] != "step":
        raise DataError(
            f'{path}: expected a table whose first column is "step", got {columns[0]!r}; move that file away'
        )
    rows = []
    for row in reader:
        if None in row or not row["step"].isdecimal():
            raise DataError(
                f"{path}, line {reader.line_num}: expected a step and {len(columns) - 1} values, "
                f"got {','.join(map(str, row.values()))[:80]!r}; delete that line"
            )
        rows.append(row)
    return columns, rows


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file; what follows the last newline was torn off by a killed process."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _pixels(png: Path | np.ndarray) -> np.ndarray:
    return png if isinstance(png, np.ndarray) else np.asarray(Image.open(png).convert("RGB"))


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _missing(extra: str, package: str) -> ConfigError:
    return ConfigError(f'sink {extra!r} needs {package}, which isn\'t installed: pip install "deepmodels-jax[{extra}]"')
