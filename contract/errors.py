"""Every error that is meant for a person.

    RosettaError
    |-- DataError             a data set's file is missing, truncated or altered
    |-- ArtifactError         an artifact cannot be used
    |   |-- ArtifactMissing       there is none: no folder, or a folder without a manifest
    |   '-- ArtifactCorrupt       a file does not match the manifest, or the manifest cannot be read
    |-- TrainingError         a training script cannot go on
    |-- BroughtError          a user's own model, or its description, cannot be used
    |   '-- UntrustedModel        reading the file would run code that is in it
    |-- ExportError           a converter failed, or did not write what it should
    |   '-- UnknownEdge           no exporter leads from this format to that one
    |-- PrecisionError        a precision that was asked for is not known
    |-- ParityError           answers cannot be compared
    |-- InputError            what a caller sent cannot be used
    |   |-- ImageError            a picture that cannot be read
    |   |   |-- ImageTooLarge         more pixels or bytes than the limit
    |   |   '-- UnsupportedImage      not a picture, or not in a supported format
    |   |-- NotAPictureModel      a picture was sent to a model that does not take one
    |   |-- BodyTooLarge          a request body over the limit, as sent or when decompressed
    |   |-- BodyIncomplete        a request body that stopped before its end
    |   '-- UnsupportedEncoding   an unsupported Content-Encoding
    |-- UnknownModel          no served model has this name
    |-- ModelUnavailable      the model is known, but its artifact cannot be run
    |-- Overloaded            too many requests wait for the model
    |-- DeadlineExceeded      the answer did not come within the request's time limit
    '-- RuntimeFailure        a runtime crashed, hung, or failed inside

A message says what failed, what was got, what was expected, and what to do. Nothing here knows about HTTP.
"""

import re

STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal, turn the direction of text, or cannot be written: all but tabs and new lines."""


def plain(text: str) -> str:
    """A text for people with `\\x1b` in place of such a character: a stranger's file may have put it there."""
    return STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class RosettaError(Exception):
    """The root: catching it catches everything that is meant for a person. Its text steers no terminal."""

    def __str__(self) -> str:
        return plain(super().__str__())


class DataError(RosettaError):
    """A data set's file is missing, truncated or altered."""


class ArtifactError(RosettaError):
    """An artifact cannot be used."""


class ArtifactMissing(ArtifactError):
    """There is no artifact: no folder, or a folder without a manifest."""


class ArtifactCorrupt(ArtifactError):
    """A file does not match the manifest, or the manifest itself cannot be read."""


class TrainingError(RosettaError):
    """A training script cannot go on."""


class BroughtError(RosettaError):
    """A user's own model, or its description, cannot be used."""


class UntrustedModel(BroughtError):
    """Reading the file would run code that is in it, and the user did not set TRUST=1."""


class ExportError(RosettaError):
    """A converter failed, or did not write what it should."""


class UnknownEdge(ExportError):
    """No exporter leads from this format to that one."""


class PrecisionError(RosettaError):
    """A precision that was asked for is not in the table."""


class ParityError(RosettaError):
    """Answers cannot be compared: none were given, or their shapes differ."""


class InputError(RosettaError):
    """What a caller sent cannot be used."""


class ImageError(InputError):
    """A picture that cannot be read."""


class ImageTooLarge(ImageError):
    """A picture with more pixels than the limit."""


class UnsupportedImage(ImageError):
    """Bytes that are not a picture, or not in a supported format."""


class NotAPictureModel(InputError):
    """A picture was sent to a model that does not take one."""


class BodyTooLarge(InputError):
    """A request body over the limit, as sent or when decompressed."""


class BodyIncomplete(InputError):
    """A request body that stopped before its end."""


class UnsupportedEncoding(InputError):
    """An unsupported Content-Encoding."""


class UnknownModel(RosettaError):
    """No served model has this name."""


class ModelUnavailable(RosettaError):
    """The model is known, but its artifact cannot be run."""


class Overloaded(RosettaError):
    """Too many requests wait for the model."""


class DeadlineExceeded(RosettaError):
    """The answer did not come within the request's time limit."""


class RuntimeFailure(RosettaError):
    """A runtime crashed, hung, or failed inside."""


def one_line(error: BaseException, longest: int | None = None) -> str:
    """An error in one line: `ValueError: no such axis`; shortened to about `longest` characters.

    A RosettaError is written for people, so it comes without the name of its class.
    """
    message = " ".join(str(error).split())
    if not isinstance(error, RosettaError):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return message if longest is None else shortened(message, longest)


def shortened(text: str, longest: int) -> str:
    """A text without its middle if it has more than `longest` characters: the reason is often at the end."""
    first = longest // 3
    return text if len(text) <= longest else f"{text[:first]} ... {text[first - longest :]}"
