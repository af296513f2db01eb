"""Put gated layers into a model, and take them out so that nothing of them stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from torch import nn

from compose.adapters.adapter import AdapterSet, Stacked
from compose.errors import AdapterMismatchError
from compose.layers.gated import GatedLoraConv2d, GatedLoraLayer, GatedLoraLinear
from compose.slot import GateSlot
from compose.types import Site

SiteOf = Callable[[str, str, nn.Module], Site]
"""Component name, module path and module to its site."""


class Installation:
    """Gated layers that stand in a model.

    `eject` puts every module back, the very same objects as before.
    """

    def __init__(self, adapters: AdapterSet) -> None:
        self.adapters = adapters
        self.layers: dict[str, GatedLoraLayer] = {}
        self._undo: list[tuple[nn.Module, str, nn.Module]] = []

    def eject(self) -> None:
        """Put the original modules back. Safe to call twice."""
        while self._undo:
            parent, attribute, module = self._undo.pop()
            setattr(parent, attribute, module)
        self.layers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.eject()

    def _replace(self, parent: nn.Module, attribute: str, layer: GatedLoraLayer) -> None:
        self._undo.append((parent, attribute, layer.base))
        setattr(parent, attribute, layer)
        self.layers[layer.site.name] = layer


def install(
    components: Mapping[str, nn.Module],
    adapters: AdapterSet,
    site_of: SiteOf,
    slots: Mapping[str, GateSlot],
) -> Installation:
    """Put a gated layer wherever an adapter of the set has factors.

    Args:
        components: name ("unet", "text_encoder") to model; changed in place.
        adapters: the set; its order is the K axis of every gate.
        site_of: classifies a module.
        slots: component name to the slot its layers read.

    Returns:
        The installation; a context manager that ejects at its end.

    Raises:
        AdapterMismatchError: a site that the model does not have, of another shape, of an
            unsupported kind, or already gated. The model is then as it was.
    """
    installation = Installation(adapters)
    try:
        for name in adapters.sites:
            component, _, path = name.partition(".")
            parent, attribute, module = _locate(components, component, path)
            layer = _layer(
                module, site_of(component, path, module), adapters.stacked(name), slots[component]
            )
            installation._replace(parent, attribute, layer)
    except BaseException:
        installation.eject()
        raise
    return installation


def _locate(
    components: Mapping[str, nn.Module], component: str, path: str
) -> tuple[nn.Module, str, nn.Module]:
    model = components.get(component)
    parent_path, _, attribute = path.rpartition(".")
    try:
        if model is None:
            raise AttributeError(component)
        parent = model.get_submodule(parent_path)
        return parent, attribute, parent.get_submodule(attribute)
    except AttributeError:
        raise AdapterMismatchError(
            f"an adapter changes {component}.{path}, which this model ({', '.join(components)})"
            " does not have;"
            " it was made for another base model"
        ) from None


def _layer(module: nn.Module, site: Site, stacked: Stacked, slot: GateSlot) -> GatedLoraLayer:
    if isinstance(module, GatedLoraLayer):
        raise AdapterMismatchError(
            f"{site.name} already carries adapters; eject them before installing another set"
        )
    if isinstance(module, nn.Linear):
        _check_shape(site, (module.out_features, module.in_features), stacked)
        return GatedLoraLinear(module, site, stacked, slot)
    if isinstance(module, nn.Conv2d):
        _check_shape(site, (module.out_channels, module.in_channels, *module.kernel_size), stacked)
        return GatedLoraConv2d(module, site, stacked, slot)
    raise AdapterMismatchError(
        f"{site.name} is a {type(module).__name__}; adapters are supported on Linear and Conv2d"
        " modules"
    )


def _check_shape(site: Site, expected: tuple[int, ...], stacked: Stacked) -> None:
    given = (stacked.up.shape[0], *stacked.down.shape[1:])
    if given != expected:
        raise AdapterMismatchError(
            f"an adapter's change of {site.name} has shape {list(given)}, the module has"
            f" {list(expected)};"
            " it was made for another base model"
        )
