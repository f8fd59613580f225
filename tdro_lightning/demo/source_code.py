"""What source code says beside its docstrings: bodies, error messages, comments, options."""

import ast
from collections.abc import Iterator, Sequence
from textwrap import dedent

from tdro_lightning.demo.sources import Module

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """(name below the module, node) of classes, functions and methods, not of what they define."""
    for node in body:
        if isinstance(node, Definition):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node.body, f"{prefix}{node.name}.")


def code(module: Module, node: Function, without: ast.stmt | None = None) -> str:
    """Source of a function without decorators, docstring and the statement `without`, if any."""
    removed = [without] if without else []
    if ast.get_docstring(node, clean=False) is not None:
        removed.append(node.body[0])
    gone = {n for s in removed for n in range(s.lineno, (s.end_lineno or s.lineno) + 1)}
    numbers = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    if node.lineno in gone:
        return ""
    return dedent("\n".join(module.lines[n - 1] for n in numbers if n not in gone))


def raised(node: Function) -> Iterator[tuple[ast.Raise, str]]:
    """Each `raise` of a function with its exception and message; `...` stands for values in it."""
    for child in ast.walk(node):
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and child.exc.args:
            message = _message(child.exc.args[0])
            if len(message) >= 20:
                yield child, f"{ast.unparse(child.exc.func)}: {message}"


def options(module: Module) -> Iterator[tuple[int, str, str]]:
    """(line, names, help) of the command-line options a module adds to a parser."""
    for node in ast.walk(module.tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in ("add_argument", "add_option"):
            continue
        described = next((_message(k.value) for k in node.keywords if k.arg == "help"), "")
        names = " ".join(_message(argument) for argument in node.args).strip()
        if names:
            yield node.lineno, names, " ".join(described.split())


def comments(module: Module) -> Iterator[tuple[int, str, str]]:
    """(line, comment on one line, code below it without comments) of whole-line comments."""
    inside, lines = _string_lines(module.tree), module.lines
    number = 0
    while number < len(lines):
        start = number
        while number < len(lines) and number + 1 not in inside and _is_comment(lines[number]):
            number += 1
        if number == start:
            number += 1
            continue
        comment = " ".join(line.strip().lstrip("#").strip() for line in lines[start:number])
        block = _block(lines[number : number + 12], len(lines[start]) - len(lines[start].lstrip()))
        if len(comment) >= 30 and len(block) >= 2:
            yield start + 1, comment, dedent("\n".join(block))


def _string_lines(tree: ast.Module) -> set[int]:
    """Numbers of the lines taken by string literals of several lines: no comment starts there."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno != node.lineno
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def _block(lines: Sequence[str], indent: int) -> list[str]:
    """The code up to an empty line or a smaller indent, without comment lines."""
    kept = []
    for line in lines:
        if not line.strip() or len(line) - len(line.lstrip()) < indent:
            break
        if not _is_comment(line):
            kept.append(line)
    return kept


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _message(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_message(part) or "..." for part in node.values)
    if isinstance(node, ast.BinOp):
        return _message(node.left) + (_message(node.right) if isinstance(node.op, ast.Add) else "")
    return ""
