"""Adapter files: safe reading, every usual layout, metadata, and a library of them."""

from compose.adapters.adapter import Adapter, AdapterSet, Factors, Stacked
from compose.adapters.formats import (
    AdapterFile,
    KeyReport,
    Modules,
    ModuleShape,
    RawFactors,
    load_adapter,
    module_shapes,
    read_adapter,
    resolve,
    save_adapter,
)
from compose.adapters.hashes import Hashes, file_hashes
from compose.adapters.inspection import inspect
from compose.adapters.library import AdapterEntry, AdapterLibrary

__all__ = [
    "Adapter",
    "AdapterEntry",
    "AdapterFile",
    "AdapterLibrary",
    "AdapterSet",
    "Factors",
    "Hashes",
    "KeyReport",
    "ModuleShape",
    "Modules",
    "RawFactors",
    "Stacked",
    "file_hashes",
    "inspect",
    "load_adapter",
    "module_shapes",
    "read_adapter",
    "resolve",
    "save_adapter",
]
