from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden_metrics():
    with np.load(Path(__file__).parents[1] / "golden" / "metrics.npz") as arrays:
        return dict(arrays)
