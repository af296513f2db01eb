"""Drive an unmodified diffusers pipeline with a method of gates and passes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from diffusers.utils.torch_utils import is_compiled_module
from torch import nn

from compose.adapters.adapter import Adapter, AdapterSet
from compose.adapters.formats import KeyReport, load_adapter
from compose.adapters.library import AdapterLibrary
from compose.attachment.clock import Clock
from compose.attachment.hooks import Around, Talk, surrounded
from compose.attachment.inputs import DenoiserCall
from compose.attachment.pipelines import kind_of
from compose.attachment.prompts import Prompts
from compose.attachment.run import LOOP, AttachedRun
from compose.errors import RequestError
from compose.fusion import method as method_named
from compose.layers import GatedLoraLayer, install
from compose.method import CompositionMethod
from compose.models.family import Family
from compose.needs import check_needs
from compose.regions import Region
from compose.request import AdapterUse, placed
from compose.run import CallRecord, Calls
from compose.slot import GateSlot
from compose.wording import unmatched_warnings

_NEEDS: Mapping[str, str] = {
    "prompt": "the words of the prompt, which the pipeline encodes by itself",
    "spans": "the places of words in the prompt, which the pipeline encodes by itself",
    "streams": "texts of its own, while the pipeline encodes by itself",
    "capture": "the denoiser's attention maps",
    "grad": "gradients through the denoiser",
}


class AttachWarning(UserWarning):
    """Something about an attached pipeline that does not go as one might think."""


def attach(
    pipe: Any,
    adapters: Mapping[str, float] | Iterable[AdapterUse | str],
    method: str | CompositionMethod = "merge",
    *,
    regions: Mapping[str, Region] | None = None,
    library: AdapterLibrary | None = None,
    row_budget: int | None = None,
    **fields: Any,
) -> Attached:
    """Put adapters and a composition method into a diffusers pipeline, for as many calls as you
    like.

    The pipeline stays in charge: image to image, inpainting, ControlNet, IP-Adapter, callbacks and
    any scheduler work as always. Its modules get gated layers and hooks, and `detach`, or leaving
    the context, takes all of it out again.

    Args:
        pipe: a loaded pipeline of a supported class.
        adapters: name in the library, or file, to weight; or a sequence of `AdapterUse`, which can
            have another weight in the text encoders, and of names, whose weight is 1.
        method: name of a composition method, or an instance with its parameters.
        regions: name of an adapter to where it belongs, for methods that place adapters.
        library: where adapter names are looked up; None for the default folders.
        row_budget: most rows of one denoiser call; None for no limit.
        **fields: parameters of a method given by name.

    Raises:
        ModelError: a pipeline of another class.
        AdapterError: an adapter is unknown, broken or made for another base.
        RequestError: the method needs more than gates, passes and regions, one of its parameters
            makes no sense, or the pipeline is taken: attached already, with PEFT adapters,
            compiled, offloaded layer by layer.

    Example:
        >>> with compose.attach(pipe, {"mochi": 0.8, "sunvo": 0.6}, "switch", every=3) as attached:
        ...     picture = pipe("mochi cat, sunvo style", image=start, strength=0.6).images[0]
    """
    if isinstance(method, str):
        method = method_named(method).parse(fields)
    elif fields:
        raise RequestError(
            f"{', '.join(fields)} came with an instance of method {method.name}; expected either a"
            " name and fields, or an instance that has its fields"
        )
    if row_budget is not None and row_budget < 1:
        raise RequestError(f"row budget {row_budget} is too small; expected at least 1")
    if isinstance(adapters, Mapping):
        uses = tuple(AdapterUse(str(name), weight) for name, weight in adapters.items())
    else:
        uses = tuple(a if isinstance(a, AdapterUse) else AdapterUse(str(a)) for a in adapters)
    uses = placed(uses, regions or {})
    return Attached(pipe, uses, method, library or AdapterLibrary.default(), row_budget)


class Attached:
    """A pipeline with adapters and a method in it; `attach` makes it.

    Args:
        pipe, method, library, row_budget: as of `attach`.
        uses: the adapters.

    Attributes:
        pipe: the pipeline.
        method: the method.
        adapters: K adapters, in the order they were given.
        warnings: what the user should know, one line each; also given as `AttachWarning` when it
            turns up.
    """

    def __init__(
        self,
        pipe: Any,
        uses: tuple[AdapterUse, ...],
        method: CompositionMethod,
        library: AdapterLibrary,
        row_budget: int | None,
    ) -> None:
        kind = kind_of(pipe)
        _check_method(method)
        family = kind.family(pipe)
        for name, module in family.components.items():
            _check_module(name, module)
        loaded = [_load(use, library, family) for use in uses]
        self.pipe = pipe
        self.method = method
        self.adapters = AdapterSet(tuple(adapter for adapter, _ in loaded))
        self.warnings: list[str] = []
        self._kind, self._family, self._uses, self._budget = kind, family, uses, row_budget
        self._slots = {name: GateSlot() for name in family.components}
        self._run = self._new_run()
        check_needs(method, self._run)
        method.check(self._run)
        for warning in unmatched_warnings(self.adapters, [report for _, report in loaded]):
            self._warn(warning)
        self._clock: Clock | None = None
        with ExitStack() as undo:
            undo.enter_context(install(family.components, self.adapters, family.site, self._slots))
            weights = self._run.encoder_weights([1.0] * len(uses))
            self._prompts = Prompts(family, self._slots, kind.inputs.texts, weights, self._warn)
            undo.callback(self._prompts.close)
            undo.callback(Around(family.denoiser, self._denoise).close)
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.detach()

    def detach(self) -> None:
        """Take everything out; the pipeline is then as it was found. Safe to call twice."""
        self._undo.close()

    @property
    def calls(self) -> Calls:
        """What the latest call of the pipeline cost."""
        return self._run.calls

    @property
    def trace(self) -> list[CallRecord]:
        """What every denoiser call of the latest call of the pipeline saw."""
        return self._run.trace

    def _new_run(self) -> AttachedRun:
        weights = tuple(use.weight for use in self._uses)
        text_weights = tuple(use.text_strength for use in self._uses)
        regions = tuple(use.region for use in self._uses)
        return AttachedRun(
            self._family, self.adapters, weights, text_weights, regions, self._slots, self._budget
        )

    def _denoise(self, *args: Any, **kwargs: Any) -> Talk:
        """One call of the denoiser."""
        call = DenoiserCall.of(self._kind.inputs, self._family.denoiser, args, kwargs)
        if self._clock is None or self._clock.over:
            self._clock = self._begin(call)
        step = self._clock.step(call.timestep)
        guidance = self.pipe.guidance_scale if self.pipe.do_classifier_free_guidance else 1.0
        return (yield from self._run.denoise(call, step, self.method, guidance))

    def _begin(self, call: DenoiserCall) -> Clock:
        """Start a run: a call of the pipeline has come to its first step."""
        if not (self._prompts.asked and hasattr(self.pipe, "num_timesteps")):
            raise RequestError(
                f"the {self._family.denoiser_name} was called outside a call of the attached"
                f" {type(self.pipe).__name__}, perhaps by another pipeline that shares it; expected"
                " calls of the pipeline that was given to compose.attach, so detach, and attach to"
                " the other one"
            )
        self._prompts.asked = False
        self._run = self._new_run()
        clock = Clock(self.pipe, call.timestep)
        self._run.begin(clock.schedule, self._prompts)
        return clock

    def _warn(self, text: str) -> None:
        """Say something once."""
        if text not in self.warnings:
            self.warnings.append(text)
            warnings.warn(text, AttachWarning, stacklevel=2)


def _load(use: AdapterUse, library: AdapterLibrary, family: Family) -> tuple[Adapter, KeyReport]:
    entry = library.find(use.name)
    return load_adapter(entry.path, family.components, name=entry.name)


def _check_method(method: CompositionMethod) -> None:
    """Refuse a method that is more than gates and passes, which may be placed."""
    needs = sorted(method.needs - {"regions"})
    reasons = [f"needs {_NEEDS.get(need, need)}" for need in needs]
    if type(method).adjust is not CompositionMethod.adjust:
        reasons.append("changes the latents before a step")
    if type(method).fuse is not CompositionMethod.fuse:
        reasons.append("brings guidance of its own")
    if reasons:
        raise RequestError(
            f"method {method.name} cannot be attached to a pipeline: it {' and '.join(reasons)};"
            f" expected a method of gates and passes, so {LOOP}"
        )


def _check_module(name: str, module: nn.Module) -> None:
    """Refuse a part of a pipeline that gated layers or hooks would get lost in."""
    if surrounded(module) or any(isinstance(m, GatedLoraLayer) for m in module.modules()):
        how, advice = "carries adapters of lora-compose", "detach them, or close their Composer"
    elif getattr(module, "peft_config", None):
        how, advice = "carries adapters of PEFT", "take them out with pipe.unload_lora_weights()"
    elif is_compiled_module(module) or any(m._compiled_call_impl for m in module.modules()):
        how, advice = "is compiled", "attach to a pipeline that is not"
    elif any(p.is_meta for p in module.parameters()):
        how, advice = "is offloaded layer by layer", "use pipe.enable_model_cpu_offload()"
    else:
        return
    raise RequestError(f"the pipeline's {name} {how}; expected it as it was loaded, so {advice}")
