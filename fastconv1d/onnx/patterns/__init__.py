"""What exporters write, as the few operations that it is: one rule for each.

The rules run over the nodes in order, so that what one of them makes is what the next one finds: a
Conv becomes a `Convolution`, which takes on the Pad before it and the norm, the activation and the
addition after it. Rules for one operator are tried in the order of these modules.
"""

from ..folding import without_dead
from ..read import Graph
from . import activations as _activations  # noqa: F401  (which enter their rules)
from . import convolutions as _convolutions  # noqa: F401
from . import layouts as _layouts  # noqa: F401
from . import matrices as _matrices  # noqa: F401
from . import norms as _norms  # noqa: F401
from . import quantised as _quantised  # noqa: F401
from . import recurrent as _recurrent  # noqa: F401
from . import views as _views  # noqa: F401
from .rules import OURS, RULES, VIEWS

__all__ = ["OURS", "simplified"]


def simplified(graph: Graph) -> Graph:
    """Return the graph with nodes of this library in place of patterns."""
    return without_dead(VIEWS.rewritten(RULES.rewritten(graph)))
