"""Draws time and memory over the size of a model, as SVG."""
import collections
import math
from xml.sax.saxutils import escape

Point = collections.namedtuple("Point", "label gigabytes seconds rss")

COLOURS = ("#1f5fa8", "#c2410c")
WIDTH, HEIGHT = 460, 330  # of one panel's plot
LEFT, TOP, GAP = 70, 80, 110


def slope(points):
    """of the line through the origin, by least squares"""
    return sum(p.gigabytes * p.seconds for p in points) / sum(p.gigabytes ** 2 for p in points)


def steps(largest):
    """Round numbers from 0 to beyond the largest."""
    rough = largest / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough)
    return [i * step for i in range(math.floor(largest / step) + 2)]


def text(x, y, words, anchor="middle", size=13, colour="#222222", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{extra}>{escape(words)}</text>'


class Panel:
    """Axes from 0; x and y turn values into places on the page."""

    def __init__(self, left, title, unit, largest_x, largest_y):
        self.left, self.title, self.unit = left, title, unit
        self.xs, self.ys = steps(largest_x), steps(largest_y)

    def x(self, value):
        return self.left + WIDTH * value / self.xs[-1]

    def y(self, value):
        return TOP + HEIGHT * (1 - value / self.ys[-1])

    def axes(self):
        bottom = TOP + HEIGHT
        yield text(self.left + WIDTH / 2, TOP - 42, self.title, size=15, extra=' font-weight="bold"')
        for value in self.ys:
            yield f'<line x1="{self.left}" y1="{self.y(value):.1f}" x2="{self.left + WIDTH}" y2="{self.y(value):.1f}" stroke="#dddddd"/>'
            yield text(self.left - 8, self.y(value) + 4, f"{value:g}", "end")
        for value in self.xs:
            yield f'<line x1="{self.x(value):.1f}" y1="{bottom}" x2="{self.x(value):.1f}" y2="{bottom + 5}" stroke="#444444"/>'
            yield text(self.x(value), bottom + 20, f"{value:g}")
        yield f'<path d="M{self.left} {TOP} V{bottom} H{self.left + WIDTH}" fill="none" stroke="#444444"/>'
        yield text(self.left + WIDTH / 2, bottom + 42, "size of the model, GB")
        yield text(self.left - 50, TOP + HEIGHT / 2, self.unit, extra=f' transform="rotate(-90 {self.left - 50} {TOP + HEIGHT / 2})"')

    def key(self, names):
        for i, name in enumerate(names):
            x, y = self.left + 8 + i * WIDTH / 2, TOP - 16
            yield f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{COLOURS[i]}"/>'
            yield text(x + 12, y, name, "start")

    def points(self, points, value, colour):
        for p in points:
            yield f'<circle cx="{self.x(p.gigabytes):.1f}" cy="{self.y(value(p)):.1f}" r="5" fill="{colour}"><title>{escape(p.label)}: {value(p):.2f}</title></circle>'

    def names(self, points):
        """The models' names over the axis; a name stands above those of its near neighbours to the right."""
        right = math.inf
        level = 0
        for p in sorted(points, key=lambda p: -p.gigabytes):
            x = self.x(p.gigabytes)
            level = level + 1 if right - x < 70 else 0
            right = x
            y = TOP + HEIGHT - 10 - 16 * level
            yield text(x + 7, y, p.label, "start", 12, "#555555")
            yield f'<line x1="{x:.1f}" y1="{TOP + HEIGHT}" x2="{x:.1f}" y2="{y - 8:.1f}" stroke="#999999" stroke-dasharray="2 2"/>'


def draw(path, series):
    """series: name -> list of Point"""
    every = [p for points in series.values() for p in points]
    widest = max(p.gigabytes for p in every)
    time = Panel(LEFT, "Time", "s", widest, max(p.seconds for p in every))
    memory = Panel(LEFT + WIDTH + GAP, "Peak memory", "MiB", widest, max(p.rss for p in every))
    parts = [*time.axes(), *memory.axes()]
    for (name, points), colour in zip(series.items(), COLOURS):
        end = min(time.xs[-1], time.ys[-1] / slope(points))
        parts.append(f'<line x1="{time.x(0):.1f}" y1="{time.y(0):.1f}" x2="{time.x(end):.1f}" y2="{time.y(slope(points) * end):.1f}" stroke="{colour}" stroke-width="1.5"/>')
        parts += [*time.points(points, lambda p: p.seconds, colour), *memory.points(points, lambda p: p.rss, colour)]
    parts += time.key([f"{name}: {slope(points):.2f} s/GB, line through 0" for name, points in series.items()])
    parts += memory.key(series)
    parts += memory.names(next(iter(series.values())))
    width, height = LEFT + 2 * WIDTH + GAP + 40, TOP + HEIGHT + 60
    with open(path, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif">\n'
                f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n")
