"""What people send: each form is a request that the service answers as the runtime does, and REQUEST chooses one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compare import http_calls
from compare.__main__ import main
from compare.advice import advise
from compare.answers import LARGEST, MANY, AnswersByBatch
from compare.assemble import targets_for
from compare.figures import Missing
from compare.http_calls import CheckedCalls, connected, first_answers
from compare.recommend import TARGETS
from compare.report import Artifact, Row
from compare.requests import FORMS, Form, file_of, forms_of
from contract.dataset import Split
from contract.errors import RuntimeFailure
from contract.image import image_to_batch
from contract.manifest import Manifest, read_manifest
from serve.runtimes import load_runtime
from tests.reports import ONNX, TFLITE, report_of, row
from tests.serving import Service


@pytest.fixture(scope="module")
def manifest(artifacts: Path) -> Manifest:
    return read_manifest(artifacts / "keras_cnn" / "onnx")


@pytest.fixture(scope="module")
def known(artifacts: Path, manifest: Manifest, test_split: Split) -> tuple[NDArray[np.uint8], AnswersByBatch]:
    """Pictures, and the runtime's own answers to them."""
    pictures, runtime = test_split.images[:MANY], load_runtime(artifacts / "keras_cnn" / "onnx", manifest)
    rows = {count: np.resize(pictures, (count, *pictures.shape[1:])).astype(np.float32) for count in (MANY, LARGEST)}
    return pictures, first_answers({c: runtime.predict({"pixels": x})["probabilities"] for c, x in rows.items()})


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_answered_as_the_runtime_answers(
    running_service: Service, manifest: Manifest, known: tuple[NDArray[np.uint8], AnswersByBatch], form: str
) -> None:
    with connected(running_service.port) as connection:
        body = CheckedCalls(connection, manifest, *known).call(form, 1)()
    assert isinstance(body, bytes)
    answer = FORMS[form].read(body, manifest)
    assert answer.shape == (1, 10)
    if not FORMS[form].takes_files:
        np.testing.assert_allclose(answer, known[1][MANY][:1], rtol=0, atol=1e-5)


def test_other_answers_are_noticed_in_every_form(
    running_service: Service,
    manifest: Manifest,
    known: tuple[NDArray[np.uint8], AnswersByBatch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures, answers = known
    turned = {batch: rows[:, ::-1] for batch, rows in answers.items()}
    with connected(running_service.port) as connection:
        for form in ("binary", "json"):
            with pytest.raises(RuntimeFailure, match=f"other answers for keras_cnn-onnx than its runtime .{form}"):
                CheckedCalls(connection, manifest, pictures, turned).call(form, 1)
        assert manifest.image is not None
        other = image_to_batch(file_of(pictures[1], "PNG"), manifest.image)
        monkeypatch.setattr(http_calls, "image_to_batch", lambda *_: other)
        with pytest.raises(RuntimeFailure, match="other answers"):
            CheckedCalls(connection, manifest, pictures, answers).call("png", 1)


def test_only_a_model_that_classifies_pictures_takes_files(manifest: Manifest) -> None:
    assert list(forms_of(manifest)) == list(FORMS)
    assert list(forms_of(replace(manifest, image=None))) == ["binary", "json"]


@pytest.mark.parametrize(("name", "form"), FORMS.items())
def test_the_request_decides_which_time_counts_and_how_it_is_called(name: str, form: Form) -> None:
    targets = targets_for(name, report_of(ONNX, TFLITE))
    server = targets["server"]
    assert (server.time, server.time_label) == (
        form.figure,
        f"the median time of a request with one picture as {form.title}",
    )
    assert {**targets, "server": TARGETS["server"]} == TARGETS


def without(figure: str, reason: str, subject: tuple[Artifact, Row]) -> tuple[Artifact, Row]:
    """An artifact and its row, of which this figure is missing."""
    artifact, its_row = subject
    if figure in artifact.figures:
        return replace(artifact, figures={**artifact.figures, figure: Missing(reason)}), its_row
    return artifact, replace(its_row, figures={**its_row.figures, figure: Missing(reason)})


def test_without_labels_agreement_counts_as_accuracy_and_texts_are_timed_without_http() -> None:
    known = [row("m-keras", ms=2, mb=50), row("m-onnx", ms=1, mb=10), row("m-tflite", ms=0.1, mb=1, same=9_900)]
    subjects = [without("http_p50@1", "no pictures", without("accuracy", "no labels", each)) for each in known]
    report = report_of(*subjects)
    report = replace(report, targets=targets_for("binary", report))
    advice = advise(report, "server")
    assert advice.choice == "m-onnx@server", "the fastest gives other answers"
    text = " ".join(sentence.text for sentence in advice.reasons)
    assert "It answers 100.00 % of the 10,000 questions as its source does; the right answers are unknown." in text
    assert "The median time of one row on the runtime alone is 1.00 ms." in text
    assert targets_for("png", report_of(*known))["server"].accuracy == "accuracy"


def test_an_unknown_request_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--request", "fax"])
    assert "invalid choice: 'fax' (choose from" in capsys.readouterr().err


def test_json_has_the_pictures_as_they_are(manifest: Manifest, test_split: Split) -> None:
    head, _, body = FORMS["json"].write(manifest, test_split.images[:2]).partition(b"\r\n\r\n")
    assert f"POST /v1/models/{manifest.name}:predict HTTP/1.1".encode() in head
    assert json.loads(body) == {"instances": test_split.images[:2].tolist()}
