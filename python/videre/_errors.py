"""Exceptions: one family, each also of the standard kind that scripts catch."""

from collections.abc import Iterable


class Error(Exception):
    """Something the engine refused or could not do.

    `str(error)` is the sentence the server gives too; `code` is one of invalid_argument, not_found,
    forbidden, too_large, overloaded, unavailable, invalid_model, out_of_memory, unsupported,
    cancelled and internal; `param` names the field or keyword at fault, or is "".
    """

    code: str = "internal"
    param: str = ""

    def __init__(self, message: str = "", code: str = "", param: str = ""):
        super().__init__(message)
        if code:
            self.code = code
        self.param = param

    def __reduce__(self) -> tuple[type["Error"], tuple[str, str, str]]:
        return type(self), (str(self), self.code, self.param)


class InvalidRequestError(Error, ValueError):
    """The prompt, its media or a parameter is wrong; the same again will fail again."""

    code = "invalid_argument"


class NotFoundError(Error, FileNotFoundError):
    """No such file or model."""

    code = "not_found"

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class OutOfMemoryError(Error, MemoryError):
    """The memory plan does not fit the device."""

    code = "out_of_memory"


class UnsupportedError(Error, NotImplementedError):
    """Known, but not in this version."""

    code = "unsupported"


_CLASSES = {
    "invalid_argument": InvalidRequestError,
    "forbidden": InvalidRequestError,
    "too_large": InvalidRequestError,
    "not_found": NotFoundError,
    "out_of_memory": OutOfMemoryError,
    "unsupported": UnsupportedError,
}


def make_error(code: str, message: str, param: str) -> Error:
    return _CLASSES.get(code, Error)(message, code, param)


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """`what` got a name that is not known, and the one that was probably meant."""
    from . import _videre

    near = _videre.nearest_name(name, list(known))
    return f"{what} {name!r}" + (f"; did you mean {near!r}?" if near else "")
