"""The README says what is so."""

from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_table_of_models_is_up_to_date(load_script):
    tables = load_script("docs/tables.py")
    text = (ROOT / "README.md").read_text()
    assert text == tables.written(text), "run `python docs/tables.py`"
    assert "`resnet50` 25,557,032" in text
