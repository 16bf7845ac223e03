"""Files that add something by being present, for example a criterion: loaded, or refused with one line."""

import logging
from collections.abc import Callable
from importlib import import_module
from inspect import getattr_static, signature
from types import FunctionType
from typing import Any, TypeVar

from ltpipe.runtime.errors import UserError, first_line

logger = logging.getLogger("ltpipe")

Base = TypeVar("Base")

_KINDS = (FunctionType, staticmethod, classmethod)


def load(module: str, attribute: str, what: str) -> Any:
    """Import a file and return the attribute that all files of its kind define.

    Args:
        module: full name of the file's module.
        attribute: name of the attribute, for example `CRITERION`.
        what: what the file is, for messages.

    Raises:
        UserError: the file cannot be imported, or does not define the attribute.
    """
    try:
        found = import_module(module)
    except Exception as error:
        logger.debug("%s", what, exc_info=True)
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{what}: {module.rpartition('.')[2]}.py cannot be imported ({reason}); fix it") from error
    if not hasattr(found, attribute):
        raise UserError(f"{what}: {found.__file__} does not define {attribute}; end it with {attribute} = …")
    return getattr(found, attribute)


def load_class(module: str, attribute: str, base: type[Base], what: str) -> type[Base]:
    """Import a file and return the class that it defines.

    Args:
        module: full name of the file's module.
        attribute: name of the class's name in the file, for example `CRITERION`.
        base: what the class extends.
        what: what the file is, for messages.

    Raises:
        UserError: as `load`, or it is no such class, or lacks a method or has one with another signature.
    """
    like, found = base.__module__, load(module, attribute, what)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{what}: {attribute} is {found!r}; make it a class that extends one of {like}")
    if missing := getattr(found, "__abstractmethods__", ()):
        raise UserError(f"{what} has no method {', '.join(sorted(missing))}; write it")
    check_methods(found, like, what)
    return found


def check_methods(found: type, like: str, what: str) -> None:
    """Refuse a class that changes the signature of a method of its bases.

    Args:
        found: the class.
        like: module of the bases whose methods count, except those that begin with `_`.
        what: what the class is, for messages.

    Raises:
        UserError: a signature differs; shows the method as it is and as it must be.
    """
    bases = [base for base in found.__mro__ if base.__module__ == like]
    wanted = {name: member for base in reversed(bases) for name, member in vars(base).items() if name[0] != "_"}
    for name, member in wanted.items():
        own = getattr_static(found, name)
        if isinstance(member, _KINDS) and own is not member and not _called_alike(own, member):
            raise UserError(f"{what}: found {_shown(name, own)}; write {_shown(name, member)}")


def check_takes(found: Callable[..., object], parameters: tuple[str, ...], what: str) -> None:
    """Raise UserError, naming the function `what`, unless it accepts these parameters as positional arguments."""
    if not _binds(found, len(parameters)):
        raise UserError(f"{what}{signature(found)} does not take the arguments ({', '.join(parameters)}); write it so")


def _called_alike(own: Any, wanted: Any) -> bool:
    return type(own) is type(wanted) and _binds(_function(own), len(signature(_function(wanted)).parameters))


def _binds(function: Callable[..., object], count: int) -> bool:
    try:
        signature(function).bind(*range(count))
    except TypeError:
        return False
    return True


def _function(member: Any) -> Callable[..., object]:
    function: Callable[..., object] = getattr(member, "__func__", member)
    return function


def _shown(name: str, member: Any) -> str:
    """Return the signature of a method as one line of code."""
    kind = f"@{type(member).__name__} " if isinstance(member, staticmethod | classmethod) else ""
    if not callable(_function(member)):
        return f"`{name} = …`"
    return f"`{kind}def {name}({', '.join(signature(_function(member)).parameters)})`"
