"""Questions that a model is not sure of, in place of some that it is too sure of.

On invented pictures a trained classifier often answers 1.000, whatever is done to the picture: with red and blue
swapped it still does, and the fault stays unseen. Between two pictures of different classes lies one where the answer
turns, and there every fault shows. It is found by halving, so that no model is too strange for it.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.manifest import Manifest
from contract.tensors import numpy_dtype
from serve.runtimes import Runtime
from verify.questions import Questions

SURE = 0.999
"""A probability of the best class from which on an answer says little."""
BLENDED = 16
"""How many pictures are replaced: each costs HALVINGS answers of the source."""
HALVINGS = 8


def spread(
    runtime: Runtime, manifest: Manifest, questions: Questions, known: NDArray[np.floating[Any]] | None = None
) -> Questions:
    """The questions, with some invented pictures blended where the source is sure of more than half of them.

    Real pictures with known classes stay: what they show is what the model is for. `known` are the source's answers
    (N, classes), where they were asked. Where nothing is blended, these same questions are returned.
    """
    pictures = questions.pictures
    if pictures is None or questions.labels is not None or not manifest.classifies:
        return questions
    answers = _answers(runtime, manifest, pictures) if known is None else known
    sure = answers.max(axis=1) > SURE
    others = _partners(answers.argmax(axis=1))
    rows = np.flatnonzero(sure & (others >= 0))[:BLENDED]
    if not sure.mean() > 0.5 or not len(rows):
        return questions
    blended = pictures.copy()
    blended[rows] = _between(runtime, manifest, pictures[rows], pictures[others[rows]])
    print(
        f"{manifest.name} is sure of {sure.sum()} of {len(sure)} invented pictures: {len(rows)} of them are blended "
        "until it is less sure. Name your own pictures with DATA= for a better comparison.",
        flush=True,
    )
    return replace(questions, inputs={manifest.inputs[0].name: blended})


def _answers(runtime: Runtime, manifest: Manifest, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    spec = manifest.inputs[0]
    given = {spec.name: pictures.astype(numpy_dtype(spec.dtype))}
    return np.asarray(runtime.predict(given)[manifest.outputs[0].name], np.float64)


def _partners(classes: NDArray[np.intp]) -> NDArray[np.intp]:
    """For each row the next one, in a circle, that has another class; -1 where all have one."""
    count = len(classes)
    numbers = (np.arange(count)[:, None] + np.arange(1, count)) % count
    different = classes[numbers] != classes[:, None]
    next_one = numbers[np.arange(count), different.argmax(axis=1)]
    return np.where(different.any(axis=1), next_one, -1)


def _between(
    runtime: Runtime, manifest: Manifest, here: NDArray[np.uint8], there: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """For each pair the blend of which the model was least sure while the place where its class turns was halved."""
    low, high = np.zeros(len(here)), np.ones(len(here))
    first = _answers(runtime, manifest, here)
    best, least = here.copy(), first.max(axis=1)
    for _ in range(HALVINGS):
        share = ((low + high) / 2).reshape(-1, *[1] * (here.ndim - 1))
        blend = np.rint(here * (1 - share) + there * share).astype(np.uint8)
        answers = _answers(runtime, manifest, blend)
        less = answers.max(axis=1) < least
        best[less], least[less] = blend[less], answers.max(axis=1)[less]
        stays = answers.argmax(axis=1) == first.argmax(axis=1)
        low, high = np.where(stays, share.ravel(), low), np.where(stays, high, share.ravel())
    return best
