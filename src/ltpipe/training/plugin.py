"""A user's own training loop, imported by name."""

import logging
import sys
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from ltpipe.runtime.errors import UserError, first_line
from ltpipe.runtime.plugins import check_takes
from ltpipe.training.examples import Examples
from ltpipe.training.live import LiveTraining
from ltpipe.training.loop import Loss, Trainer

logger = logging.getLogger("ltpipe")


@dataclass(frozen=True)
class Plugin:
    """Where to find a `Trainer`.

    Attributes:
        name: `module:function`; the working directory is searched too.
    """

    name: str

    @property
    def identity(self) -> list[str]:
        """The name and the SHA-256 of the module's file."""
        file = getattr(self._module(), "__file__", None)
        return [self.name, sha256(Path(file).read_bytes()).hexdigest() if file else ""]

    def load(self) -> Trainer:
        """Import the trainer; an exception it raises becomes a one-line error, with the full traceback in the log.

        Raises:
            UserError: the name is malformed, or there is no such module or function, or the import fails.
        """
        module = self._module()
        found = getattr(module, self._parts[1], None)
        if not callable(found):
            raise UserError(f"trainer_fn: module '{module.__name__}' has no function '{self._parts[1]}'")
        check_takes(found, ("live", "examples", "loss", "until"), f"trainer_fn: {self.name}")

        def trainer(live: LiveTraining, examples: Examples, loss: Loss, until: int) -> None:
            try:
                found(live, examples, loss, until)
            except (UserError, OSError):  # raised by callbacks
                raise
            except Exception as error:
                logger.debug("trainer_fn: '%s'", self.name, exc_info=True)
                raise UserError(f"trainer_fn: '{self.name}' failed with {_described(error, module)}") from error

        return trainer

    @property
    def _parts(self) -> tuple[str, str]:
        module, _, function = self.name.partition(":")
        return module, function

    def _module(self) -> ModuleType:
        module, function = self._parts
        if not (module and function.isidentifier()):
            raise UserError(
                f"trainer_fn: '{self.name}' is not allowed; use module:function, such as my_package.training:train"
            )
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f"trainer_fn: '{self.name}': {error}; use a module that can be imported") from None
        except Exception as error:
            raise UserError(f"trainer_fn: '{self.name}' cannot be imported: {_described(error)}") from error


def _described(error: Exception, module: ModuleType | None = None) -> str:
    """Return the error's type and first line, and the last line of `module` in its traceback."""
    file = getattr(module, "__file__", None)
    places = [frame for frame in extract_tb(error.__traceback__) if frame.filename == file]
    where = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"
