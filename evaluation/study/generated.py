"""Classes of generated ground: how frequent they are, how well found, and what they are taken for.

Like the scores of small networks on real tiles: a frequent class that is found, a rare one that is not.
"""

import numpy as np

SHARES = np.array([0.38, 0.32, 0.17, 0.09, 0.04])
RECALLS = np.array([0.80, 0.75, 0.65, 0.60, 0.40])
# Where the missed pixels of a class go; rows sum to 1.
CONFUSED_WITH = np.array(
    [
        [0.0, 0.6, 0.2, 0.1, 0.1],
        [0.5, 0.0, 0.3, 0.1, 0.1],
        [0.2, 0.6, 0.0, 0.1, 0.1],
        [0.3, 0.3, 0.3, 0.0, 0.1],
        [0.1, 0.5, 0.2, 0.2, 0.0],
    ]
)
HELD_BY_FEW = 0.2  # of a block that holds a class which few blocks hold
