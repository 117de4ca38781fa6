"""The command: what it prints, what it exits with, and that it is the Python call its help names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deepmodels
from deepmodels import cli, training

ROOT = Path(__file__).parent.parent
LENET = "experiments/lenet5_fashion.py"


def run(capsys, *arguments) -> str:
    cli.main(arguments)
    return capsys.readouterr().out


def error(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 1
    return capsys.readouterr().err


def test_list(capsys):
    printed = run(capsys, "list")
    for name in ("mcculloch_pitts", "perceptron", "lenet5", "resnet50", "preact_resnet1001_cifar"):
        assert name in printed
    rows = json.loads(run(capsys, "list", "resnet*", "--json"))
    assert {row["name"] for row in rows} == set(deepmodels.list_models("resnet*"))
    assert rows[0].keys() >= {"name", "family", "year", "paper", "parameters", "input"}


def test_info(capsys):
    printed = run(capsys, "info", "lenet5")
    for text in ("lenet5", "1998", "61,706", "conv1", "28x28x1"):
        assert text in printed, text
    found = json.loads(run(capsys, "info", "resnet50", "--json"))
    assert found["parameters"] == 25_557_032
    assert found["flops"] == 2 * 4_089_184_256
    assert found.keys() >= {"name", "family", "year", "parameters", "flops", "input"}
    assert found == json.loads(json.dumps(deepmodels.info("resnet50")))
    assert "players" not in found
    found = json.loads(run(capsys, "info", "dcgan", "--json"))
    assert found["players"] == {"discriminator": 2_765_568, "generator": 3_576_704}
    assert found["parameters"] == sum(found["players"].values())


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A small model's folder, with its tokenizer and a chat template."""
    import jax
    import jax.numpy as jnp

    from deepmodels import loading, tokenizers

    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("writer")
    (folder / "corpus.txt").write_text("the first of the texts that the others are told of, and then some more\n" * 20)
    vocabulary = tokenizers.train_bpe([folder / "corpus.txt"], 280, folder / "tokenizer.json")
    model = deepmodels.create("gpt_tiny", vocab_size=vocabulary.vocab_size, max_length=64)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    loading.save_folder(folder, model, variables)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    return folder, model, variables, vocabulary


def test_sample(capsys, writer):
    folder, model, variables, tokenizer = writer
    given = ("sample", "--model", str(folder), "--max-new-tokens", "8")
    (plain,) = deepmodels.generate(model, variables, ["the first"], tokenizer=tokenizer, max_new_tokens=8)
    assert run(capsys, *given, "--prompt", "the first") == plain.text + "\n"  # as it is written
    rows = json.loads(run(capsys, *given, "--prompt", "the first", "--prompt", "then", "--json"))
    assert [row["prompt"] for row in rows] == ["the first", "then"]
    assert rows[0] == {"prompt": "the first", "tokens": plain.tokens, "text": plain.text, "ended": plain.ended}
    assert "then\n> " + rows[1]["text"] in run(capsys, *given, "--prompt", "the first", "--prompt", "then")
    drawn = [run(capsys, *given, "--prompt", "then", "--temperature", "1", "--seed", seed) for seed in "112"]
    assert drawn[0] == drawn[1] != drawn[2]
    (answer,) = deepmodels.generate(
        model, variables, [tokenizer.encode("system: Be brief.\nuser: then\n")], tokenizer=tokenizer, max_new_tokens=8
    )
    assert run(capsys, *given, "--prompt", "then", "--chat", "--system", "Be brief.") == answer.text + "\n"


def test_what_sample_needs_is_said(capsys, writer):
    folder = str(writer[0])
    assert "--model gpt2: a name says the sizes only: give --weights" in error(
        capsys, "sample", "--model", "gpt2", "--prompt", "a"
    )
    assert "--system is for a chat" in error(capsys, "sample", "--model", folder, "--prompt", "a", "--system", "b")
    assert "there is no such file or folder" in error(capsys, "sample", "--model", "nowhere/at/all", "--prompt", "a")


def test_doctor(capsys):
    rows = json.loads(run(capsys, "doctor", "--json"))
    names = " ".join(row["name"] for row in rows)
    for text in ("jax", "device", "attention", "cache", "collective"):
        assert text in names, text
    assert len(run(capsys, "doctor").splitlines()) == len(rows), "one line each"


def test_mistakes_exit_with_one_paragraph(capsys, tmp_path):
    assert "did you mean 'lenet5'" in error(capsys, "info", "lenet55")
    assert "no model's name matches 'lanet*'" in error(capsys, "list", "lanet*")
    train = ("train", f"--config={LENET}", f"--workdir={tmp_path}")
    assert "did you mean 'learning_rate'" in error(capsys, *train, "--config.optimizer.learning_rte=1")
    assert "given as --config.a.b=value" in error(capsys, *train, "--learning_rate=1")
    assert "needs a value" in error(capsys, *train, "--config.seed")
    assert "doesn't exist" in error(capsys, "train", "--config=experiments/lenet.py", f"--workdir={tmp_path}")
    assert "isn't a run" in error(capsys, "evaluate", f"--workdir={tmp_path}")


@pytest.mark.parametrize(("raised", "code"), [(training.Preempted, 75), (training.TrainingError, 77)])
def test_an_end_that_schedulers_tell_apart(capsys, tmp_path, monkeypatch, raised, code):
    def train(*_, **__):
        raise raised("this is why")

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(SystemExit) as exit_info:
        cli.main(("train", f"--config={LENET}", f"--workdir={tmp_path}"))
    assert exit_info.value.code == code
    assert capsys.readouterr().err == "error: this is why\n"


def test_unknown_arguments_are_wrong_usage(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(("list", "--jsn"))
    assert exit_info.value.code == 2


def test_train_and_evaluate_from_the_shell(tmp_path):
    """The whole way, as a user has it: a process of its own, a folder with spaces, `python -m deepmodels`."""
    workdir = tmp_path / "a run"
    environment = os.environ | {"XLA_FLAGS": ""}

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "deepmodels", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
        )

    train = ("train", f"--config={LENET}:smoke", f"--workdir={workdir}", "--config.optimizer.learning_rate", "1e-3")
    first = command(*train)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    assert "test/accuracy" in first.stdout
    assert f"report: {workdir / 'report.html'}" in first.stdout
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["learning_rate"] == 1e-3
    again = command(*train)
    assert "going on from step 2" in again.stdout
    refused = command("train", f"--config={LENET}:smoke", f"--workdir={workdir}")
    assert refused.returncode == 1
    assert "config.optimizer.learning_rate: 0.001 -> 0.002" in refused.stderr
    assert "Traceback" not in refused.stderr
    evaluated = command("evaluate", f"--workdir={workdir}", "--json")
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert json.loads(evaluated.stdout)["test/accuracy"] == last["test/accuracy"]
