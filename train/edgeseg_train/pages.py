"""Pages from templates with one style, in ``page.html.jinja``; tables and drawings are in ``parts.html.jinja``."""

from __future__ import annotations

import jinja2


def page_template(package: str, name: str) -> jinja2.Template:
    """A template of a package, which extends ``page.html.jinja``; ``percent`` turns a share into text."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, ""), jinja2.PackageLoader("edgeseg_train", "")]),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["percent"] = lambda share: "-" if share is None else f"{100 * share:.1f}"
    return environment.get_template(name)
