"""Writes the tables of README.md that the package itself can say: `python docs/tables.py`."""

from itertools import groupby
from pathlib import Path

from deepmodels.models import MODELS

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- models: made by docs/tables.py -->\n", "<!-- end of models -->\n"


def models_table() -> str:
    """Returns the table of models, a row for each family and paper."""
    rows = ["| family | models and their parameters | paper |", "| --- | --- | --- |"]
    for (family, paper), group in groupby(MODELS.items(), lambda item: (item[1].family, item[1].paper)):
        names = ", ".join(f"`{name}` {variant.parameters:,}" for name, variant in group)
        rows.append(f"| {family} | {names} | {paper} |")
    return "\n".join(rows) + "\n"


def written(text: str) -> str:
    """Returns the README's text with its table of models brought up to date."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + models_table() + END + after


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
