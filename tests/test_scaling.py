"""Work of a device falls as devices are added: what docs/scaling.md has, for a pair that compiles in seconds."""

import pytest

CONFIG = {
    "steps": 1,
    "model": {"name": "mlp_tiny", "hidden_sizes": (256, 256), "num_classes": 10},
    "data": {"name": "synthetic", "image_shape": (16, 16, 1), "num_classes": 10, "batch_size": 256},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
}


@pytest.fixture(scope="module")
def scaling(load_script):
    return load_script("docs/scaling.py")


@pytest.mark.parametrize("axis", ["fsdp", pytest.param("data", marks=pytest.mark.slow)])
def test_work_of_a_device_falls_with_their_number(scaling, axis):
    alone, *others = (scaling.work(CONFIG, axis, count) for count in scaling.COUNTS)
    assert alone["received"] == 0
    for found in others:
        share = found["operations"] / alone["operations"]
        assert 1 / found["devices"] <= share < 1.15 / found["devices"], found
        assert found["accessed"] < alone["accessed"]
        # with whole parameters each device gets all gradients; with divided ones it holds its share of them
        assert found["received"] >= alone["parameters"] if axis == "data" else found["received"] > 0
        held = alone["parameters"] / (found["devices"] if axis == "fsdp" else 1)
        assert found["parameters"] == pytest.approx(held, rel=0.2)


def test_sections_of_the_page_are_there(scaling):
    page = scaling.PAGE.read_text()
    for name in scaling.SECTIONS:
        begin = page.index(f"<!-- {name}: made by docs/scaling.py -->\n")
        assert begin < page.index(f"<!-- end of {name} -->\n")
        assert "new table" in scaling.written(page, name, "new table\n")
