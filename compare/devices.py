"""What visitors' devices answered, as rows of the report: the page checks them, and the service keeps the checks."""

from collections.abc import Iterable
from pathlib import Path

from compare.figures import Measured, Missing, exact, once, share
from compare.report import DeviceRow
from contract.device_check import FOLDER, CheckedRow, DeviceCheck, read_checks
from contract.manifest import Manifest


def device_rows(artifacts: Path, manifests: Iterable[Manifest]) -> tuple[DeviceRow, ...]:
    """Every checked row of the devices. A check that is of other artifacts is named and left out."""
    known = {manifest.name: manifest.files for manifest in manifests}
    rows: list[DeviceRow] = []
    for check in read_checks(artifacts / FOLDER, known):
        if isinstance(check, str):
            print(check)
        else:
            rows += [_row(name, row, check) for name, row in check.rows.items()]
    return tuple(rows)


def _row(name: str, row: CheckedRow, check: DeviceCheck) -> DeviceRow:
    missing = Missing(row.error or "It was not measured.")
    agreement: Measured = missing
    if row.questions and not row.error:
        agreement = share(row.questions - len(row.wrong) - len(row.lost), row.questions)
    return DeviceRow(
        row=name,
        artifact=row.artifact,
        device=check.device,
        browser=check.browser,
        made=check.made,
        backend=row.backend,
        wrong=len(row.wrong),
        figures={
            "agreement": agreement,
            "difference": missing if row.difference is None else exact(row.difference, "", row.questions),
            "time": missing if row.ms is None else once(row.ms / 1000, "s"),
        },
    )
