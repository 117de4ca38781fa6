"""Faults on purpose: what becomes of checkpoints when processes are killed and files are damaged.

    python tests/chaos/checkpoints.py                        # promises P1 and P2, 200 trials of each
    python tests/chaos/checkpoints.py --trials=20 --no-record

Kills: a process that does nothing but save, a checkpoint after another, is killed at a random moment by SIGKILL. The
one that is started next must find every step that is listed as it was made, to the bit, and the last one that had been
begun or the one before it.

Damage: in each kind of file of the newest step in turn a bit is flipped, the end is cut off, 4 KB are zeroed, or the
file is deleted. The step must come back as it was saved, or be named, set aside as it is, and the one before be used.
"""

import argparse
import gc
import multiprocessing
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import promises
from promises import Outcome

KEPT = 3  # steps


def _flipped(raw: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(raw)
    changed[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _zeroed(raw: bytes, rng: np.random.Generator) -> bytes:
    begin = int(rng.integers(max(1, len(raw) - 4096)))
    return raw[:begin] + bytes(min(4096, len(raw) - begin)) + raw[begin + 4096 :]


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes | None]] = {
    "flip": _flipped,
    "truncate": lambda raw, rng: raw[: rng.integers(len(raw))],
    "zero": _zeroed,
    "delete": lambda raw, rng: None,
}


def made(step: int) -> dict[str, np.ndarray]:
    """Returns the state of a step: 96 arrays of noise in three dtypes, and the step; many, to be written long."""
    rng = np.random.default_rng(step)
    dtypes = (np.float32, np.float16, np.int32)
    state = {f"leaf{i}": rng.integers(-999, 999, (64, 32)).astype(dtypes[i % 3]) for i in range(96)}
    return state | {"step": np.array(step, np.int32)}


def differences(state: dict[str, np.ndarray], step: int) -> list[str]:
    """Returns the names of the leaves that aren't those of a step, to the bit."""
    wanted = made(step)
    return [name for name in wanted if np.asarray(state[name]).tobytes() != wanted[name].tobytes()]


def _opened(workdir: Path):
    import jax

    from deepmodels.training.checkpoint import Checkpoints

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in made(0).items()}
    return Checkpoints(workdir), abstract


def save_until_killed(workdir: Path, pipe: Connection) -> None:
    """Reports which steps are there and whether they are whole; then saves one after another, saying so before each."""
    import jax

    checkpoints, abstract = _opened(workdir)
    steps, wrong = checkpoints.steps(), []
    for step in steps:
        try:
            wrong += [f"step {step}: {name}" for name in differences(checkpoints.restore(abstract, step).state, step)]
        except Exception as error:
            wrong.append(f"step {step}: {error}")
    pipe.send((steps, wrong))
    step = steps[-1] if steps else 0
    while True:
        step += 1
        state = jax.device_put(made(step))
        checkpoints.wait()
        pipe.send(step)
        checkpoints.save(step, state, {"step": step})
        checkpoints.keep(KEPT)


def kills(trials: int, seed: int) -> Outcome:
    """Returns what a number of kills came to."""
    context, rng = multiprocessing.get_context("forkserver"), np.random.default_rng(seed)
    context.set_forkserver_preload(["deepmodels.training.checkpoint", "orbax.checkpoint.v1"])
    counts, failures, begun = Counter(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder, "run")
        for trial in range(trials + 1):  # the last one only looks
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=save_until_killed, args=(workdir, theirs))
            process.start()
            theirs.close()
            steps, wrong = ours.recv()
            newest = steps[-1] if steps else 0
            counts["steps compared"] += len(steps)
            if wrong or newest < begun - 1:
                failures.append(f"trial {trial}: {newest} is the newest, {begun} had been begun; {'; '.join(wrong)}")
            if begun:
                counts["the step that was being saved was whole" if newest == begun else "the step before it"] += 1
            if trial < trials:
                begun = ours.recv()
                moment = time.monotonic() + rng.uniform(0, 1)  # within one save, or some later one
                while (left := moment - time.monotonic()) > 0:
                    if ours.poll(left):
                        begun = ours.recv()
            process.kill()
            process.join()
            try:  # what it said before it died
                while ours.poll():
                    begun = ours.recv()
            except EOFError:
                pass
            if trial < trials:
                counts["killed while a save was unfinished"] += any(
                    not path.name.isdigit() for path in (workdir / "checkpoints").iterdir()
                )
    return Outcome("P1", trials, counts, failures)


def damages(trials: int, seed: int) -> Outcome:
    """Returns what a number of damaged files came to, each kind of file and of damage in turn."""
    import jax

    rng, counts, failures = np.random.default_rng(seed), Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        template, workdir = Path(folder, "template"), Path(folder, "run")
        checkpoints, abstract = _opened(template)
        for step in (1, 2, 3):
            checkpoints.save(step, jax.device_put(made(step)), {"step": step})
        checkpoints.close()
        kinds: dict[str, list[Path]] = {}
        for path in sorted((template / "checkpoints" / "3").rglob("*")):
            if path.is_file() and path.stat().st_size:
                name = path.relative_to(template)
                kinds.setdefault(re.sub(r"[0-9a-f]{16,}", "*", name.as_posix()), []).append(name)
        pairs = [(kind, damage) for kind in kinds for damage in DAMAGES]
        for trial in range(trials):
            kind, damage = pairs[trial % len(pairs)]
            shutil.rmtree(workdir, ignore_errors=True)
            shutil.copytree(template, workdir)
            name = kinds[kind][rng.integers(len(kinds[kind]))]
            raw = DAMAGES[damage]((workdir / name).read_bytes(), rng)
            (workdir / name).unlink() if raw is None else (workdir / name).write_bytes(raw)
            result = _after_damage(workdir, abstract, name, raw)
            counts[result] += 1
            if result not in ("set aside, the step before used", "harmless: the step came back to the bit"):
                failures.append(f"trial {trial}, {damage} of {name}: {result}")
    counts["kinds of file"] = len(kinds)
    return Outcome("P2", trials, counts, failures)


def _after_damage(workdir: Path, abstract, name: Path, raw: bytes | None) -> str:
    try:
        checkpoints, _ = _opened(workdir)
        restored = checkpoints.restore(abstract)
    except Exception as error:
        return f"no step was restored: {' '.join(str(error).split())[:200]}"
    checkpoints.close()
    step = int(restored.state["step"])
    if differences(restored.state, step) or restored.record != {"step": step}:
        return "SILENTLY WRONG"
    if step == 3:
        return "harmless: the step came back to the bit"
    aside = workdir / "damaged" / name.relative_to("checkpoints")
    if (aside.read_bytes() if aside.exists() else None) != raw:
        return "what was damaged isn't there any more"
    named = any("checkpoint of step 3 is damaged" in line for line in restored.warnings)
    return "set aside, the step before used" if step == 2 and named else f"step {step}, {restored.warnings}"


def main(arguments: list[str] | None = None) -> int:
    """Runs both, prints the table and records the outcomes; returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=200, metavar="N", help="of each fault (default: 200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments and places (default: 0)")
    parser.add_argument("--only", choices=("kills", "damages"), help="one fault")
    parser.add_argument("--no-record", action="store_true", help="only print what was found")
    options = parser.parse_args(arguments)
    faults = {"kills": kills, "damages": damages}
    outcomes = [fault(options.trials, options.seed) for name, fault in faults.items() if options.only in (None, name)]
    gc.collect()
    return promises.told(*outcomes, keep=not options.no_record)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*os.fork.*")
    sys.exit(main())
