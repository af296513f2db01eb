"""Makes a torchvision that was built for another torch good enough for these tests.

PyPI's torchvision is built for a torch with CUDA. Beside a torch for the CPU its operators are not
loaded, and importing it fails where it adds to them: ``operator torchvision::nms does not exist``.
Neither open_clip nor transformers calls these operators, so declaring them is all it takes. Users
should install the build that fits instead; see docs/evaluate.md.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import torch

collect_ignore_glob = [] if find_spec("open_clip") else ["test_*.py"]  # only in make test-metrics

BROKEN = (
    find_spec("torchvision") is not None
    and subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode
    != 0
)
"""Whether torchvision cannot be imported here as it is."""
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # what it declares lives as long as it

if BROKEN:
    for name in ("nms", "qnms"):
        _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
