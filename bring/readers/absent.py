"""Packages that a network's module imports, and that are not there: most of them read sound, or train.

Such an import gets a stand-in. It can be named, be the base of a class, and stand in an annotation; whoever calls it
gets PackageAbsent with the package's name. So a network that needs none of it is built, and one that does is not.
Only a package whose absence ended the import gets one: `try: import ... except ImportError` goes on as it did.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

MOST = 50
"""Packages that may be absent."""


class PackageAbsent(ModuleNotFoundError):
    """Something of a package that is not there was used."""

    def __init__(self, name: str) -> None:
        package = name.partition(".")[0]
        super().__init__(f"{name} is used, and the package {package} is not there", name=package)


class Nothing:
    """In the place of anything in such a package."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> "Nothing":
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(f"{self._name}.{name}")

    def __getitem__(self, key: Any) -> "Nothing":  # in an annotation
        return self

    def __or__(self, other: Any) -> "Nothing":  # in an annotation, too
        return self

    __ror__ = __or__

    def __call__(self, *arguments: Any, **named: Any) -> NoReturn:
        raise PackageAbsent(self._name)

    def __instancecheck__(self, instance: Any) -> bool:
        return False  # nobody made an instance of what is not there

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        def refuse(*arguments: Any, **named: Any) -> NoReturn:
            raise PackageAbsent(self._name)

        return (type(self._name.rpartition(".")[2], (), {"__new__": refuse}),)


class AbsentModule(ModuleType):
    """In the place of such a package, or of a module in it."""

    __all__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(f"{self.__name__}.{name}")


class StandIns(MetaPathFinder, Loader):
    """Finds the packages that are absent; it comes after whoever finds those that are there."""

    def __init__(self) -> None:
        self.packages: list[str] = []

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        is_ours = fullname.partition(".")[0] in self.packages
        return ModuleSpec(fullname, self, is_package=True) if is_ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return AbsentModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def stand_ins() -> Iterator[StandIns]:
    """Until the end of the block, `import_module` may give stand-ins to what is imported."""
    finder = StandIns()
    sys.meta_path.append(finder)
    try:
        yield finder
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, AbsentModule)]:
            del sys.modules[name]  # libraries look there for what they can work with


def import_module(name: str, absent: StandIns) -> ModuleType:
    """Import a module, with stand-ins for packages that it imports, and that are not there.

    Raises ModuleNotFoundError where the module itself, or one of its own package, is not there.
    """
    while True:
        before = set(sys.modules)
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            is_its_own = package == name.partition(".")[0] or package in absent.packages
            if is_its_own or len(absent.packages) == MOST or _is_there(package):
                raise
            absent.packages.append(package)
            _forget_orphans(set(sys.modules) - before)


def _is_there(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _forget_orphans(names: set[str]) -> None:
    """Forget those of these modules whose package could not be imported: the next time, it would come without them."""
    for name in names:
        parts = name.split(".")
        if any(".".join(parts[:depth]) not in sys.modules for depth in range(1, len(parts))):
            del sys.modules[name]
