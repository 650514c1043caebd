"""What a run was made from, drawn: every run a box, an arrow from what was read to what was made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlsae.reporting.figures import COLORS, Figure, canvas
from vlsae.reporting.lineage import Ancestor

#: Characters of a line within a box.
LONGEST_LINE = 26


def lineage_graph(manifest: Mapping[str, Any], ancestors: Sequence[Ancestor]) -> Figure | None:
    """Return the figure of a run's lineage, oldest runs left; None for a run that reads from no other."""
    if not ancestors:
        return None
    run = Ancestor(str(manifest["run_id"]), None, None, "this run", list(ancestors))
    columns, edges = _columns(run)
    places = _places(columns)
    height = max(len(column) for column in columns)
    with canvas("lineage", 2.5 * len(columns) + 0.4, 0.85 * height + 0.3) as (axes, drawn):
        axes.set_axis_off()
        axes.set_xlim(-0.6, len(columns) - 0.4)
        axes.set_ylim(-0.6, height - 0.4)
        boxes = {one.run_id: _box(axes, one, *places[one.run_id], one is run) for column in columns for one in column}
        axes.figure.draw_without_rendering()  # only then the boxes have their sizes
        for parent, child in edges:
            _arrow(axes, boxes[parent], boxes[child])
    rows = [[parent, child] for parent, child in edges]
    words = "; ".join(f"{parent} was read by {child}" for parent, child in edges)
    return Figure("lineage", "Lineage", drawn, ("read", "by"), rows, words)


def _columns(run: Ancestor) -> tuple[list[list[Ancestor]], list[tuple[str, str]]]:
    """Return the runs in columns, oldest first, each where its longest way to the run puts it; and who read whom."""
    depth: dict[str, int] = {}
    known: dict[str, Ancestor] = {}
    edges: dict[tuple[str, str], None] = {}

    def visit(one: Ancestor, distance: int) -> None:
        known.setdefault(one.run_id, one)
        depth[one.run_id] = max(distance, depth.get(one.run_id, 0))
        for parent in one.parents:
            edges[parent.run_id, one.run_id] = None
            visit(parent, distance + 1)

    visit(run, 0)
    deepest = max(depth.values())
    columns = [[one for name, one in known.items() if depth[name] == deepest - place] for place in range(deepest + 1)]
    return columns, list(edges)


def _places(columns: Sequence[Sequence[Ancestor]]) -> dict[str, tuple[float, float]]:
    height = max(len(column) for column in columns)
    return {
        one.run_id: (float(x), (height - len(column)) / 2 + len(column) - 1 - y)
        for x, column in enumerate(columns)
        for y, one in enumerate(column)
    }


def _box(axes: Any, one: Ancestor, x: float, y: float, is_run: bool) -> Any:
    """Return the text of a run's box."""
    stage, name, version = (*one.run_id.split("/"), "", "")[:3]
    short = name if len(name) <= LONGEST_LINE else name[: LONGEST_LINE - 1] + "…"
    state = "" if one.status in ("done", "this run") else f" ({one.status})"
    style = {"boxstyle": "round,pad=0.45", "facecolor": "none", "edgecolor": COLORS[1 if is_run else 0]}
    text = f"{stage} {version}{state}\n{short}"
    return axes.text(x, y, text, ha="center", va="center", fontsize=8, bbox={**style, "linewidth": 1.6}, url=one.link)


def _arrow(axes: Any, parent: Any, child: Any) -> None:
    """Draw an arrow from box to box, in a bow over the columns between them."""
    (x, y), (to_x, to_y) = parent.get_position(), child.get_position()
    bow = 0.0 if to_x - x < 1.5 else -0.32 / (to_x - x)  # as high over any number of columns
    arrow = {"arrowstyle": "->", "color": COLORS[0], "shrinkA": 3, "shrinkB": 3, "linewidth": 1.4}
    boxes = {"patchA": parent.get_bbox_patch(), "patchB": child.get_bbox_patch()}
    style = {**arrow, **boxes, "connectionstyle": f"arc3,rad={bow}"}
    axes.annotate("", (to_x, to_y), (x, y), arrowprops=style)
