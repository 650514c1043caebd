"""What a stage found, from numbers to files, page and terminal."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from run_factory import new_run

from vlsae.commands.announce import announce
from vlsae.errors import UserError
from vlsae.reporting.plots import draw
from vlsae.reporting.privacy import Privacy
from vlsae.reporting.result_section import result_section
from vlsae.representations.thumbnails import thumbnails
from vlsae.result import HeatMap, Measure, Plot, Result, Series, Table, merge
from vlsae.runs.results import read_table, write_table
from vlsae.stages.outcome import write_result

NASTY = "<script>alert(1)</script> $x_1$ [bold]"


def found() -> Result:
    lines = Series("colour", [1, 2, 3], [0.5, None, 0.9], [0.4, None, 0.8], [0.6, None, 1.0])
    plots = [
        Plot("layers", "Accuracy by layer", "layer", "accuracy", [lines], reference={"chance": 0.5}),
        Plot("kinds", "Kinds", "kind", "share", [Series("a", ["x", NASTY], [1.0, 2.0], panel="one")], kind="bars"),
        Plot("cloud", "Cloud", "first", "second", [Series("b", [0.0, 1.0], [1.0, 0.0], panel="two")], kind="scatter"),
        HeatMap("grid", "Grid", "to", "from", ["a", "b"], ["c"], [[1.0, math.nan]]),
    ]
    table = Table("scores", "Scores", ["name", "score", "mixed"], [[NASTY, 0.25, 1], ["none", None, "one"]], shown=True)
    metrics = {"accuracy": Measure(0.9, "share", 0.8, 1.0), "other": Measure(math.nan)}
    return Result(metrics, [table], plots, [f"A note: {NASTY}"], ["accuracy"])


def test_a_result_lies_in_the_run_and_on_the_page(tmp_path, figures_drawn, capsys):
    run = new_run(tmp_path)
    write_result(run, found())
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["metrics"]["accuracy"] == {"value": 0.9, "unit": "share", "low": 0.8, "high": 1.0}
    assert summary["metrics"]["other"]["value"] is None
    with (run.path / "tables" / "scores.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["name", "score", "mixed"], [NASTY, "0.25", "1"], ["none", "", "one"]]
    assert read_table(run.path / "tables", "scores") == (
        ["name", "score", "mixed"],
        [[NASTY, 0.25, "1"], ["none", None, "one"]],
    )
    for name in ("layers", "kinds", "cloud", "grid"):
        assert (run.path / "figures" / f"{name}.svg").is_file()
    rows = (run.path / "figures" / "layers.csv").read_text().splitlines()
    assert rows[0] == "panel,series,x,y,low,high"
    assert rows[3] == ",colour,3,0.9,0.8,1.0"
    page = (run.path / "report.html").read_text()
    assert "<script>" not in page
    assert "Accuracy by layer" in page
    assert "A note: &lt;script&gt;" in page
    run.finish()
    announce(run)
    printed = capsys.readouterr().out
    assert NASTY in printed
    assert "accuracy" in printed
    assert "1 more metrics" in printed


def test_pictures_stand_before_the_rows_unless_the_page_shows_none(tmp_path):
    small = thumbnails(np.zeros((2, 8, 8, 3), np.uint8))
    run = new_run(tmp_path)
    table = Table("seen", "Seen", ["name"], [["a"], ["b"], ["c"]], pictures=[small[0], None, small[1]])
    write_result(run, Result({}, [table]))
    assert (run.path / "pictures" / "seen-0003.png").read_bytes() == small[1]
    assert sorted(file.name for file in (run.path / "pictures").iterdir()) == ["seen-0001.png", "seen-0003.png"]
    page = (run.path / "report.html").read_text()
    assert page.count('class="beside"') == 2
    hidden = result_section(run.path, Privacy(media=False))
    assert hidden is not None
    assert hidden.tables[0].pictures == []
    (tmp_path / "own.png").write_bytes(small[0])
    named = (run.path / "result.json").read_text().replace("seen-0001.png", str(tmp_path / "own.png"))
    (run.path / "result.json").write_text(named)
    shown = result_section(run.path, Privacy())
    assert shown is not None
    assert [one is not None for one in shown.tables[0].pictures] == [False, False, True]
    with pytest.raises(ValueError, match="1 pictures for 2 rows"):
        Table("seen", "Seen", ["name"], [["a"], ["b"]], pictures=[None])


def test_notes_of_a_redacted_page_name_no_path(tmp_path):
    run = new_run(tmp_path)
    write_result(run, Result({}, notes=["Raised: the direction /somewhere/red.npy at vision.6."]))
    shown, redacted = result_section(run.path, Privacy()), result_section(run.path, Privacy(redact=True))
    assert shown is not None
    assert redacted is not None
    assert "/somewhere/red.npy" in shown.notes[0]
    assert redacted.notes == ["Raised: the direction [path] at vision.6."]


def test_a_plot_of_many_panels_takes_the_whole_width():
    def plot(panels: int) -> dict:
        series = [asdict(Series("a", [1, 2], [0.1, 0.2], panel=str(number))) for number in range(panels)]
        return {**asdict(Plot("p", "P", "x", "y", [])), "series": series}

    assert draw(plot(5)).wide
    assert not draw(plot(4)).wide


def test_results_merge_in_order_and_the_later_number_counts():
    second = Result({"accuracy": Measure(0.1)}, notes=["another"], headline=["accuracy", "other"])
    merged = merge(found(), second)
    assert merged.metrics["accuracy"].value == 0.1
    assert len(merged.plots) == 4
    assert merged.headline == ("accuracy", "other")
    assert len(merged.notes) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Table("t", "T", ["a"], [[1, 2]]), "row 0 has 2 cells for 1 columns"),
        (lambda: Series("s", [1, 2], [1.0]), "must agree"),
        (lambda: Plot("p", "P", "x", "y", [], kind="pie"), "kind is 'pie'"),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_table_that_is_gone_is_named(tmp_path):
    write_table(tmp_path, "gone", ["a"], [[1]])
    (tmp_path / "gone.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"gone\.parquet cannot be read"):
        read_table(tmp_path, "gone")
