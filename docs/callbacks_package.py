"""Shows the API reference's reader of sources where `laser_lightning.callbacks` is: in a directory of its own."""

from typing import Any

from griffe import Extension, GriffeLoader, Module


class CallbacksPackage(Extension):
    """Puts the package from `callbacks/` into `laser_lightning`, as the package's installation does."""

    def on_package(self, *, pkg: Module, loader: GriffeLoader, **kwargs: Any) -> None:
        """Called for each package that was read."""
        if pkg.path == "laser_lightning":
            pkg.set_member("callbacks", loader.load("callbacks"))
