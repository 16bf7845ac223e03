"""A training loop of the user's own, by its importable name."""

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ltpipe.runtime.errors import UserError
from ltpipe.training.loop import Trainer


@dataclass(frozen=True)
class Plugin:
    """Where a `Trainer` is found.

    Attributes:
        name: `module:function`; the module is looked for in the working folder too.
    """

    name: str

    def load(self) -> Trainer:
        """Import it.

        Raises:
            UserError: the name is none, or there is no such module or function.
        """
        module, _, function = self.name.partition(":")
        if not (module and function.isidentifier()):
            raise UserError(f"trainer_fn: '{self.name}' is not of the form module:function, my_package.training:train")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)
        try:
            found = getattr(import_module(module), function, None)
        except ModuleNotFoundError as error:
            raise UserError(
                f"trainer_fn: '{self.name}': {error}; give the name of a module that can be imported"
            ) from None
        if not callable(found):
            raise UserError(f"trainer_fn: module '{module}' has no function '{function}'")
        return found
