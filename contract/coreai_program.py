"""A program of Core AI, `main.mlirb`, from its bytes: the operators that it names. Nothing is loaded.

It is MLIR's bytecode: mlir/docs/BytecodeFormat.md in LLVM's sources describes the sections and the numbers in them. The
graph names its operators by their places in one section, so that it calls nothing that is not listed there.
"""

from collections.abc import Mapping

MAGIC, VERSION = b"ML\xefR", 6
"""Of Core AI 1.0; another version would be another layout."""
DIALECT = "aicode"
"""The one in which Core AI writes its files."""
STRINGS, DIALECTS = 0, 1
"""The numbers of sections."""
ALIGNED, PADDING = 0x80, 0xCB


def operators(data: bytes) -> tuple[str, ...]:
    """The operators that a program names, without their dialect: `primitive.conv2d_v1`.

    Raises ValueError where it is damaged, is of another version, or has operators of another dialect.
    """
    sections = _sections(_Bytes(data))
    if not {STRINGS, DIALECTS} <= sections.keys():
        raise ValueError("it has no list of operators")
    strings = _strings(_Bytes(sections[STRINGS]))
    reader = _Bytes(sections[DIALECTS])
    dialects = [_dialect(reader, strings) for _ in range(reader.number())]
    if others := [name for name in dialects if name != DIALECT]:
        raise ValueError(f"it has operators of {others[0]!r}, expected {DIALECT!r} alone")
    total = reader.number()
    names: list[str] = []
    while not reader.is_at_end:
        _item(dialects, reader.number())
        names += [_item(strings, reader.number() >> 1) for _ in range(reader.number())]  # a bit says if it is known
    if len(names) != total:
        raise ValueError(f"it lists {len(names)} operators, expected {total}")
    return tuple(sorted(set(names)))


def _sections(reader: "_Bytes") -> Mapping[int, bytes]:
    """Section's number -> its bytes: all of the file belongs to one."""
    if reader.take(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin as a program of Core AI does")
    if (version := reader.number()) != VERSION:
        raise ValueError(f"it has version {version} of MLIR's bytecode, expected {VERSION}")
    reader.text()  # the name and version of what wrote it
    sections: dict[int, bytes] = {}
    while not reader.is_at_end:
        kind, size = reader.byte(), reader.number()
        if kind & ALIGNED:
            reader.skip_padding(reader.number())
        if kind & ~ALIGNED in sections:
            raise ValueError(f"it has two sections {kind & ~ALIGNED}")
        sections[kind & ~ALIGNED] = reader.take(size)
    return sections


def _strings(reader: "_Bytes") -> list[str]:
    """Their sizes come first, the last one's at the beginning; each ends with a zero."""
    sizes = [reader.number() for _ in range(reader.number())]
    strings = [reader.take(size) for size in reversed(sizes)]
    if not reader.is_at_end or any(not each.endswith(b"\0") for each in strings):
        raise ValueError("its strings do not end where their sizes say")
    return [each[:-1].decode("utf-8", "replace") for each in strings]


def _dialect(reader: "_Bytes", strings: list[str]) -> str:
    name, has_version = divmod(reader.number(), 2)
    if has_version:
        reader.byte()
        reader.take(reader.number())
    return _item(strings, name)


def _item(items: list[str], place: int) -> str:
    if place >= len(items):
        raise ValueError(f"it names item {place} of a list of {len(items)}")
    return items[place]


class _Bytes:
    """Bytes that are read from the beginning. Every method raises ValueError where too few are left."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise ValueError(f"it is cut off: {size} bytes were expected, and {len(taken)} are left")
        self._at += size
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        """MLIR's varint: the zero bits below the lowest one of the first byte count the bytes that follow."""
        first = self.byte()
        if first == 0:
            return int.from_bytes(self.take(8), "little")
        more = (first & -first).bit_length() - 1
        return int.from_bytes(bytes([first]) + self.take(more), "little") >> (more + 1)

    def text(self) -> bytes:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise ValueError("it is cut off within a name")
        return self.take(end + 1 - self._at)[:-1]

    def skip_padding(self, alignment: int) -> None:
        if alignment not in (1 << power for power in range(17)):
            raise ValueError(f"it has a section that is aligned to {alignment} bytes")
        while self._at % alignment:
            if self.byte() != PADDING:
                raise ValueError("it has other bytes than padding between its sections")
