"""Boxes, arrows and text as an SVG file, as far as the diagrams of models need them."""

from collections.abc import Sequence
from html import escape

__all__ = ["Canvas"]

FONT = "font-family='Helvetica, Arial, sans-serif'"
LINE = 15  # pixels from one line of text to the next
LETTER = 7.0  # average width of a letter in pixels


class Canvas:
    """Shapes at positions in pixels from the top left, drawn in the order that they are added."""

    def __init__(self):
        """Start empty, with width and height 0."""
        self._shapes: list[str] = []
        self.width = 0.0
        self.height = 0.0

    def text(self, x: float, y: float, line: str, *, bold: bool = False, middle: bool = True):
        """Add a line of text with its baseline at `y`, centred at `x` or starting there."""
        weight = " font-weight='bold'" if bold else ""
        anchor = " text-anchor='middle'" if middle else ""
        self._shapes.append(
            f"<text x='{x:.1f}' y='{y:.1f}'{anchor}{weight}>{escape(line, quote=False)}</text>"
        )
        self._reach(x + LETTER * len(line) * (0.5 if middle else 1.0), y + 4)

    def box(
        self, x: float, y: float, width: float, height: float, lines: Sequence[str], fill: str
    ) -> None:
        """Add a box with centred lines of text, the first of them bold."""
        self._shapes.append(
            f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' rx='4' "
            f"fill='{fill}' stroke='#444'/>"
        )
        self._reach(x + width, y + height)
        top = y + height / 2 - LINE * len(lines) / 2 + 11
        for i, line in enumerate(lines):
            self.text(x + width / 2, top + LINE * i, line, bold=not i)

    def circle(self, x: float, y: float, radius: float, line: str) -> None:
        """Add a circle around (x, y) with a short text in it."""
        self._shapes.append(
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius:.1f}' fill='white' stroke='#444'/>"
        )
        self.text(x, y + 4, line, bold=True)

    def arrow(self, *points: tuple[float, float], head: bool = True) -> None:
        """Add a line through points, with an arrow head at its end if `head`."""
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        marker = " marker-end='url(#head)'" if head else ""
        self._shapes.append(f"<polyline points='{drawn}' fill='none' stroke='#444'{marker}/>")
        for x, y in points:
            self._reach(x, y)

    def place(self, other: "Canvas", x: float, y: float) -> None:
        """Add another canvas with its top left at (x, y)."""
        shapes = "\n".join(other._shapes)
        self._shapes.append(f"<g transform='translate({x:.1f} {y:.1f})'>\n{shapes}\n</g>")
        self._reach(x + other.width, y + other.height)

    def svg(self, margin: float = 16) -> str:
        """The text of the SVG file."""
        width, height = self.width + 2 * margin, self.height + 2 * margin
        shapes = "\n".join(self._shapes)
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}' "
            f"viewBox='0 0 {width:.0f} {height:.0f}' font-size='12' {FONT}>\n"
            "<defs><marker id='head' viewBox='0 0 8 8' refX='8' refY='4' markerWidth='7' "
            "markerHeight='7' orient='auto'><path d='M0,0 L8,4 L0,8 z' fill='#444'/></marker>"
            "</defs>\n<rect width='100%' height='100%' fill='white'/>\n"
            f"<g transform='translate({margin:.1f} {margin:.1f})'>\n{shapes}\n</g>\n</svg>\n"
        )

    def _reach(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)
