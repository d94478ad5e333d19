"""Counts how the package is built: lines, files, links of chains, words.

usage: python tools/house.py [ROOT …]

Lines are all lines of `.py` files; an importer is another file of the package, lazy
imports included, but for a room's `__init__.py`, which only gives names away.
"""

import ast
import pathlib
import re
import sys

PACKAGE = "align_keras"
SHORT = 60  # Lines; a shorter file is a sibling of others or a link of a chain.
WORDS = ("picture", "own")


def modules_of(root):
    """Returns the package's files by dotted name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path, modules):
    """Returns the modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in members]
        else:
            names = []
        found.update(name for name in names if name in modules)
    return found


def longest_chain(graph):
    """Returns the longest way of imports, a list of modules."""
    known = {}

    def chain(name):
        if name not in known:
            known[name] = [name]  # Against a circle, which tests refuse.
            ways = [chain(target) for target in graph[name] if target != name]
            known[name] = [name, *max(ways, key=len, default=[])]
        return known[name]

    return max(map(chain, sorted(graph)), key=len, default=[])


def figures(root):
    """Counts the package in a folder: dict, name of a figure → int."""
    modules = modules_of(root)
    texts = {name: path.read_text("utf-8") for name, path in modules.items()}
    lines = {name: text.count("\n") for name, text in texts.items()}
    graph = {name: imports_of(path, modules) for name, path in modules.items()}
    importers = dict.fromkeys(modules, 0)
    for name, targets in graph.items():
        if modules[name].name != "__init__.py":
            for target in targets - {name}:
                importers[target] += 1
    files = [name for name, path in modules.items() if path.name != "__init__.py"]
    counted = {
        "lines": sum(lines.values()),
        "files": len(modules),
        f"files under {SHORT} lines": sum(lines[name] < SHORT for name in files),
        "files with at most one importer": sum(importers[name] < 2 for name in files),
        "longest chain of imports": len(longest_chain(graph)),
    }
    for word in WORDS:
        pattern = re.compile(rf"\b{word}s?\b", re.IGNORECASE)
        counted[f"“{word}”"] = sum(len(pattern.findall(t)) for t in texts.values())
    for name, count in sorted(rooms(lines).items()):
        counted[f"lines of {name}"] = count
    return counted


def rooms(lines):
    """Returns the lines of each room of the package."""
    found = {}
    for name, count in lines.items():
        room = name.split(".")[1] if "." in name else "__init__"
        found[room] = found.get(room, 0) + count
    return found


def main(argv):
    """Prints the figures of one root, or of several side by side."""
    roots = [pathlib.Path(item) for item in argv] or [pathlib.Path(__file__).parents[1]]
    for root in roots:
        if not (root / PACKAGE).is_dir():
            sys.exit(f"ROOT must hold {PACKAGE}/, received {root}; give a checkout.")
    columns = [figures(root) for root in roots]
    names = dict.fromkeys(name for column in columns for name in column)
    print("|  | " + " | ".join(str(root) for root in roots) + " |")
    print("|---" * (len(roots) + 1) + "|")
    for name in names:
        print(
            f"| {name} | " + " | ".join(f"{c.get(name, 0):,}" for c in columns) + " |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
