"""What a model is and costs, and what this machine can run: summaries, floating-point operations, a health check."""

from deepmodels.analysis.cost import flops, flops_by_scope
from deepmodels.analysis.doctor import Check, checks
from deepmodels.analysis.summary import Summary, example, info, summary, table

__all__ = ["Check", "Summary", "checks", "example", "flops", "flops_by_scope", "info", "summary", "table"]
