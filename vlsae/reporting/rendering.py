"""From a template and values to a page that runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from vlsae.runs.files import plain


def render(template: str, values: Mapping[str, Any], script: str = "") -> str:
    """Return the page of a template; ``script`` is a file of this package, the only one that may run.

    Every value is escaped; only figures (whose text matplotlib escapes), styles and the script stand as they are.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(part)
    )
    environment.filters["svg"] = lambda figure: Markup(figure.svg)
    environment.filters["json"] = lambda value: Markup(json_for_a_page(value))
    code = part(script) if script else ""
    own = {"css": Markup(part("page.css")), "script": Markup(code), "script_policy": Markup(script_policy(code))}
    return environment.get_template(template).render(**values, **own)


@cache
def part(name: str) -> str:
    """Return a file of this package: a template, the styles, a script."""
    return (resources.files("vlsae.reporting") / name).read_text(encoding="utf-8")


def script_policy(code: str) -> str:
    """Return what a content security policy says of scripts: this one alone, by its SHA-256; none for no code."""
    if not code:
        return "'none'"
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode('utf-8')).digest()).decode('ascii')}'"


def json_for_a_page(value: Any) -> str:
    """Return JSON that may stand inside a script element: no text in it can end the element or open a comment."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
