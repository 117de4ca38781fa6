"""Training: the loop, the step, optimizers, checkpoints, and what a run writes. It imports every other room."""

from deepmodels.training.certificate import Certificate, certify
from deepmodels.training.inspection import check_run
from deepmodels.training.loop import Result, TrainingError, evaluate, load_run, run_inputs
from deepmodels.training.loop import run as train
from deepmodels.training.optimizer import make_optimizer
from deepmodels.training.planning import Estimate, estimate
from deepmodels.training.preemption import Preempted
from deepmodels.training.step import TrainState, make_adversarial_step, make_train_step, players
from deepmodels.training.sweeps import Trial, gather, sweep

__all__ = [
    "Certificate",
    "Estimate",
    "Preempted",
    "Result",
    "TrainState",
    "TrainingError",
    "Trial",
    "certify",
    "check_run",
    "estimate",
    "evaluate",
    "gather",
    "load_run",
    "make_adversarial_step",
    "make_optimizer",
    "make_train_step",
    "players",
    "run_inputs",
    "sweep",
    "train",
]
