"""A look over a run's folder: is everything in it whole?"""

from pathlib import Path

from deepmodels.analysis.doctor import Check
from deepmodels.errors import DataError, DeepModelsError
from deepmodels.training.checkpoint import examine, saved_steps
from deepmodels.training.sinks import read_json_lines
from deepmodels.training.workdir import read_config


def check_run(workdir: str | Path) -> list[Check]:
    """Returns a line each for a run's config, its metrics, and every checkpoint, which is read whole; changes nothing.

    Raises:
      ConfigError: the folder isn't a run, or its config is damaged.
    """
    workdir = Path(workdir)
    lines = [Check("config.json", True, f"model {read_config(workdir)['model']['name']}")]
    try:
        lines.append(Check("metrics.jsonl", True, f"{len(read_json_lines(workdir / 'metrics.jsonl'))} lines"))
    except DataError as error:
        lines.append(Check("metrics.jsonl", False, str(error)))
    for step in saved_steps(workdir):
        try:
            lines.append(Check(f"checkpoints/{step}", True, examine(workdir, step)))
        except DeepModelsError as error:
            lines.append(Check(f"checkpoints/{step}", False, str(error)))
    aside = sorted(path.name for path in (workdir / "damaged").glob("*"))
    return lines + [Check(f"damaged/{name}", False, "was set aside when the run went on") for name in aside]
