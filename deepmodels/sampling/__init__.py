"""Decoding: pure functions that take what a model says, or the step that says it, and return sequences or pictures."""

from deepmodels.sampling.autoregressive import Decoding as Decoding
from deepmodels.sampling.autoregressive import begin as begin
from deepmodels.sampling.autoregressive import decode as decode
from deepmodels.sampling.autoregressive import decode_speculatively as decode_speculatively
from deepmodels.sampling.beam import Beams as Beams
from deepmodels.sampling.beam import beam_search as beam_search
from deepmodels.sampling.ctc import ctc_greedy as ctc_greedy
from deepmodels.sampling.ctc import ctc_prefix_beam as ctc_prefix_beam
from deepmodels.sampling.denoising import denoise as denoise
from deepmodels.sampling.processors import Sampling as Sampling
from deepmodels.sampling.processors import process as process
