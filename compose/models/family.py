"""What the engine asks of a model family, and what all families over a diffusers pipeline share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from compose.device import compute_dtype
from compose.errors import RequestError, nearest
from compose.models import routing
from compose.models.card import ModelCard
from compose.models.schedule import Schedule
from compose.slot import TokenLayout
from compose.text.encoding import check_layer
from compose.types import AttentionSite, Conditioning, Site, Size, Step, TextOptions

SCHEDULERS: Mapping[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
}


class Family(ABC):
    """One model family over the parts of a diffusers pipeline. The parts are used, never changed.

    Attributes:
        name: "sd15" and so on.
        denoiser_name: component name of the denoiser.
        text_names: component names of the text encoders.
        card: what the model says about itself.
        schedulers: the solvers it can use, by the name that requests give.
        half: dtype that suits it on a GPU.
        optional: text encoders that a checkpoint may lack.
    """

    name: ClassVar[str]
    denoiser_name: ClassVar[str]
    text_names: ClassVar[tuple[str, ...]]
    usual_guidance: ClassVar[float] = 7.5
    schedulers: ClassVar[Mapping[str, Any]] = SCHEDULERS
    half: ClassVar[torch.dtype] = torch.float16
    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, pipe: DiffusionPipeline, card: ModelCard | None = None) -> None:
        self.pipe: Any = pipe
        self.card = card or ModelCard()
        self._backend: str | None = None

    @property
    def guidance(self) -> float:
        """Default guidance scale."""
        return self.usual_guidance if self.card.guidance is None else self.card.guidance

    @property
    def components(self) -> dict[str, nn.Module]:
        """Parts that adapters can change, by name."""
        names = (self.denoiser_name, *self.text_names)
        return {n: getattr(self.pipe, n) for n in names if getattr(self.pipe, n, None) is not None}

    @property
    def denoiser(self) -> nn.Module:
        """The denoiser."""
        module: nn.Module = getattr(self.pipe, self.denoiser_name)
        return module

    @property
    def device(self) -> torch.device:
        """Where the run happens."""
        device: torch.device = self.pipe._execution_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that the denoiser computes in."""
        return compute_dtype(self.denoiser)

    def grid(self, size: Size) -> tuple[int, int]:
        """Height and width of the latents of a picture."""
        return size.height // self.pipe.vae_scale_factor, size.width // self.pipe.vae_scale_factor

    def release(self) -> None:
        """Send what offloading holds on the GPU back, as a stock pipeline does after a picture."""
        self.pipe.maybe_free_model_hooks()

    @property
    def distilled(self) -> bool:
        """Whether guidance was distilled into the model, so that a request's guidance is an input
        of it (or nothing) and classifier-free guidance is `Request.true_cfg`."""
        return False

    @property
    @abstractmethod
    def default_size(self) -> Size:
        """Size the model was trained at, in pixels."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Width and height must be multiples of this, in pixels."""

    @abstractmethod
    def site(self, component: str, path: str, module: nn.Module) -> Site:
        """Classify a module."""

    @abstractmethod
    def attention_site(self, path: str, module: nn.Module) -> AttentionSite | None:
        """Classify an attention layer of the denoiser; None for one outside its blocks."""

    def attention_layers(self) -> dict[AttentionSite, nn.Module]:
        """The attention layers of the denoiser's blocks."""
        layers = [(p, m) for p, m in self.denoiser.named_modules() if routing.is_attention(m)]
        sites = ((self.attention_site(path, module), module) for path, module in layers)
        return {site: module for site, module in sites if site is not None}

    def use_attention_backend(self, name: str) -> None:
        """Let the denoiser's attention run in a back end of diffusers.

        Args:
            name: a key of `compose.models.backends.BACKENDS`.

        Raises:
            RequestError: an unknown name.
            KernelUnavailableError: it does not run here.
        """
        routing.require(name, self.device, self.dtype)
        routing.set_obeying(self.denoiser, name)
        self._backend = name

    def routed(
        self,
        layers: Mapping[AttentionSite, nn.Module],
        *,
        watched: Collection[nn.Module] = (),
        biased: Collection[nn.Module] = (),
    ) -> AbstractContextManager[None]:
        """Around a denoiser call: attention runs in its back end. See `routing.routed`."""
        return routing.routed(layers, self._backend, watched=watched, biased=biased)

    @abstractmethod
    def layout(self, latents: Tensor) -> TokenLayout:
        """Where the tokens of a call over latents [rows, C, H, W] lie."""

    @abstractmethod
    def encode(self, prompts: Sequence[str], options: TextOptions | None = None) -> Conditioning:
        """Prompts to conditioning, one row each. Runs under whatever gate the text slots hold."""

    def unconditional(self, negatives: Sequence[str], encoded: Conditioning) -> Conditioning:
        """What the denoiser gets for negative prompts, from what `encode` made of them."""
        del negatives
        return encoded

    def windows(self, prompts: Sequence[str]) -> int:
        """How many windows of a CLIP encoder the longest of some prompts needs."""
        del prompts
        return 1

    @abstractmethod
    def beyond_the_end(self, prompt: str) -> str:
        """The part of a prompt that no text encoder sees; empty when all of it fits."""

    @abstractmethod
    def latents(
        self, size: Size, schedule: Schedule, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Initial noise, one row for every generator."""

    @abstractmethod
    def predict(
        self,
        latents: Tensor,
        step: Step,
        conditioning: Conditioning,
        guidance: float | None = None,
    ) -> Tensor:
        """One denoiser call.

        Args:
            latents: scaled, [rows, C, H, W].
            step: where the run stands.
            conditioning: of as many rows.
            guidance: scale that a guidance-distilled model takes as an input.

        Returns:
            The prediction, [rows, C, H, W].
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Latents to pictures."""

    def check_text_to_image(self) -> None:  # noqa: B027 - most families have nothing to refuse
        """Refuse parts that sites can be found in but that the denoising loop cannot drive.

        Raises:
            ModelError: a denoiser that takes more than latents, timestep and text.
        """

    def check_guidance(self, guidance: float | None, true_cfg: float | None) -> None:
        """Refuse guidance that the model does not have; arguments as of `Request`.

        Raises:
            RequestError: classifier-free guidance by the wrong name.
        """
        del guidance
        if true_cfg is not None and not self.distilled:
            raise RequestError(
                f"true_cfg {true_cfg:g} was given, but the guidance of this model is not distilled;"
                " expected guidance alone, so use --guidance"
            )

    def check_clip_skip(self, clip_skip: int | None) -> None:
        """Refuse a layer that a CLIP text encoder does not have; `clip_skip` as of `TextOptions`.

        Raises:
            RequestError: an encoder has fewer layers, or none of them is CLIP.
        """
        if clip_skip is None:
            return
        parts = self.components
        encoders = [parts[n] for n in self.text_names if n in parts and _is_clip(parts[n])]
        if not encoders:
            raise RequestError(
                f"clip_skip {clip_skip} was given, but this model has no CLIP text encoder;"
                " expected none, so leave it out"
            )
        for encoder in encoders:
            check_layer(encoder, clip_skip)

    def check_size(self, size: Size) -> None:
        """Refuse sizes that the model cannot do.

        Raises:
            RequestError: not a multiple of `multiple`, or not positive.
        """
        m = self.multiple
        if size.width < m or size.height < m or size.width % m or size.height % m:
            w, h = (max(m, round(v / m) * m) for v in (size.width, size.height))
            raise RequestError(
                f"size {size} does not fit this model; expected width and height as multiples of"
                f" {m},"
                f" for example {w}x{h}"
            )

    def schedule(self, steps: int, name: str | None = None, size: Size | None = None) -> Schedule:
        """A fresh scheduler with its timesteps set.

        Args:
            steps: how many.
            name: a key of `schedulers`; None takes the model's own.
            size: of the picture, for schedules that depend on it; None for the default size.

        Raises:
            RequestError: an unknown name.
        """
        own = self.pipe.scheduler
        if name is None:
            scheduler = copy.deepcopy(own)
        elif name in self.schedulers:
            scheduler = self.schedulers[name].from_config(own.config)
        else:
            raise RequestError(
                f"scheduler {name!r} is none of this model's; {nearest(name, self.schedulers)}"
            )
        self.set_timesteps(scheduler, steps, size or self.default_size)
        return Schedule(scheduler, scheduler.timesteps)

    def set_timesteps(self, scheduler: Any, steps: int, size: Size) -> None:
        """Lay a scheduler's steps out for a picture of some size."""
        del size
        scheduler.set_timesteps(steps, device=self.device)

    def noise(self, shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """Gaussian noise [len(generators), *shape], each row from its own generator."""
        full = (len(generators), *shape)
        out: Tensor = randn_tensor(
            full, generator=list(generators), device=self.device, dtype=self.dtype
        )
        return out


def _is_clip(encoder: Any) -> bool:
    return str(encoder.config.model_type).startswith("clip")
