"""What every worker process needs, loaded once: they are forked from a server process that has imported this.

Imports only: nothing here may start a thread, open a file or wake a GPU, which would not survive the fork.
"""

import scipy.sparse.csgraph  # noqa: F401
import shapely  # noqa: F401

from ..inference import region_task  # noqa: F401
from ..model import checkpoint, predictor  # noqa: F401
