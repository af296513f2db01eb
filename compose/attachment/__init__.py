"""Composition methods on an unmodified diffusers pipeline: `attach` and what it gives back."""

from compose.attachment.attached import Attached, AttachWarning, attach

__all__ = ["AttachWarning", "Attached", "attach"]
