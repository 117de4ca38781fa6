"""What a model is, costs and computes inside, and what this machine can run."""

from deepmodels.analysis.cost import flops, flops_by_scope
from deepmodels.analysis.doctor import Check, checks
from deepmodels.analysis.intermediates import intermediates
from deepmodels.analysis.placement import placement
from deepmodels.analysis.summary import Summary, example, info, summary, table

__all__ = [
    "Check", "Summary", "checks", "example", "flops", "flops_by_scope", "info", "intermediates", "placement", "summary",
    "table",
]  # fmt: skip
