"""The tiny model and the way to run the command line of the app's tests."""

from tests.app.conftest import generate, library, model, run  # noqa: F401
