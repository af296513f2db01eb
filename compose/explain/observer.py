"""Something that sees every step of the denoising loop, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from compose.passes import Pass
from compose.types import Step

if TYPE_CHECKING:
    from compose.run import Run


class Observer:
    """Sees the passes of a step before and after they ran; as it stands, it looks away.

    What it does may show in `run.calls` and `run.trace`, and nowhere else: the picture, the
    method's state and the maps that the method reads are as if nobody had looked.
    """

    def before(self, run: Run, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        """The method's passes of a step, where more of their attention may be captured."""
        del run, step
        return passes

    def after(
        self,
        run: Run,
        step: Step,
        latents: Tensor,
        passes: Sequence[Pass],
        predictions: Mapping[str, Tensor],
    ) -> None:
        """What the passes gave, before the method makes one prediction of it.

        Args:
            run, step: where it stands.
            latents: [images, C, H, W] that were predicted from.
            passes: as the method made them.
            predictions: [images, C, H, W] by name of the pass.
        """
