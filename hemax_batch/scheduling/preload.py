"""Import what every worker process needs. The fork server imports this module once.

The imports must not start a thread, open a file or use a GPU, which would not survive the fork.
"""

import scipy.sparse.csgraph  # noqa: F401
import shapely  # noqa: F401

from ..inference import region_task  # noqa: F401
from ..model import checkpoint, predictor  # noqa: F401
