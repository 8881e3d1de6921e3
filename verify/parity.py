"""Parity: how far an artifact's answers are from its source's, on the same real pictures.

Parity is a star, not a chain: each artifact is compared with its source, in its real runtime, on all its questions (for
our own models, the test pictures), at batch 1 and at batch 64, and on some of them in one large call. What its manifest
says about inputs, outputs, labels and pictures has to be what its source's says.

Float32 passes when no probability differs by more than 1e-4 and no class changes. Near-ties are excepted: pictures
whose two best classes are so close in the source that rounding alone can swap them. For answers that are not
probabilities the limit is the same share of the source's largest value.

An artifact of reduced precision is not judged by that tolerance: verify/precision/ has its classes.
"""

import contextlib
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from contract.behaviour import Behaviour, write_behaviour
from contract.errors import ArtifactMissing, ParityError, RosettaError, RuntimeFailure, one_line
from contract.formats import is_installed, is_reduced, needs, not_installed
from contract.ledger import ClassLoss, write_ledger
from contract.manifest import MANIFEST, Manifest, TensorSpec, read_manifest, sha256_of, verify_files
from contract.parity_result import (
    ORDINARY,
    UNVERIFIED,
    VERIFIED,
    BatchParity,
    Flip,
    Kept,
    ParityResult,
    read_status,
    write_parity,
)
from contract.tensors import Tensors, numpy_dtype
from serve.runtimes import Runtime, load_runtime
from verify.behaviour import Alone, ask_alone, observe
from verify.edges import EdgeAnswer, answer_edges, edge_differences, edge_questions
from verify.fork import Fork, Taken, forked
from verify.lowered import ROWS, STEP, distance, inputs_off_by, lowered, rounded_inputs
from verify.placement import placements
from verify.precision import gate
from verify.precision.ledger import examine
from verify.precision.losses import lost_classes, lost_layers
from verify.processor import processor
from verify.questions import Questions
from verify.second_process import answers_of_another_process
from verify.spread import spread

Answers = NDArray[np.floating[Any]]
"""(N, values): one output's answers."""
AllAnswers = Mapping[str, Answers]
"""Output's name -> its answers."""

BATCHES = (1, 64)
"""The rows of a call. A model whose calls are whole is asked one by one alone."""
INVENTED_SECONDS = 1.0
"""How long an artifact may take for all invented questions, of which the first show nearly all that the others do."""
POLL_SECONDS = 0.05
"""Between two looks for artifacts that come while others are compared."""
FEWEST = 16
"""Questions that are asked however slow the model is."""
ROOM = 2 << 30
"""Bytes that the rows of one call may take besides the model: of large pictures, fewer than 64 are asked at once."""
LARGE = 257
"""Rows of the large call: some graphs go wrong only beyond a size, which is often a power of 2."""
LARGE_SECONDS = 40.0
"""The most that the large call may take. A runtime in another process has its own limit for a call."""
NUMBERS_ONLY = 1e30
"""A tolerance for edge questions by which only answers that are not numbers differ."""
ROUNDS = "its source computes with whole numbers, and rounds where this artifact may round the other way"
"""Why nothing made of a quantised source may answer like it."""
MAGNIFIES = "its source's own answers move by {moved:.2g} when each input is a step of float32 off"
"""Why no other program may answer like a source: it would not pass beside itself."""
LARGE_BYTES = 8_000_000
"""The most that the inputs of the large call may take; of a large picture a network keeps a hundred times as much."""


@dataclass(frozen=True)
class Tolerance:
    """What passes. The default is for float32, where converters reorder sums: 2e-6 is usual, 1e-4 is a fault."""

    max_abs_diff: float = 1e-4


@dataclass(frozen=True)
class Time:
    """How many seconds an artifact may take for its questions."""

    all: float = 20.0
    """For all of them, if they were asked one at a time: of a slow model, fewer are asked."""
    alone: float | None = None
    """For those that are asked one at a time, where all are asked with others anyway; None: all are."""


USUAL, QUICK = Time(), Time(10.0, 1.0)

FLOAT32 = Tolerance()
REDUCED = Tolerance(0.05)
"""Between answers of one artifact of reduced precision, called in two ways: kernels for other batches and in other
runtimes round by a step more or less."""


def same_artifact(format: str) -> Tolerance:
    """By how much an artifact's answers may differ from its own, when it is called in another way."""
    return REDUCED if is_reduced(format) else FLOAT32


def compare(reference: Answers, candidate: Answers, batch: int, tolerance: Tolerance = FLOAT32) -> BatchParity:
    """Compare two tables of answers (N, classes) to the same N inputs, row by row.

    Raises ParityError when there is nothing to compare or the shapes differ: an empty comparison never passes.
    """
    if reference.shape != candidate.shape:
        raise ParityError(f"The answers have shape {candidate.shape}, expected the source's {reference.shape}.")
    if reference.size == 0:
        raise ParityError("No answers were compared: at least one input is needed.")
    reference, candidate = reference.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        difference = np.abs(reference - candidate)
    # NaN compares false with everything: an answer that is not a number counts as infinitely far off.
    difference[~np.isfinite(difference)] = np.inf
    return BatchParity(
        batch=batch,
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        min_cosine=float(_cosine(reference, candidate).min()),
        max_kl=_divergence(reference, candidate),
        agreement=float((reference.argmax(axis=1) == candidate.argmax(axis=1)).mean()),
        flips=tuple(_flips(reference, candidate, difference, tolerance)),
    )


def compare_all(reference: AllAnswers, candidate: AllAnswers, batch: int, tolerance: Tolerance) -> BatchParity:
    """`compare` for each output, as one result. Differences are relative to the size of the output's own values."""
    parities = []
    for name, expected in reference.items():
        unit = _unit_of(expected)
        parities.append(compare(expected / unit, candidate[name] / unit, batch, tolerance))
    return combine(parities)


def _cosine(reference: Answers, candidate: Answers) -> Answers:
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(candidate, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (reference * candidate).sum(axis=1) / lengths
    result: Answers = np.nan_to_num(cosine, nan=-1.0)
    return result


def _divergence(reference: Answers, candidate: Answers) -> float | None:
    """The largest KL divergence of a row. A class that is possible only for the source makes it infinite."""
    for answers in (reference, candidate):
        if not ((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-3)):
            return None
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(reference > 0, reference * np.log(reference / candidate), 0.0)
    return float(max(0.0, terms.sum(axis=1).max()))  # only rounding makes it negative


def _flips(reference: Answers, candidate: Answers, difference: Answers, tolerance: Tolerance) -> Iterator[Flip]:
    source, artifact = reference.argmax(axis=1), candidate.argmax(axis=1)
    for image in np.flatnonzero(source != artifact):
        best = np.sort(reference[image])[::-1]
        with np.errstate(invalid="ignore"):  # two infinities are a tie
            margin, largest = float(np.nan_to_num(best[0] - best[1], posinf=np.inf)), float(difference[image].max())
        # Not twice this picture's own difference: every change of class is within that.
        near_tie = margin <= 2 * tolerance.max_abs_diff
        yield Flip(int(image), int(source[image]), int(artifact[image]), margin, largest, near_tie)


def judge(batches: Iterable[BatchParity], tolerance: Tolerance = FLOAT32) -> list[str]:
    """Why the comparison does not pass, one phrase for each reason; empty when it passes."""
    reasons = []
    for parity in batches:
        at = f"at batch {parity.batch}"
        if not parity.max_abs_diff <= tolerance.max_abs_diff:
            reasons.append(
                f"the largest difference {at} is {parity.max_abs_diff:.2g}, at most {tolerance.max_abs_diff}"
            )
        changed = [flip.image for flip in parity.flips if not flip.near_tie]
        if changed:
            some = ", ".join(map(str, changed[:5])) + (", ..." if len(changed) > 5 else "")
            reasons.append(f"{len(changed)} answers change class {at} ({some})")
    return reasons


def _unit_of(reference: Answers) -> float:
    """1 for answers up to 1, such as probabilities; otherwise their largest value, since rounding grows with it."""
    finite = np.abs(reference[np.isfinite(reference)])
    return max(1.0, float(finite.max(initial=0)))


def combine(parities: Sequence[BatchParity]) -> BatchParity:
    """One result for all outputs of a model: the worst of each measure, and the classes of the first output."""
    divergences = [parity.max_kl for parity in parities if parity.max_kl is not None]
    return replace(
        parities[0],
        max_abs_diff=max(parity.max_abs_diff for parity in parities),
        mean_abs_diff=max(parity.mean_abs_diff for parity in parities),
        min_cosine=min(parity.min_cosine for parity in parities),
        max_kl=max(divergences, default=None),
    )


def answer(
    runtime: Runtime, manifest: Manifest, questions: Questions, batch: int, known: Sequence[Tensors] = ()
) -> AllAnswers:
    """The artifact's outputs by name, each as a table (N, values), computed in batches of `batch`.

    `known` are its answers to the first batches.
    """
    dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in manifest.inputs}
    starts = tqdm(
        range(len(known) * batch, questions.count, batch),
        desc=f"{manifest.name}, batch {batch}",
        unit="call",
        leave=False,
        delay=1,
        disable=None,
        file=sys.stdout,  # the frameworks' warnings have standard error for themselves
    )
    parts = [*known, *(runtime.predict(questions.rows(start, start + batch, dtypes)) for start in starts)]
    if missing := [spec.name for spec in manifest.outputs for part in parts[:1] if spec.name not in part]:
        got = ", ".join(parts[0])
        raise RuntimeFailure(f"{manifest.name} has no output {', '.join(missing)}: its runtime gives {got}.")
    return {spec.name: _table([part[spec.name] for part in parts], questions) for spec in manifest.outputs}


def _table(parts: Sequence[NDArray[Any]], questions: Questions) -> Answers:
    """An output's parts, one a call, as one table (N, values) for N questions; texts become numbers.

    Of an output that is not a row for each row, such as a state [layers, batch, units], it is one value a line.
    """
    if questions.are_calls and len({part.shape for part in parts}) == 1:
        parts = [part.reshape(1, -1) for part in parts]
    is_by_rows = all(part.ndim for part in parts) and sum(len(part) for part in parts) == questions.count
    tables = [part.reshape(len(part), -1) if is_by_rows else part.reshape(-1, 1) for part in parts]
    table = np.concatenate(tables) if tables else np.empty((0, 0))
    if table.dtype == object:  # byte strings: equal ones have the same checksum
        table = np.frompyfunc(lambda value: float(zlib.crc32(bytes(value))), 1, 1)(table).astype(np.float64)
    return table


@dataclass
class Compared:
    """What came of artifacts that were compared."""

    results: dict[str, ParityResult] = field(default_factory=dict)
    """By format."""
    errors: list[RosettaError] = field(default_factory=list)
    """Of those that cannot be compared."""


def verify_model(
    folder: Path,
    questions: Questions,
    limits: Sequence[float] = gate.CLASSES,
    formats: Collection[str] = (),
    until: Path | None = None,
    in_two: bool = False,
    time_allowed: Time = USUAL,
) -> dict[str, ParityResult]:
    """Compare every artifact of the model in `folder` with its source; write and return the results by format.

    `limits` are the classes of reduced precisions. Where `formats` are given, only these are compared. An artifact
    whose runtime is not installed is left out, with a line that says so. With `until`, artifacts of these formats are
    compared as they come, until that file is there. With `in_two`, a fork of this process compares some of them at the
    same time; no framework may have computed anything here before. In the `time_allowed` a slow one is asked fewer.

    When an artifact cannot be compared, the others still are, and the first such error is raised at the end. Raises
    ArtifactError, ModelUnavailable or RuntimeFailure, and ParityError when there is nothing to compare.
    """
    manifests = {path.parent: read_manifest(path.parent) for path in sorted(folder.glob(f"[!.]*/{MANIFEST}"))}
    sources = [path for path, manifest in manifests.items() if manifest.is_source]
    if len(sources) != 1:
        raise ArtifactMissing(f"{folder} has {len(sources)} source artifacts, expected one. Run `make artifacts`.")
    (source,) = sources
    coming = manifests.items() if until is None else _arriving(folder, formats, until)
    artifacts = (each for each in coming if each[0] != source and (not formats or each[1].format in formats))
    with tempfile.TemporaryDirectory() as scratch:
        taken = Taken(Path(scratch)) if in_two else None
        compare = partial(_compare_each, artifacts, source, limits, taken)
        with forked(compare) if in_two else contextlib.nullcontext() as fork:
            reference = _reference_or_failure(source, manifests[source], questions, time_allowed)
            if fork:
                fork.begin(reference)
            compared = compare(reference)
            if fork and taken:
                _add(compared, fork, folder, taken)
    if compared.errors:
        raise compared.errors[0]
    return compared.results


def _reference_or_failure(source: Path, manifest: Manifest, questions: Questions, time_allowed: Time) -> "Reference":
    try:
        return _reference(source, manifest, questions, time_allowed)
    except RosettaError:
        raise
    except Exception as error:  # a runtime may raise anything
        raise RuntimeFailure(f"{manifest.name} cannot be run: {one_line(error)}") from error


def _compare_each(
    artifacts: Iterable[tuple[Path, Manifest]],
    source: Path,
    limits: Sequence[float],
    taken: Taken | None,
    reference: "Reference",
) -> Compared:
    """Compare these artifacts, or what another process leaves of them, and write their results."""
    compared = Compared()
    for path, manifest in artifacts:
        if taken and not taken.take(manifest.format):
            continue
        if not needs(manifest.format) and not is_installed(manifest.format):
            print(f"{manifest.name} is not compared: {not_installed(manifest.format)}", flush=True)
            continue
        print(f"--- {manifest.name}", file=sys.stderr, flush=True)  # the title of what its runtime writes
        try:
            if needs(manifest.format):
                result = _elsewhere(path, manifest, source, reference)
            else:
                result = _result(path, manifest, source, reference, limits)
        except Exception as error:  # a runtime may raise anything, and the other artifacts are compared all the same
            known = error if isinstance(error, RosettaError) else RuntimeFailure(one_line(error))
            print(f"{manifest.name} cannot be compared: {one_line(known)}", file=sys.stderr, flush=True)
            if not is_reduced(manifest.format):  # a variant that cannot be run stays unverified, and stops nothing
                compared.errors.append(known)
            continue
        if result is None:
            continue
        write_parity(path, result)
        compared.results[manifest.format] = result
        print(line(result, manifest.has_classes), flush=True)
    return compared


def _elsewhere(path: Path, manifest: Manifest, source: Path, reference: "Reference") -> ParityResult | None:
    """What another system answered, which alone runs the artifact; None where it did not."""
    from verify.mac.proof import prove  # it judges by this module's rules

    return prove(path, manifest, source, reference)


def _add(compared: Compared, fork: Fork, folder: Path, taken: Taken) -> None:
    """Add what the fork compared. Where it crashed, what it wrote before counts, and the last one has an error."""
    try:
        others: Compared = fork.result()
        compared.results |= others.results
        compared.errors += others.errors
    except RuntimeFailure as error:
        for format in taken.by_others():
            if result := read_status(folder / format).parity:
                compared.results[format] = result
            else:
                name = read_manifest(folder / format).name
                print(f"{name} cannot be compared: {one_line(error)}", file=sys.stderr, flush=True)
                compared.errors.append(error)


def _arriving(folder: Path, formats: Collection[str], until: Path) -> Iterator[tuple[Path, Manifest]]:
    """The artifacts in these formats, each when it is there; the end is when the file `until` is there.

    A manifest is there as soon as all the files that it names are.
    """
    left, is_last = list(formats), False
    while left and not is_last:
        is_last = until.exists()  # before looking: what came before it counts
        for format in [format for format in left if (folder / format / MANIFEST).exists()]:
            left.remove(format)
            is_last = False  # meanwhile others may have come
            yield folder / format, read_manifest(folder / format)
        if not is_last:
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Reference:
    """What the source answers."""

    questions: Questions
    """As they were asked: `spread` may have changed some."""
    ordinary: Mapping[int, AllAnswers]
    """By batch size."""
    large: AllAnswers | None
    """To `large_call`; None where it was not asked, or could not answer."""
    edges: Sequence[EdgeAnswer]
    rounding: float = 0.0
    """How far float16's rounding of the inputs moves its answers; 0 where that says nothing."""
    time_allowed: Time = USUAL

    def first(self, count: int) -> "Reference":
        """To the first `count` questions; to all where not every answer is a row for each question."""
        if count >= self.questions.count or not self._is_by_rows:
            return self
        ordinary = {
            batch: {name: table[:count] for name, table in answers.items()} for batch, answers in self.ordinary.items()
        }
        return replace(self, questions=self.questions.first(count), ordinary=ordinary)

    def first_alone(self, seconds: float) -> "Reference":
        """To as many questions asked one at a time as an artifact answers in time that takes so many `seconds`."""
        if len(self.ordinary) == 1 or not self._is_by_rows:
            return self
        count = _count_alone(self.questions, seconds, self.time_allowed)
        alone = {name: table[:count] for name, table in self.ordinary[1].items()}
        return replace(self, ordinary={**self.ordinary, 1: alone})

    def questions_at(self, batch: int) -> Questions:
        """The questions that were asked so many at a time."""
        if not self._is_by_rows:
            return self.questions
        return self.questions.first(len(next(iter(self.ordinary[batch].values()))))

    @property
    def _is_by_rows(self) -> bool:
        """Whether each answer is a row for each question."""
        return are_by_rows(self.ordinary[max(self.ordinary)], self.questions)


def are_by_rows(answers: AllAnswers, questions: Questions) -> bool:
    return all(len(table) == questions.count for table in answers.values())


def _count_alone(questions: Questions, seconds: float, time_allowed: Time) -> int:
    """How many questions are asked one at a time, where one takes so many `seconds`, and all are asked with others."""
    if time_allowed.alone is None:
        return questions.count
    return min(questions.count, max(FEWEST, int(time_allowed.alone / max(seconds, 1e-9))))


@contextlib.contextmanager
def _observed(path: Path, manifest: Manifest, questions: Questions) -> Iterator[tuple[Runtime, Behaviour, Alone]]:
    """The artifact's runtime, how it behaves, which is written beside it, and its answers to the first questions.

    Raises ArtifactCorrupt, ModelUnavailable or RuntimeFailure.
    """
    verify_files(path, manifest)
    # Before it is loaded here, so that memory holds it once.
    elsewhere = answers_of_another_process(path, questions.below) if manifest.is_source else None
    with contextlib.closing(load_runtime(path, manifest)) as runtime:
        alone = ask_alone(runtime, manifest, questions)
        behaviour = observe(runtime, manifest, questions, sha256_of(path / MANIFEST), elsewhere, alone)
        write_behaviour(path, behaviour)
        yield runtime, behaviour, alone


def _reference(path: Path, manifest: Manifest, questions: Questions, time_allowed: Time = USUAL) -> Reference:
    """Raises what `_observed` raises, and ParityError where the answers differ from call to call, or there is none."""
    if not questions.count:
        raise ParityError("No answers were compared: at least one input is needed.")
    with _observed(path, manifest, questions) as (runtime, behaviour, alone):
        if behaviour.unsteady:
            raise ParityError(f"{manifest.name} {behaviour.unsteady_words}")
        given = in_time(manifest, questions, alone.seconds, time_allowed.all)
        questions, ordinary = _answered(runtime, manifest, given, alone, time_allowed)
        edges = answer_edges(runtime, edge_questions(manifest.inputs, questions))
        large = large_call(questions) if tuple(ordinary) == BATCHES and not _takes_long(manifest, alone) else None
        try:
            many = None if large is None else answer(runtime, manifest, large, LARGE)
        except Exception:  # a runtime may raise anything; a program may accept fewer rows
            many = None
        rounding = _rounding(runtime, manifest, questions, ordinary)
        return Reference(questions, ordinary, many, edges, rounding, time_allowed)


def _answered(
    runtime: Runtime, manifest: Manifest, given: Questions, alone: Alone, time_allowed: Time
) -> tuple[Questions, Mapping[int, AllAnswers]]:
    """The questions to compare on, and the source's answers to them by batch size; none is asked twice."""
    batches = _batches(runtime, manifest, given)
    most = batches[-1]
    together = answer(runtime, manifest, given, most, alone.answers if most == 1 else ())
    questions = spread(runtime, manifest, given, together[manifest.outputs[0].name])
    known = alone.answers
    if questions is not given:
        known, together = (), answer(runtime, manifest, questions, most)
    if most == 1:
        return questions, {1: together}
    count = questions.count
    if are_by_rows(together, questions):
        count = _count_alone(questions, alone.seconds, time_allowed)
    return questions, {1: answer(runtime, manifest, questions.first(count), 1, known), most: together}


def _rounding(runtime: Runtime, manifest: Manifest, questions: Questions, ordinary: Mapping[int, AllAnswers]) -> float:
    rounded = rounded_inputs(questions, manifest)
    batch, output = max(ordinary), manifest.outputs[0].name
    if rounded is None:
        return 0.0
    with contextlib.suppress(Exception):  # a runtime may refuse values that are only nearly its inputs'
        return distance(answer(runtime, manifest, rounded, batch)[output], ordinary[batch][output][: rounded.count])
    return 0.0


def in_time(manifest: Manifest, questions: Questions, seconds: float, allowed: float = USUAL.all) -> Questions:
    """As many of the questions as are answered in the time `allowed`, one by one, where one takes so many `seconds`."""
    allowed = min(allowed, INVENTED_SECONDS) if questions.are_invented else allowed
    count = max(FEWEST, int(allowed / max(seconds, 1e-9)))
    if count >= questions.count:
        return questions
    print(f"{manifest.name}: it is slow, so {count} of {questions.count} rows are compared", flush=True)
    return questions.first(count)


def batches_of(questions: Questions) -> tuple[int, ...]:
    """BATCHES, or its first alone where each row is a whole call."""
    return BATCHES[:1] if questions.are_calls else BATCHES


def _batches(runtime: Runtime, manifest: Manifest, questions: Questions) -> tuple[int, ...]:
    """BATCHES; fewer rows a call where so many would take more than ROOM, as calls with fewer of them show."""
    if batches_of(questions) != BATCHES:
        return batches_of(questions)
    dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in manifest.inputs}
    rows = 4
    while rows < BATCHES[-1]:
        before = _peak()
        runtime.predict(questions.rows(0, rows, dtypes))
        if 4 * (_peak() - before) > ROOM:
            print(f"{manifest.name}: compared {rows} rows at a time, since more take too much memory", flush=True)
            break
        rows *= 4
    return BATCHES[0], rows


def _peak() -> int:
    """The most resident bytes of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def large_call(questions: Questions) -> Questions | None:
    """LARGE rows, the first questions again and again; None where these take more than LARGE_BYTES, or have no rows."""
    if questions.are_calls:
        return None
    # Pictures are kept as bytes and sent as floats.
    sizes = (4 * rows[0].size if rows.dtype == np.uint8 else rows[0].nbytes for rows in questions.inputs.values())
    if LARGE * sum(sizes) > LARGE_BYTES:  # before the rows are copied: of pictures that are too large, that takes long
        return None
    order = np.arange(LARGE) % questions.count
    return replace(questions, inputs={name: rows[order] for name, rows in questions.inputs.items()}, labels=None)


def _takes_long(manifest: Manifest, alone: Alone) -> bool:
    """Whether the large call would take longer than LARGE_SECONDS, which is said."""
    takes_long = LARGE * alone.seconds > LARGE_SECONDS
    if takes_long:
        print(f"{manifest.name}: it is slow, so it is not asked {LARGE} rows in one call", flush=True)
    return takes_long


def _large_parity(
    runtime: Runtime, manifest: Manifest, reference: Reference, questions: Questions, tolerance: Tolerance
) -> Iterator[BatchParity]:
    """The comparison of the large call, where there is one. Raises RuntimeFailure where only the source answers."""
    large = large_call(questions)
    if reference.large is None or large is None:
        return
    try:
        answers = answer(runtime, manifest, large, LARGE)
    except Exception as error:  # a runtime may raise anything
        raise RuntimeFailure(f"{manifest.name} cannot answer {LARGE} rows in one call: {one_line(error)}") from error
    # Its rows are not questions of their own: their changes of class are among the others.
    yield replace(compare_all(reference.large, answers, LARGE, tolerance), flips=())


def differences_in_words(source: Manifest, artifact: Manifest) -> list[str]:
    """What two manifests say differently about inputs, outputs, labels and pictures, one phrase for each."""
    phrases = []
    for name in ("inputs", "outputs"):
        here, there = getattr(source, name), getattr(artifact, name)
        if here != there:
            phrases.append(f"its manifest's {name} are {_specs(there)}, its source's {_specs(here)}")
    if source.labels != artifact.labels:
        pairs = list(zip_longest(source.labels, artifact.labels, fillvalue="none"))
        number, (here, there) = next((number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1])
        count = sum(before != after for before, after in pairs)
        phrases.append(f"{count} labels are not its source's: class {number} is {there!r} instead of {here!r}")
    if source.image != artifact.image:
        known = [vars(image) if image else {} for image in (source.image, artifact.image)]
        names = [name for name in {**known[0], **known[1]} if known[0].get(name) != known[1].get(name)]
        changed = ", ".join(f"{name} is {known[1].get(name)!r} instead of {known[0].get(name)!r}" for name in names)
        phrases.append(f"its pictures are not made as its source's: {changed}")
    return phrases


def _specs(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(
        f"{spec.name} {spec.dtype} {list(spec.shape)} {spec.layout}{f' {spec.bounds}' if spec.bounds else ''}"
        for spec in specs
    )


def _result(
    path: Path, manifest: Manifest, source: Path, reference: Reference, limits: Sequence[float]
) -> ParityResult:
    start = time.perf_counter()
    tolerance, reduced = Tolerance(reference.questions.tolerance), is_reduced(manifest.format)
    with _observed(path, manifest, reference.questions) as (runtime, behaviour, alone):
        given = reference.questions  # the large call repeats all of them, also where fewer are asked one by one
        if not reduced:  # what is kept of the accuracy is an interval, which needs all
            reference = _to_ask(manifest, reference, alone, tolerance)
        questions = reference.questions
        known = {1: alone.answers}
        answers = {
            batch: answer(runtime, manifest, reference.questions_at(batch), batch, known.get(batch, ()))
            for batch in reference.ordinary
        }
        is_slow = _takes_long(manifest, alone)
        large = () if is_slow else tuple(_large_parity(runtime, manifest, reference, given, tolerance))
        differs = edge_differences(runtime, reference.edges, NUMBERS_ONLY if reduced else tolerance.max_abs_diff)
    batches = tuple(compare_all(own, answers[batch], batch, tolerance) for batch, own in reference.ordinary.items())
    if not manifest.has_classes:
        batches = tuple(replace(batch, flips=()) for batch in batches)
    kept = _kept(manifest, reference, answers, limits) if reduced else None
    reasons, rounds = differences_in_words(read_manifest(source), manifest), read_manifest(source).is_quantised
    if kept:
        classes = _lost_classes(manifest, reference, answers)
        reasons += [*gate.misses(kept), *_faults_in_file(path, manifest, questions, classes)]
        reasons += [*gate.parts_in_large(large, manifest.has_classes)]
    else:
        wrong = judge(batches, tolerance) or judge(large, tolerance)
        reasons += [*wrong, *(_magnifying(source, reference, tolerance) if wrong and not rounds else ())]
    if reasons and rounds:
        reasons.append(ROUNDS)
    if behaviour.unsteady:
        reasons.append(f"it {behaviour.unsteady_words}")
    batch, output = max(answers), manifest.outputs[0].name
    first = answers[batch][output]
    off = 0.0 if reduced else distance(reference.ordinary[batch][output][:ROWS], first[:ROWS])
    return ParityResult(
        artifact=manifest.name,
        source=read_manifest(source).name,
        artifact_sha256=sha256_of(path / MANIFEST),
        source_sha256=sha256_of(source / MANIFEST),
        passed=not reasons,
        reasons=tuple(reasons),
        tolerance=tolerance.max_abs_diff,
        images=questions.count,
        accuracy=None if questions.labels is None else float((first.argmax(axis=1) == questions.labels).mean()),
        batches=(*batches, *large),
        seconds=round(time.perf_counter() - start, 1),
        edges=len(reference.edges),
        differs=tuple(differs),
        processor=processor(),
        kept=kept,
        lowered=lowered(off, reference.rounding),
        placements=() if reasons else placements(path, manifest),
    )


def _to_ask(manifest: Manifest, reference: Reference, alone: Alone, tolerance: Tolerance) -> Reference:
    """What an artifact is asked: all that it answers in time. Where its first answers to invented questions are wrong,
    these alone: no other answer makes them right."""
    total = reference.questions.count
    first = reference.first(len(alone.answers))
    if reference.questions.are_invented and first.questions.count < total and _are_wrong(reference, alone, tolerance):
        count = first.questions.count
        print(f"{manifest.name}: its first {count} answers are wrong: {total - count} are left out", flush=True)
        return replace(first, ordinary={1: first.ordinary[1]}, large=None, edges=())
    asked_in_time = in_time(manifest, reference.questions, alone.seconds, reference.time_allowed.all)
    return reference.first(asked_in_time.count).first_alone(alone.seconds)


def _magnifying(source: Path, reference: Reference, tolerance: Tolerance) -> Iterator[str]:
    """What is said of a source that would not pass beside itself, were its inputs off by the least that they can be.

    It is loaded anew, since only an artifact that fails raises the question.
    """
    manifest, batch = read_manifest(source), max(reference.ordinary)
    beside = inputs_off_by(STEP, reference.questions, manifest)
    if beside is None:
        return
    own = reference.first(beside.count).ordinary[batch]
    moved = 0.0
    # A runtime may refuse values that are only nearly its inputs'.
    with contextlib.suppress(Exception), contextlib.closing(load_runtime(source, manifest)) as runtime:
        moved = compare_all(own, answer(runtime, manifest, beside, batch), batch, tolerance).max_abs_diff
    if moved > tolerance.max_abs_diff:
        yield MAGNIFIES.format(moved=moved)


def _are_wrong(reference: Reference, alone: Alone, tolerance: Tolerance) -> bool:
    """Whether its first answers alone are further off than all of them may be."""
    for name, expected in reference.ordinary[1].items():
        parts = [np.atleast_1d(answer[name]) for answer in alone.answers if name in answer]
        got = np.concatenate([part.reshape(1, -1) for part in parts]) if _are_alike(parts) else np.empty((0, 0))
        own = expected[: len(got)]
        if got.dtype == object or got.shape != own.shape:
            continue  # texts, other shapes: they are compared with all others
        with np.errstate(invalid="ignore"):
            off = np.abs(own.astype(np.float64) - got.astype(np.float64)).max(initial=0)
        if not off <= tolerance.max_abs_diff * _unit_of(expected):
            return True
    return False


def _are_alike(parts: Sequence[NDArray[Any]]) -> bool:
    return len({part.shape for part in parts}) == 1


def _kept(manifest: Manifest, reference: Reference, answers: Mapping[int, AllAnswers], limits: Sequence[float]) -> Kept:
    """What is kept at the batch size at which less is."""
    labels = reference.questions.labels
    each = (
        gate.least_kept(own, answers[batch], labels, manifest.has_classes, limits)
        for batch, own in reference.ordinary.items()
    )
    return min(each, key=lambda kept: kept.low)


def _lost_classes(manifest: Manifest, reference: Reference, answers: Mapping[int, AllAnswers]) -> tuple[ClassLoss, ...]:
    """At the largest batch size, on the right classes; on the source's own where these are unknown."""
    if not manifest.has_classes:
        return ()
    batch, name = max(answers), manifest.outputs[0].name
    before, after = (each[batch][name].argmax(axis=1) for each in (reference.ordinary, answers))
    labels = reference.questions.labels
    return lost_classes(before, after, before if labels is None else labels, manifest.labels)


def _faults_in_file(path: Path, manifest: Manifest, questions: Questions, classes: tuple[ClassLoss, ...]) -> list[str]:
    """What the file of an artifact of reduced precision shows to be wrong; its ledger is written beside it."""
    examined = examine(path, manifest)
    if examined is None:
        return []
    ledger, faults = examined
    write_ledger(path, replace(ledger, classes=classes, layers=lost_layers(path, manifest, questions)))
    return faults


def line(result: ParityResult, has_classes: bool) -> str:
    """The result in one line, for people."""
    where = f" on {result.system} ({result.processor})" if result.system else ""
    verdict = f"{VERIFIED}{where}" if result.passed else f"{UNVERIFIED}: {'; '.join(result.reasons)}"
    if result.passed and result.differs:
        verdict = f"{ORDINARY}; {result.differs[0]}"
    if result.passed and result.lowered:
        verdict += f"; {result.lowered}"
    same = f"same class {result.agreement:.2%} of {result.images}" if has_classes else f"{result.images} questions"
    if result.kept:
        verdict = f"{VERIFIED} at {100 * result.kept.limit:g} %" if result.passed else verdict
        return f"{result.artifact:22} keeps {result.kept}: {verdict}"
    return f"{result.artifact:22} largest difference {result.max_abs_diff:.1e}, {same}: {verdict}"
