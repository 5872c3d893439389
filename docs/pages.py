"""Hooks of mkdocs: the pages that are made from the registry and from what lies outside of docs/.

methods/NAME.md of what a method declares and of its distribution's README, spaces/NAME.md of what a
space answers, reference/DOOR.md of the docstrings, distributions/ and results/ as they are.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import nasplug
from nasplug.kernel.registry import registry

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("Algorithm", "Metrics", "Command", "Measured", "Deviations")  # of a README
MOST = 40  # decisions of a space that are listed
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)]*)?\)")
SCRATCH = TemporaryDirectory(prefix="tutorials-")
DOORS = ("nasplug", "nasplug.nn", "nasplug.spaces", "nasplug.analysis", "nasplug.testing")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation, with methods, spaces, and every page that it does not name as a guide."""
    named = str(config.nav)
    found = {
        "Methods": [f"methods/{name}.md" for name in sorted(registry().methods)],
        "Spaces": [f"spaces/{name}.md" for name in sorted(registry().spaces)],
        "Guides": [file.name for file in sorted((ROOT / "docs").glob("*.md"))],
    }
    for entry in config.nav or []:
        for title, pages in found.items():
            if isinstance(entry, dict) and title in entry:
                entry[title] += [page for page in pages if f"'{page}'" not in named]
    return config


def on_pre_build(config: MkDocsConfig) -> None:
    """Tutorials are executed in a folder where they may leave what they write."""
    os.chdir(SCRATCH.name)
    os.environ["NASPLUG_RUNS"] = SCRATCH.name


def on_files(files: Files, config: MkDocsConfig) -> Files:
    made = {**_methods(), **_spaces(), **dict(_references()), **dict(_elsewhere())}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    for file in (ROOT / "benchmarks" / "results").iterdir():
        if file.suffix != ".md":
            path = f"results/{file.name}"
            files.append(File.generated(config, path, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository lead to their page, if they have one."""
    here = PurePosixPath(page.file.src_uri)
    home = _home(here)

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target:
            return match[0]
        found = _site_path(os.path.normpath(home.parent / target))
        if found is None:
            return text.strip("[]")
        return f"{text}({os.path.relpath(found, here.parent)}{anchor})"

    return LINK.sub(replaced, markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Links of notebooks, which mkdocs does not see: to the page that a file becomes."""
    if not page.file.src_uri.startswith("tutorials/"):
        return html
    return re.sub(r'href="\.\./([\w/-]+)\.md"', r'href="../../\1/"', html)


def on_post_build(config: MkDocsConfig) -> None:
    """What pages load or link to on the site is there, and nothing is loaded from elsewhere."""
    site = Path(config.site_dir)
    lost = []
    for page in site.rglob("*.html"):
        for tag, target in re.findall(r'<(\w+)[^>]*?\s(?:href|src)="([^"#?]+)', page.read_text()):
            if target.startswith("data:"):  # a picture in the page itself
                continue
            if "://" in target or target.startswith(("mailto:", "//")):
                if tag != "a":
                    lost.append(f"{page.relative_to(site)} loads {target}")
                continue
            folder = site if target.startswith("/") else page.parent
            found = folder / unquote(target).lstrip("/")
            if not (found / "index.html" if found.is_dir() else found).exists():
                lost.append(f"{page.relative_to(site)} leads to {target}")
    if lost:
        raise PluginError("; ".join(lost))


def _home(src: PurePosixPath) -> PurePosixPath:
    """Where the text of a page lies in the repository."""
    if src.parts[0] == "distributions":
        return PurePosixPath("plugins", src.stem, "README.md")
    if src.parts[0] == "results":
        return PurePosixPath("benchmarks", *src.parts)
    if src.parts[0] == "methods" and src.stem in registry().methods:
        return PurePosixPath("plugins", registry().methods[src.stem].plugin.name, "README.md")
    return PurePosixPath("docs", src)


def _site_path(path: str) -> str | None:
    """The page of a file of the repository; None if it has none."""
    parts = PurePosixPath(path).parts
    if parts[:1] == ("docs",):
        return "/".join(parts[1:])
    if parts[:1] == ("plugins",) and len(parts) in (2, 3) and parts[-1] in (parts[1], "README.md"):
        return f"distributions/{parts[1]}.md"
    if parts[:2] == ("benchmarks", "results") and len(parts) == 3:
        return f"results/{parts[2]}"
    return None


def _elsewhere() -> Iterator[tuple[str, str]]:
    """Pages of the repository that are on the site as they are."""
    for file in ROOT.glob("plugins/*/README.md"):
        yield f"distributions/{file.parent.name}.md", file.read_text()
    for file in (ROOT / "benchmarks" / "results").glob("*.md"):
        yield f"results/{file.name}", file.read_text()


def _references() -> Iterator[tuple[str, str]]:
    """A page per public module, of its docstrings."""
    for door in DOORS:
        module = __import__(door, fromlist=["x"])
        names = [name for name in module.__all__ if inspect.getdoc(getattr(module, name, None))]
        documented = [
            f"::: {getattr(module, name).__module__}.{name}"
            for name in names
            if getattr(getattr(module, name), "__module__", "").startswith("nasplug")
        ]
        yield f"reference/{door}.md", "\n\n".join([f"# `{door}`: every name", *documented])


# ---- methods


def _methods() -> dict[str, str]:
    """{page: Markdown}, an overview and a page per installed method."""
    names = sorted(registry().methods)
    rows = [
        f"| [`{name}`]({name}.md) | {registry().methods[name].doc} | "
        f"[{registry().methods[name].plugin.name}]"
        f"(../distributions/{registry().methods[name].plugin.name}.md) |"
        for name in names
    ]
    head = "# Methods\n\n| method | what it does | distribution |\n| --- | --- | --- |\n"
    pages = {f"methods/{name}.md": method_page(name) for name in names}
    # Its links are of the site already, so they must not be taken for those of the repository.
    return {**pages, "methods/index.md": head + "\n".join(rows) + "\n"}


def method_page(name: str) -> str:
    """Under the same headings for every method."""
    entry = registry().methods[name]
    cls = registry().get("method", name)
    readme = sections(ROOT / "plugins" / entry.plugin.name / "README.md")
    module = sys.modules[cls.__module__]
    idea = "\n\n".join(filter(None, [inspect.getdoc(cls), inspect.getdoc(module)]))
    paper = f"\n\nPaper: {cls.paper}" if getattr(cls, "paper", "") else ""
    code = inspect.getsource(cls)
    parts = [
        f"# `{name}`\n\nOf [{entry.plugin.name}](README.md).{paper}",
        f"## Idea\n\n{idea}",
        f"## Algorithm\n\n{_beside(readme['Algorithm'], code)}",
        f"## Hyperparameters\n\n{_hyperparameters(cls)}\n\n{readme.get('Hyperparameters', '')}",
        *(f"## {title}\n\n{readme[title]}" for title in SECTIONS[1:]),
    ]
    return "\n\n".join(parts) + "\n"


def _beside(text: str, code: str) -> str:
    """A text beside lines of code, where the screen is wide enough."""
    return (
        f'<div class="beside" markdown>\n<div markdown>\n\n{text}\n\n</div>\n'
        f"<div markdown>\n\n```python\n{code}```\n\n</div>\n</div>"
    )


def sections(readme: Path) -> dict[str, str]:
    """{heading: text} of the parts of a README."""
    _, *parts = re.split(r"^## ", readme.read_text(), flags=re.MULTILINE)
    return {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}


def _hyperparameters(cls: Any) -> str:
    """What a method declares, as a table."""
    rows = [
        f"| `{one.name}` | {type(one).__name__.lower()} | {one.default} | "
        f"{one.bounds.replace('|', 'or')} | {one.doc.replace('|', '&#124;')}"
        f"{f' (if {one.when})' if one.when else ''} |"
        for one in cls.declared().values()
    ]
    head = "| name | type | default | bounds | meaning |\n| --- | --- | --- | --- | --- |\n"
    return head + "\n".join(rows)


# ---- spaces


def _spaces() -> dict[str, str]:
    names = sorted(registry().spaces)
    rows = []
    for name in names:
        space = nasplug.space(name)
        doc = registry().spaces[name].doc
        rows.append(f"| [`{name}`]({name}.md) | {space.count:.4g} | {space.d} | {doc} |")
    head = "# Spaces\n\n| space | archs | decisions | |\n| --- | --- | --- | --- |\n"
    pages = {f"spaces/{name}.md": space_page(name) for name in names}
    return {**pages, "spaces/index.md": head + "\n".join(rows) + "\n"}


def space_page(name: str) -> str:
    """What a space answers: its decisions, its size, what it can do, what it can be searched on."""
    space: Any = nasplug.space(name)
    entry = registry().spaces[name]
    problems = [row for row in nasplug.problems() if row["problem"].rpartition("/")[0] == name]
    able = {
        "networks": type(space).build is not nasplug.Space.build,
        "a supernet": type(space).supernet is not nasplug.Space.supernet,
        "pictures": hasattr(space, "draw"),
    }  # fmt: skip
    sizes = getattr(space, "sizes", {})
    decisions = [
        f"| `{decision}` | {', '.join(f'`{choice}`' for choice in choices)} |"
        for decision, choices in list(space.decisions.items())[:MOST]
    ]
    more = f"\n\n... and {space.d - MOST} more." if space.d > MOST else ""
    known = "\n".join(
        f"| `{row['problem']}` | {', '.join(row['evaluators'])} |" for row in problems
    )
    has = ", ".join(word for word, it in able.items() if it) or "archs alone"
    arch = space.to_str(space.sample(1, seed=0)[0])
    return "\n\n".join([
        f"# `{name}`\n\n{entry.doc}",
        f"## Source\n\n{inspect.getdoc(sys.modules[type(space).__module__]) or ''}",
        f"## Size\n\n{space.count:,} archs of {space.d} decisions, such as\n\n```text\n{arch}\n```",
        "## Decisions\n\n| decision | choices |\n| --- | --- |\n" + "\n".join(decisions) + more,
        "## Presets\n\n" + (
            f"`{name}:{','.join(f'{k}={v}' for k, v in sizes.items())}` is what `{name}` is; "
            "any of these numbers may be given." if sizes else "It has no size of its own."
        ),
        f"## What it has\n\n{has.capitalize()}.",
        "## Data\n\n" + (
            f"| problem | scored by |\n| --- | --- |\n{known}" if known
            else "No problem of its own where this was made; with a function or data of yours."
        ),
    ]) + "\n"  # fmt: skip
