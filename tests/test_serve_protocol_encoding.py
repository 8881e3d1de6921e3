"""Compressed bodies are read within the limit, which counts decompressed bytes; answers are compressed on request."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from contract.errors import BodyTooLarge, InputError, UnsupportedEncoding
from serve.protocol.encoding import PIECE, WORTH_IT, compress, decompress

BODY = b'{"inputs": []}' * 100
LIMIT = 10_000


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate with zlib's header": ("deflate", zlib.compress),
    "deflate without": ("deflate", raw_deflate),
}

every_encoder = pytest.mark.parametrize(("name", "encode"), ENCODERS.values(), ids=ENCODERS)


@every_encoder
def test_a_compressed_body_is_read(name: str, encode: Callable[[bytes], bytes]) -> None:
    assert decompress(encode(BODY), name, LIMIT) == BODY
    assert decompress(encode(b""), name, LIMIT) == b""


@every_encoder
def test_long_bodies_are_put_together_from_their_pieces(name: str, encode: Callable[[bytes], bytes]) -> None:
    noise = np.random.default_rng(0).bytes(3 * PIECE)
    for body in (b"x" * PIECE, b"x" * (4 * PIECE), b"x" * (4 * PIECE + 1), noise, noise + b"x" * 10 * PIECE):
        assert decompress(encode(body), name, len(body)) == body
        for broken in (encode(body)[:-1], encode(body) + b"x", encode(body) + b"x" * PIECE):
            with pytest.raises(InputError, match="not complete"):
                decompress(broken, name, len(body))


@pytest.mark.parametrize("name", ["", "identity", "Identity", " , identity ,"])
def test_without_an_encoding_the_body_is_as_it_was_sent(name: str) -> None:
    assert decompress(BODY, name, LIMIT) is BODY


@pytest.mark.parametrize("name", ["GZip", " gzip ", "identity, gzip"])
def test_the_name_is_read_as_http_reads_it(name: str) -> None:
    assert decompress(gzip.compress(BODY), name, LIMIT) == BODY


@pytest.mark.parametrize("names", ["gzip, gzip", "deflate, gzip", "gzip,identity,gzip", ", ".join(["gzip"] * 401)])
def test_a_second_layer_is_refused_before_the_first_is_undone(names: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="expected gzip, deflate or none, once"):
        decompress(b"not compressed at all", names, LIMIT)


@every_encoder
def test_the_limit_counts_what_comes_out(name: str, encode: Callable[[bytes], bytes]) -> None:
    assert len(decompress(encode(b"x" * LIMIT), name, LIMIT)) == LIMIT
    with pytest.raises(BodyTooLarge, match=f"larger than {LIMIT} bytes when decompressed"):
        decompress(encode(b"x" * (LIMIT + 1)), name, LIMIT)


@every_encoder
def test_a_bomb_takes_no_more_memory_than_the_limit(name: str, encode: Callable[[bytes], bytes]) -> None:
    bomb = encode(b"\0" * 50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            decompress(bomb, name, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


@every_encoder
@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "plain", "flipped"])
def test_a_damaged_body_is_refused(name: str, encode: Callable[[bytes], bytes], damage: str) -> None:
    whole = encode(BODY)
    sent = {
        "cut": whole[:-1],
        "longer": whole + b"x",
        "empty": b"",
        "plain": BODY,
        "flipped": bytes([whole[0] ^ 255]) + whole[1:],
    }[damage]
    with pytest.raises(InputError, match=f"not complete {name} data: got {len(sent)} bytes"):
        decompress(sent, name, LIMIT)


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, br", "*", "x" * 1000, "gzip;q=1"])
def test_an_unknown_encoding_is_named(name: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="expected gzip, deflate or none") as caught:
        decompress(gzip.compress(BODY), name, LIMIT)
    assert len(str(caught.value)) < 200


LONG = b"0.125, " * 1000


@pytest.mark.parametrize(
    "accepted", ["gzip", "GZIP", "deflate, gzip;q=0.5", "gzip, deflate, br", "br; q=1, gzip; q=0.1"]
)
def test_an_answer_is_compressed_with_gzip_where_that_is_accepted(accepted: str) -> None:
    body, name = compress(LONG, accepted)
    assert name == "gzip"
    assert gzip.decompress(body) == LONG
    assert len(body) < len(LONG)


@pytest.mark.parametrize("accepted", ["deflate", "gzip;q=0, deflate", "gzip; q=0.0, deflate;q=1"])
def test_an_answer_is_deflated_where_only_that_is_accepted(accepted: str) -> None:
    body, name = compress(LONG, accepted)
    assert name == "deflate"
    assert zlib.decompress(body) == LONG


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "gzip; q=0", "nonsense;;q=x", "gzipped"])
def test_an_answer_stays_as_it_is_for_others(accepted: str) -> None:
    assert compress(LONG, accepted) == (LONG, None)


def test_a_small_answer_is_not_worth_it() -> None:
    assert compress(LONG[: WORTH_IT - 1], "gzip") == (LONG[: WORTH_IT - 1], None)
    assert compress(LONG[:WORTH_IT], "gzip")[1] == "gzip"
